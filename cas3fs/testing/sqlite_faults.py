# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of SQLite at the n-th statement: a full disk, a disk that cannot be read, a row that is not taken.

As SQLite does, most errors undo the whole open transaction before they are raised, whatever the statement was::

    with sqlite_faults() as faults:
        index = Index.open(path, create=True)
        with faults.on(SqliteFault.FULL, at=3):
            ...

A command may be run under a fault that lasts while a file exists, on the databases of that name, and on statements that
contain a text where one follows the name::

    python -m cas3fs.testing.sqlite_faults FULL WHILE-FILE index.sqlite mount VOLUME DIRECTORY
    python -m cas3fs.testing.sqlite_faults FULL WHILE-FILE "index.sqlite:INSERT INTO xattrs" mount VOLUME DIRECTORY

Databases that are opened for writing within the context are concerned, whatever thread uses them. A fault counts the
statements that SQLite is given from then on, those that open and end transactions and savepoints included. Nothing else
of SQLite's behaviour is imitated: what is raised is what Python's driver would raise.

Locks: one, around the faults and their counts.
"""

import functools
import os
import runpy
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final

import attrs

from cas3fs.index.sqlite import Database

USAGE: Final = "python -m cas3fs.testing.sqlite_faults KIND WHILE-FILE DATABASE[:TEXT] CAS3FS-ARGUMENT..."


class SqliteFault(Enum):
    """What a statement meets: SQLite's code, and whether the transaction is undone by it."""

    FULL = (sqlite3.SQLITE_FULL, "database or disk is full", True)
    FULL_STATEMENT = (sqlite3.SQLITE_FULL, "database or disk is full", False)
    IOERR = (sqlite3.SQLITE_IOERR_READ, "disk I/O error", True)
    NOMEM = (sqlite3.SQLITE_NOMEM, "out of memory", True)
    CONSTRAINT = (sqlite3.SQLITE_CONSTRAINT, "constraint failed", False)

    @property
    def undoes(self) -> bool:
        """Whether it takes the whole transaction."""
        return self.value[2]

    def error(self) -> Exception:
        """What the driver raises."""
        code, message, _ = self.value
        if self is SqliteFault.NOMEM:
            return MemoryError()
        kind = sqlite3.IntegrityError if self is SqliteFault.CONSTRAINT else sqlite3.OperationalError
        error = kind(message)
        error.sqlite_errorcode = code
        return error


@attrs.define(eq=False)
class _Armed:
    kind: SqliteFault
    at: int
    times: int | None
    text: str
    file: str
    lasts: Callable[[], bool] = lambda: True
    seen: int = 0
    times_triggered: int = 0

    def meets(self, path: str, text: str) -> bool:
        if not path or not self.lasts():
            return False
        if self.text not in text or not path.endswith(self.file):
            return False
        self.seen += 1
        if self.seen < self.at or (self.times is not None and self.times_triggered >= self.times):
            return False
        self.times_triggered += 1
        return True


class SqliteFaults:
    """The faults that are switched on for the databases of one context."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: list[_Armed] = []

    @contextmanager
    def on(
        self,
        kind: SqliteFault,
        *,
        at: int = 1,
        times: int | None = 1,
        text: str = "",
        file: str = "",
        lasts: Callable[[], bool] = lambda: True,
    ) -> Iterator[_Armed]:
        """Lets `kind` befall `times` statements (None: all) from the `at`-th on, counting only those that contain
        `text`, on databases whose path ends with `file`, while `lasts` says so; gives what tells how often it
        `times_triggered`, and how many such statements were `seen`."""
        armed = _Armed(kind, at, times, text, file, lasts)
        with self._lock:
            self._on.append(armed)
        try:
            yield armed
        finally:
            with self._lock:
                self._on.remove(armed)

    def before(self, connection: sqlite3.Connection, path: str, text: str) -> None:
        """A statement is about to run."""
        with self._lock:
            met = next((armed for armed in self._on if armed.meets(path, text)), None)
        if met is None:
            return
        if met.kind.undoes and connection.in_transaction:
            sqlite3.Connection.rollback(connection)
        raise met.kind.error()


@contextmanager
def sqlite_faults() -> Iterator[SqliteFaults]:
    """Within it, databases that are opened can be made to fail."""
    faults = SqliteFaults()

    class Cursor(sqlite3.Cursor):
        def execute(self, text: str, values: Any = ()) -> "Cursor":
            faults.before(self.connection, self.connection.path, text)  # type: ignore[attr-defined]
            super().execute(text, values)
            return self

        def executemany(self, text: str, rows: Any) -> "Cursor":
            faults.before(self.connection, self.connection.path, text)  # type: ignore[attr-defined]
            super().executemany(text, rows)
            return self

    class Connection(sqlite3.Connection):
        def __init__(self, database: str, *args: Any, **options: Any) -> None:
            super().__init__(database, *args, **options)
            path, _, mode = database.partition("?")
            self.path = "" if mode == "mode=ro" else path

        def cursor(self, *_: Any) -> Cursor:  # type: ignore[override]
            return Cursor(self)

        def execute(self, text: str, values: Any = ()) -> Cursor:
            return self.cursor().execute(text, values)

    usual = Database.connection_class
    Database.connection_class = Connection
    try:
        yield faults
    finally:
        Database.connection_class = usual


def main(arguments: Sequence[str]) -> None:
    """The command of the module: becomes ``python -m cas3fs`` under a fault."""
    if len(arguments) < 4 or arguments[0] not in SqliteFault.__members__:
        raise SystemExit(USAGE)
    kind, flag, place, *rest = arguments
    database, _, text = place.partition(":")
    sys.argv[1:] = rest
    with sqlite_faults() as faults:
        is_there = functools.partial(os.path.exists, flag)
        with faults.on(SqliteFault[kind], times=None, file=database, text=text, lasts=is_there):
            runpy.run_module("cas3fs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
