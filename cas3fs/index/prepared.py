# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements whose text is ready, run on the driver's own cursor.

SQLAlchemy's execution costs 11 to 14 microseconds a statement; its compiled text on a cursor that is kept costs what
sqlite3 itself costs: a row by its key 2.1 to 4.3 microseconds, Python's part included, an insert 4. Calls give the
parameters in the order in which the statement's author names them; where SQLAlchemy puts them in another order, or one
of them twice, they are put in their places (0.1 microseconds). The texts come from `cas3fs.index.texts`, or are written
as texts where SQLAlchemy would add nothing (`plain`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

from cas3fs.index.database import FAULTS, Database

_PARAMETER: Final = re.compile(r":p_(\w+)")

Row = tuple[Any, ...]
Place = Callable[[Sequence[Any]], Any]


class Prepared:
    """A statement's text, as the modules of `cas3fs.index.texts` keep them.

    Attributes:
        text: SQL for SQLite with parameters by position.
        order: for each ``?``, which of a call's values it takes; empty when they are in place already.
        place: puts the values of a call in those positions; None when they are in place already.
    """

    __slots__ = ("order", "place", "text")

    def __init__(self, text: str, order: tuple[int, ...] = ()) -> None:
        self.text = text
        self.order = order
        self.place = itemgetter(*order) if order else None

    def on(self, database: Database) -> "Statement":
        """The statement, ready to run on that database."""
        return Statement(self.text, self.place, database)


def plain(sql: str, parameters: str = "") -> Prepared:
    """A statement that is written as text, with ``:p_name`` for the parameter `name`; `parameters` names them in the
    order in which calls give them.

    Raises:
        ValueError: the statement has other parameters.
    """
    names = parameters.split()
    placed = _PARAMETER.findall(sql)
    if set(placed) != set(names):
        raise ValueError(f"the statement has the parameters {placed}, not {names}: {sql}")
    order = tuple(names.index(name) for name in placed)
    return Prepared(_PARAMETER.sub("?", sql), () if order == tuple(range(len(names))) else order)


class Statement:
    """A prepared statement on one connection. Every call fetches all it wants, so that nothing stays open behind it.

    Changes (`run`, `insert`, `many`) open a transaction where none is open, so none of them is ever committed alone.
    Every method raises `IndexFull`, `IndexCorrupt` or `IndexDatabaseError`.
    """

    __slots__ = ("_cursor", "_database", "_execute", "_fetchall", "_fetchone", "_place", "_text")

    def __init__(self, text: str, place: Place | None, database: Database) -> None:
        self._text = text
        self._place = place
        self._database = database
        self._cursor = database.cursor()
        self._execute = self._cursor.execute
        self._fetchone = self._cursor.fetchone
        self._fetchall = self._cursor.fetchall

    def one(self, *values: Any) -> Any:
        """The row, or None; for statements that give one row at most. A tuple, typed loosely so that it unpacks."""
        if self._database.lost:
            self._database.require()
        try:
            self._execute(self._text, values if self._place is None else self._place(values))
            return self._fetchone()
        except FAULTS as error:
            raise self._database.fault(error) from error

    def all(self, *values: Any) -> list[Row]:
        """All rows."""
        if self._database.lost:
            self._database.require()
        try:
            self._execute(self._text, values if self._place is None else self._place(values))
            return self._fetchall()
        except FAULTS as error:
            raise self._database.fault(error) from error

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
        if self._place is not None:
            values = self._place(values)
        try:
            self._execute(self._text, values)
        except FAULTS as error:
            raise database.fault(error) from error
        if database.repeats:
            database.done.append((self._execute, self._text, values))

    def many(self, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a change once for each row of parameters."""
        database = self._database
        if not database.writing:
            database.begin()
        if self._place is not None:
            rows = map(self._place, rows)
        if database.repeats:
            rows = list(rows)
        try:
            self._cursor.executemany(self._text, rows)
        except FAULTS as error:
            raise database.fault(error) from error
        if database.repeats:
            database.done.append((self._cursor.executemany, self._text, rows))  # type: ignore[arg-type]
