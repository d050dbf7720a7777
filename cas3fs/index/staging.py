# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of staging: what a crash must not lose of files whose data is not in the store yet.

A database apart from the index, ``staging.sqlite``, since it belongs to this machine and is part of no snapshot. What
the rows mean is staging's own matter; here they are kept. All methods may be called by any thread: a lock inside
guards each of them, and is not held while the disk is waited for.
"""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from cas3fs.errors import IndexDatabaseError, IndexRowRefused, IndexTooNew
from cas3fs.index.database import Database
from cas3fs.index.texts import staging as texts
from cas3fs.index.texts.schema import ADD_LOST, CREATE_STAGING

STAGING_VERSION: Final = 2
"""In SQLite's user_version; 0 is a database without tables, and 1 had no column for what is lost."""

CLAIM: Final = "claim"


class StagedRow(NamedTuple):
    """What is staged of one inode up to one change; see `cas3fs.filesystem` for the meaning."""

    inode: int
    seq: int
    floor: int | None
    size: int
    mtime_ns: int
    ctime_ns: int
    ranges: bytes
    data: bytes | None
    lost: bytes | None = None


class StagingIndex:
    """The rows of staging. Every method raises `IndexFull`, `IndexCorrupt` or another `IndexDatabaseError`.

    A failed `save`, `delete` or `commit` undoes all since the last commit; the error's ``group_lost`` says so.
    """

    def __init__(self, path: Path) -> None:
        """Opens the database, and makes it where it is missing.

        Raises:
            IndexTooNew: a newer cas3fs made it.
        """
        self.salvaged = ""
        """What was lost when the database was damaged and what could be read was taken over (`salvaging`)."""
        self._lock = threading.Lock()
        self._database = Database(path, create=True)
        try:
            _prepare_schema(self._database)
            self._save, self._delete = texts.SAVE.on(self._database), texts.DELETE.on(self._database)
            self._keys, self._row = texts.KEYS.on(self._database), texts.ROW.on(self._database)
            self._get, self._set = texts.GET.on(self._database), texts.SET.on(self._database)
        except BaseException:
            self._database.close()
            raise

    @property
    def claim(self) -> str | None:
        """The uuid of the claim that the rows belong to, or None."""
        with self._lock:
            row = self._get.one(CLAIM)
            return None if row is None else str(row[0])

    def set_claim(self, claim: str) -> None:
        """Says to which claim the rows belong; durable on return, together with what else was changed before."""
        with self._lock:
            self._set.run(CLAIM, claim)
        self.commit()

    def save(self, rows: Iterable[StagedRow]) -> None:
        """Enters rows, in place of those with the same inode and sequence.

        Raises:
            IndexRowRefused: SQLite does not take one of them, so all is undone; `save_each` enters the others.
        """
        with self._lock, self._undoing():
            self._save.many(rows)

    def save_each(self, rows: Iterable[StagedRow]) -> list[tuple[StagedRow, IndexRowRefused]]:
        """As `save`, one by one; gives the rows that SQLite does not take."""
        refused = []
        with self._lock, self._undoing():
            for row in rows:
                try:
                    self._save.run(*row)
                except IndexRowRefused as error:
                    if error.group_lost:
                        raise
                    refused.append((row, error))
        return refused

    def delete(self, keys: Iterable[tuple[int, int]]) -> None:
        """Removes the rows of these (inode, sequence); missing ones are fine."""
        with self._lock, self._undoing():
            self._delete.many(keys)

    def rows(self) -> Iterator[StagedRow]:
        """All rows, by inode, then sequence; they are read one by one, so memory holds one row's data at a time."""
        with self._lock:
            keys = self._keys.all()
        for key in keys:
            with self._lock:
                row = self._row.one(*key)
            if row is not None:
                yield StagedRow(*row)

    def check(self) -> str:
        """What is wrong with the structure of the database, one line; empty where nothing is."""
        with self._lock:
            found = self._database.execute("PRAGMA quick_check(1)")
        return "" if found == [("ok",)] else str(found[0][0]).replace("\n", "; ")

    def commit(self, *, durable: bool = True) -> None:
        """Keeps all changes so far; `durable` waits until they are on the disk, else `sync` does."""
        with self._lock, self._undoing():
            self._database.commit()
        if durable:
            self.sync()

    def sync(self) -> None:
        """Makes durable what was committed before the call."""
        self._database.sync()

    def _undoing(self) -> "_Undoing":
        return _Undoing(self._database)

    def close(self) -> None:
        """Closes the database; what is uncommitted is undone."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Undoing:
    """Rolls the transaction back when its body fails, so that no half of a batch is committed later; where that failed,
    before the next body begins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        if self._database.lost:
            self._database.rollback()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, IndexDatabaseError):
            error.group_lost = True
        self._database.rollback()


def _prepare_schema(database: Database) -> None:
    """Makes the tables in an empty database, and refuses what a newer version made."""
    version = int(str(database.execute("PRAGMA user_version")[0][0]))
    if version > STAGING_VERSION:
        raise IndexTooNew(f"{database.path}: made by a newer cas3fs (its version is {version}): use that")
    if version == STAGING_VERSION:
        return
    database.begin()
    for text in CREATE_STAGING if version == 0 else (ADD_LOST,):
        database.execute(text)
    database.execute(f"PRAGMA user_version={STAGING_VERSION}")
    database.commit()
    database.sync()
