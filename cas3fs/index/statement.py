# SPDX-License-Identifier: GPL-3.0-or-later
"""How SQL is written and run: a statement is a SQLAlchemy Core expression, compiled once, and run as text.

A statement stands in the class whose method runs it, as a lambda of its parameters; calls give their values in the same
order::

    class Namespace:
        _child = Statement(
            lambda parent, name: select(dentries.c.id, dentries.c.inode).where(
                dentries.c.parent == parent, dentries.c.name == name
            )
        )

        def __init__(self, database: Database) -> None:
            self._database = database

        def child(self, parent: int, name: bytes) -> Any:
            return self._child.one(parent, name)

At first use SQLAlchemy compiles it for SQLite (0.1 to 0.5 ms), once in the life of the process; each object then has it
with a cursor of its own on its `_database`. SQLAlchemy's own execution would cost 11 to 14 microseconds a statement;
the text on a cursor costs what sqlite3 itself costs: a row by its key 2.1 to 4.3 microseconds, Python's part included,
an insert 4.

Constants become part of the text, so every ``?`` is one of the parameters. Python deprecates numbered ones with values
by position; so where SQLAlchemy puts the parameters in another order than the lambda, or one of them twice, the values
are put in their places (0.1 microseconds).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from operator import itemgetter
from typing import Any, Final, Protocol, Self, overload

from sqlalchemy import BindParameter, Executable, bindparam
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.ddl import BaseDDLElement
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.selectable import Join

from cas3fs.index.sqlite import FAULTS, Database

_PREFIX: Final = "p_"  # SQLAlchemy reserves the names of columns in INSERT and UPDATE

Row = tuple[Any, ...]
Arrange = Callable[[Sequence[Any]], Any]


class HasDatabase(Protocol):
    """An object whose class has statements: they run on its database."""

    _database: Database


class Statement:
    """A statement, and its text once it was needed. As an attribute of a class it is a `BoundStatement` in each object.

    Args:
        build: makes the expression of its parameters.
        parameters: their names, where the lambda does not name them one by one.
    """

    def __init__(self, build: Callable[..., Executable], parameters: Sequence[str] = ()) -> None:
        self._build = build
        code = build.__code__
        self.parameters = tuple(parameters) or code.co_varnames[: code.co_argcount]
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, holder: None, owner: type) -> Self: ...
    @overload
    def __get__(self, holder: HasDatabase, owner: type) -> "BoundStatement": ...
    def __get__(self, holder: HasDatabase | None, owner: type) -> "Self | BoundStatement":
        if holder is None:
            return self
        bound = self.on(holder._database)
        holder.__dict__[self._name] = bound  # found there from now on, before this
        return bound

    def on(self, database: Database) -> "BoundStatement":
        """The statement, ready to run on that database."""
        text, arrange = self._compiled
        return BoundStatement(text, arrange, database)

    @property
    def text(self) -> str:
        """SQL for SQLite in one line, with parameters by position."""
        return self._compiled[0]

    @cached_property
    def _compiled(self) -> tuple[str, Arrange | None]:
        """The text, and what puts the values of a call in the order of its parameters; None where they are in it.

        Raises:
            ValueError: the expression does not use just the parameters.
        """
        names = [_PREFIX + name for name in self.parameters]
        expression = self._build(*map(bindparam, names))
        assert isinstance(expression, ClauseElement)
        compiled = expression.compile(dialect=_dialect())
        placed: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        text = " ".join(str(compiled).split())
        if set(placed) != set(names) or text.count("?") != len(placed):
            raise ValueError(f"the statement uses the parameters {placed}, not {tuple(names)}: {text}")
        order = tuple(names.index(name) for name in placed)
        return text, None if order == tuple(range(len(names))) else itemgetter(*order)


class BoundStatement:
    """A statement on one connection. Every call fetches all it wants, so that nothing stays open behind it.

    Changes (`run`, `insert`, `many`) open a transaction where none is open, so none of them is ever committed alone.
    Every method raises `IndexFull`, `IndexCorrupt` or `IndexDatabaseError`.
    """

    __slots__ = ("_arrange", "_cursor", "_database", "_execute", "_fetchall", "_fetchone", "_text")

    def __init__(self, text: str, arrange: Arrange | None, database: Database) -> None:
        self._text = text
        self._arrange = arrange
        self._database = database
        self._cursor = database.cursor()
        self._execute = self._cursor.execute
        self._fetchone = self._cursor.fetchone
        self._fetchall = self._cursor.fetchall

    def one(self, *values: Any) -> Any:
        """The row, or None; for statements that give one row at most. A tuple, typed loosely so that it unpacks."""
        if self._database.lost:
            self._database.redo_before_reading()
        try:
            self._execute(self._text, values if self._arrange is None else self._arrange(values))
            return self._fetchone()
        except FAULTS as error:
            raise self._database.fault(error) from error

    def all(self, *values: Any) -> list[Row]:
        """All rows."""
        if self._database.lost:
            self._database.redo_before_reading()
        try:
            self._execute(self._text, values if self._arrange is None else self._arrange(values))
            return self._fetchall()
        except FAULTS as error:
            raise self._database.fault(error) from error

    def named(self, *values: Any) -> list[dict[str, Any]]:
        """All rows, their values by the names of the columns."""
        rows = self.all(*values)
        names = [column[0] for column in self._cursor.description]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def run(self, *values: Any) -> int:
        """Runs a change; returns how many rows it changed."""
        self._change(values)
        return self._cursor.rowcount

    def insert(self, *values: Any) -> int:
        """Inserts a row; returns the number that it was given."""
        self._change(values)
        number = self._cursor.lastrowid
        assert number is not None
        return number

    def _change(self, values: Sequence[Any]) -> None:
        database = self._database
        if not database.writing:
            database.begin()
        if self._arrange is not None:
            values = self._arrange(values)
        try:
            self._execute(self._text, values)
        except FAULTS as error:
            raise database.fault(error) from error
        database.changed_rows += max(self._cursor.rowcount, 0)
        if database.can_redo:
            database.redo_list.append((self._execute, self._text, values))

    def many(self, rows: Iterable[Sequence[Any]]) -> int:
        """Runs a change once for each row of parameters; returns how many rows it changed."""
        database = self._database
        if not database.writing:
            database.begin()
        if self._arrange is not None:
            rows = map(self._arrange, rows)
        if database.can_redo:
            rows = list(rows)
        try:
            self._cursor.executemany(self._text, rows)
        except FAULTS as error:
            raise database.fault(error) from error
        if database.can_redo:
            database.redo_list.append((self._cursor.executemany, self._text, rows))  # type: ignore[arg-type]
        changed = max(self._cursor.rowcount, 0)
        database.changed_rows += changed
        return changed

    def fill(self, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a change of a temporary table once for each row of parameters, in whatever transaction is open."""
        try:
            self._cursor.executemany(self._text, rows)
        except FAULTS as error:
            raise self._database.fault(error) from error


