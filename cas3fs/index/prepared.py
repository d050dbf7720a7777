# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements that are written with SQLAlchemy Core, compiled once, and run on the driver's own cursor.

SQLAlchemy's execution costs 11 to 14 microseconds a statement; its compiled text on a cursor that is kept costs what
sqlite3 itself costs: a row by its key 2.1 to 4.3 microseconds, Python's part included, an insert 4. The text numbers
its parameters (``?1``), in the order in which the statement's author names them, however often and wherever
SQLAlchemy puts them.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BindParameter, Executable, Integer, bindparam
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.sql.elements import ClauseElement

from cas3fs.index.database import Database

_PREFIX = "p_"  # SQLAlchemy keeps the columns' own names to itself in INSERT and UPDATE

Row = tuple[Any, ...]


def param(name: str) -> BindParameter[Any]:
    """A parameter of a statement, for `Prepared` to put in order."""
    return bindparam(_PREFIX + name)


def count_param(name: str) -> BindParameter[int]:
    """A parameter for LIMIT, which has no column to take a type from."""
    return bindparam(_PREFIX + name, type_=Integer())


class Prepared:
    """A statement's text, made once, when its module is imported.

    Attributes:
        text: SQL for SQLite with numbered parameters.
    """

    __slots__ = ("text",)

    def __init__(self, statement: Executable, parameters: str = "") -> None:
        """Compiles `statement`; `parameters` names its parameters in the order in which calls give them.

        Raises:
            ValueError: the statement has other parameters, or a constant that became one.
        """
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(dialect=dialect(paramstyle="qmark"))
        order = {_PREFIX + name: number for number, name in enumerate(parameters.split(), 1)}
        placed: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        pieces = str(compiled).split("?")
        if set(placed) != set(order) or len(pieces) != len(placed) + 1:
            raise ValueError(f"the statement has the parameters {placed}, not {tuple(order)}: {compiled}")
        self.text = pieces[0] + "".join(
            f"?{order[name]}{piece}" for name, piece in zip(placed, pieces[1:], strict=True)
        )

    def on(self, database: Database) -> "Statement":
        """The statement, ready to run on that database."""
        return Statement(self.text, database)


class Statement:
    """A prepared statement on one connection. Every call fetches all it wants, so that nothing stays open behind it.

    Changes (`run`, `insert`, `many`) open a transaction where none is open, so none of them is ever committed alone.
    Every method raises `IndexFull`, `IndexCorrupt` or `IndexDatabaseError`.
    """

    __slots__ = ("_cursor", "_database", "_execute", "_fetchall", "_fetchone", "_text")

    def __init__(self, text: str, database: Database) -> None:
        self._text = text
        self._database = database
        self._cursor = database.cursor()
        self._execute = self._cursor.execute
        self._fetchone = self._cursor.fetchone
        self._fetchall = self._cursor.fetchall

    def one(self, *values: Any) -> Any:
        """The row, or None; for statements that give one row at most. A tuple, typed loosely so that it unpacks."""
        try:
            self._execute(self._text, values)
            return self._fetchone()
        except (sqlite3.Error, OverflowError) as error:
            raise self._database.fault(error) from error

    def all(self, *values: Any) -> list[Row]:
        """All rows."""
        try:
            self._execute(self._text, values)
            return self._fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise self._database.fault(error) from error

    def run(self, *values: Any) -> int:
        """Runs a change; returns how many rows it changed."""
        try:
            if not self._database.writing:
                self._database.begin()
            self._execute(self._text, values)
        except (sqlite3.Error, OverflowError) as error:
            raise self._database.fault(error) from error
        return self._cursor.rowcount

    def insert(self, *values: Any) -> int:
        """Inserts a row; returns the number that it was given."""
        try:
            if not self._database.writing:
                self._database.begin()
            self._execute(self._text, values)
        except (sqlite3.Error, OverflowError) as error:
            raise self._database.fault(error) from error
        number = self._cursor.lastrowid
        assert number is not None
        return number

    def many(self, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a change once for each row of parameters."""
        try:
            if not self._database.writing:
                self._database.begin()
            self._cursor.executemany(self._text, rows)
        except (sqlite3.Error, OverflowError) as error:
            raise self._database.fault(error) from error
