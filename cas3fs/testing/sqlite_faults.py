# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of SQLite at the n-th statement: a full disk, an unreadable disk, a violated constraint.

As with SQLite itself, most errors undo the whole open transaction::

    with sqlite_faults() as faults:
        index = Index.open(path, create=True)
        with faults.on(SqliteFault.FULL, at=3):
            ...

A command may be run with a fault that is active while a file exists. It affects the databases of a name, and only
statements with a text if one follows the name::

    python -m cas3fs.testing.sqlite_faults FULL WHILE-FILE index.sqlite mount VOLUME DIRECTORY
    python -m cas3fs.testing.sqlite_faults FULL WHILE-FILE "index.sqlite:INSERT INTO xattrs" mount VOLUME DIRECTORY

Faults affect databases that are opened for writing within the context, in any thread. A fault counts statements from
when it is switched on, also those that begin and end transactions and savepoints. It raises what Python's driver
raises.

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
    """The error of a statement: SQLite's code, the message, and whether it undoes the transaction."""

    FULL = (sqlite3.SQLITE_FULL, "database or disk is full", True)
    FULL_STATEMENT = (sqlite3.SQLITE_FULL, "database or disk is full", False)
    IOERR = (sqlite3.SQLITE_IOERR_READ, "disk I/O error", True)
    NOMEM = (sqlite3.SQLITE_NOMEM, "out of memory", True)
    CONSTRAINT = (sqlite3.SQLITE_CONSTRAINT, "constraint failed", False)

    @property
    def undoes_transaction(self) -> bool:
        """Whether it undoes the whole transaction."""
        return self.value[2]

    def error(self) -> Exception:
        """The exception that the driver raises."""
        code, message, _ = self.value
        if self is SqliteFault.NOMEM:
            return MemoryError()
        kind = sqlite3.IntegrityError if self is SqliteFault.CONSTRAINT else sqlite3.OperationalError
        error = kind(message)
        error.sqlite_errorcode = code
        return error


@attrs.define(eq=False)
class ActiveFault:
    kind: SqliteFault
    at: int
    times: int | None
    text: str
    file: str
    is_active: Callable[[], bool] = lambda: True
    seen: int = 0
    times_triggered: int = 0

    def triggers(self, path: str, text: str) -> bool:
        if not path or not self.is_active():
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
        self._on: list[ActiveFault] = []

    @contextmanager
    def on(
        self,
        kind: SqliteFault,
        *,
        at: int = 1,
        times: int | None = 1,
        text: str = "",
        file: str = "",
        is_active: Callable[[], bool] = lambda: True,
    ) -> Iterator[ActiveFault]:
        """A fault for the length of a ``with``; it counts in `times_triggered`, and all matching statements in `seen`.

        Args:
            kind: the error.
            at: the first matching statement that fails, counted from 1.
            times: how many statements fail; None: all from then on.
            text: only statements that contain it match.
            file: only databases whose path ends with it match.
            is_active: the fault is switched off while this returns False.
        """
        active = ActiveFault(kind, at, times, text, file, is_active)
        with self._lock:
            self._on.append(active)
        try:
            yield active
        finally:
            with self._lock:
                self._on.remove(active)

    def before(self, connection: sqlite3.Connection, path: str, text: str) -> None:
        """Raise the error of a fault that affects this statement, if any."""
        with self._lock:
            met = next((active for active in self._on if active.triggers(path, text)), None)
        if met is None:
            return
        if met.kind.undoes_transaction and connection.in_transaction:
            sqlite3.Connection.rollback(connection)
        raise met.kind.error()


@contextmanager
def sqlite_faults() -> Iterator[SqliteFaults]:
    """Within this context, databases that are opened have faults to switch on."""
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
    """The command of this module: runs ``python -m cas3fs`` with a fault."""
    if len(arguments) < 4 or arguments[0] not in SqliteFault.__members__:
        raise SystemExit(USAGE)
    kind, flag, place, *rest = arguments
    database, _, text = place.partition(":")
    sys.argv[1:] = rest
    with sqlite_faults() as faults:
        is_there = functools.partial(os.path.exists, flag)
        with faults.on(SqliteFault[kind], times=None, file=database, text=text, is_active=is_there):
            runpy.run_module("cas3fs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