def ddl(element: BaseDDLElement) -> str:
    """The text that makes or drops a table, an index or a column; SQLite stores it, so it is not changed."""
    return str(element.compile(dialect=_dialect()))


class OrderedJoin(Join):
    """A join that SQLite runs in the order in which it is written: for each row on the left, look on the right."""

    inherit_cache = True


@compiles(OrderedJoin, "sqlite")
def _cross_join(join: OrderedJoin, compiler: SQLiteCompiler, **options: Any) -> str:
    options["asfrom"] = True
    left, right = (compiler.process(side, **options) for side in (join.left, join.right))
    assert join.onclause is not None
    return f"{left} CROSS JOIN {right} ON {compiler.process(join.onclause)}"


class _Compiler(SQLiteCompiler):
    """Writes constants into the text: only parameters without a value become a ``?``."""

    def visit_bindparam(self, bindparam: BindParameter[Any], **options: Any) -> str:  # type: ignore[override]
        if not bindparam.required:
            options["literal_binds"] = True
        return str(super().visit_bindparam(bindparam, **options))  # type: ignore[no-untyped-call]


class _Dialect(SQLiteDialect_pysqlite):
    statement_compiler = _Compiler
    supports_statement_cache = False  # each statement is compiled once


@cache
def _dialect() -> _Dialect:
    return _Dialect(paramstyle="qmark")
