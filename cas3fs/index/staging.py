# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of staging: what a crash must not lose of files whose data is not in the store yet.

A database apart from the index, ``staging.sqlite``, since it belongs to this machine and is part of no snapshot. What
the rows mean is decided by staging; here they are stored. All methods may be called by any thread: a lock inside guards
each of them, and is not held during a sync.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import Column, ColumnElement, Executable, Integer, and_, delete, literal_column, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateColumn

from cas3fs.errors import IndexDatabaseError, IndexRowRefused, IndexTooNew
from cas3fs.index.schema import creating
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement, ddl
from cas3fs.index.tables import staged, staging_meta, staging_metadata

STAGING_VERSION: Final = 3
"""In SQLite's user_version; 0 is a database without tables, 1 had no column for what is lost, 2 none for holes."""
_ADDED: Final[Mapping[int, Column[Any]]] = {2: staged.c.lost, 3: staged.c.holes}
"""The version, and the column that came with it; a row that was written before has NULL there, which is none."""

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
    holes: bytes | None = None


_ROWID: Final = literal_column("rowid", Integer)


def _is_row(inode: Any, seq: Any) -> ColumnElement[bool]:
    return and_(staged.c.inode == inode, staged.c.seq == seq)


def _saved(*values: Any) -> Executable:
    inserted = upsert(staged).values(dict(zip(StagedRow._fields, values, strict=True)))
    others = {name: inserted.excluded[name] for name in StagedRow._fields[2:]}
    return inserted.on_conflict_do_update(index_elements=["inode", "seq"], set_=others)


def _meta_set(key: Any, value: Any) -> Executable:
    inserted = upsert(staging_meta).values(key=key, value=value)
    return inserted.on_conflict_do_update(index_elements=["key"], set_={"value": inserted.excluded.value})


def all_keys() -> Executable:
    """SQL: (inode, sequence) of all rows, in that order."""
    return select(staged.c.inode, staged.c.seq).order_by(staged.c.inode, staged.c.seq)


def meta_value(key: Any) -> Executable:
    """SQL: the text kept under a key."""
    return select(staging_meta.c.value).where(staging_meta.c.key == key)


class StagingReader:
    """Reads one row after the other, so that a damaged page hides no others; on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")

    _get = Statement(meta_value)

    def claim(self) -> str | None:
        """The uuid of the claim that the rows belong to, or None."""
        row = self._get.one(CLAIM)
        return None if row is None else str(row[0])

    _keys = Statement(all_keys)

    def keys(self) -> set[tuple[int, int]]:
        """(inode, sequence) of all rows, as the index over them has them, which lies on pages of its own."""
        return set(self._keys.all())

    _following = Statement(lambda place: select(_ROWID, *staged.c).where(place < _ROWID).order_by(_ROWID).limit(1))

    def following(self, place: int) -> tuple[int, StagedRow] | None:
        """The first row behind a place, with its own place; None where there is none."""
        row = self._following.one(place)
        return None if row is None else (row[0], StagedRow(*row[1:]))

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()


class StagingIndex:
    """The records of staging. Every method raises `IndexFull`, `IndexCorrupt` or another `IndexDatabaseError`.

    A failed `save`, `delete` or `commit` undoes all since the last commit; the error's ``group_lost`` says so.
    """

    def __init__(self, path: Path) -> None:
        """Opens the database, and makes it where it is missing.

        Raises:
            IndexTooNew: a newer cas3fs made it.
        """
        self.salvaged = ""
        """What was lost when the database was damaged, and its readable rows went to a new one (`salvage`)."""
        self._lock = threading.Lock()
        self._database = Database(path, create=True)
        try:
            _prepare_schema(self._database)
        except BaseException:
            self._database.close()
            raise

    _get = Statement(meta_value)

    @property
    def claim(self) -> str | None:
        """The uuid of the claim that the rows belong to, or None."""
        with self._lock:
            row = self._get.one(CLAIM)
            return None if row is None else str(row[0])

    _set = Statement(_meta_set)

    def set_claim(self, claim: str) -> None:
        """Notes to which claim the rows belong; durable on return, with all earlier changes."""
        with self._lock:
            self._set.run(CLAIM, claim)
        self.commit()

    _save = Statement(_saved, StagedRow._fields)

    def save(self, rows: Iterable[StagedRow]) -> None:
        """Enters rows, in place of those with the same inode and sequence.

        Raises:
            IndexRowRefused: SQLite refuses one of them, so all is undone; `save_each` enters the others.
        """
        with self._lock, self._undoing():
            self._save.many(rows)

    def save_each(self, rows: Iterable[StagedRow]) -> list[tuple[StagedRow, IndexRowRefused]]:
        """As `save`, one by one; returns the rows that SQLite refuses."""
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

    _delete = Statement(lambda inode, seq: delete(staged).where(_is_row(inode, seq)))

    def delete(self, keys: Iterable[tuple[int, int]]) -> None:
        """Removes the rows of these (inode, sequence); missing ones are fine."""
        with self._lock, self._undoing():
            self._delete.many(keys)

    _keys = Statement(all_keys)
    _row = Statement(lambda inode, seq: select(*staged.c).where(_is_row(inode, seq)))

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
            found = self._database.quick_check(1)
        return found[0].replace("\n", "; ") if found else ""

    def commit(self, *, durable: bool = True) -> None:
        """Commits all changes so far; `durable` waits until they are on the disk, else `sync` does."""
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
    """Rolls the transaction back when its body fails, so that no half of a batch is committed later; if that fails too,
    it is rolled back before the next body."""

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
    version = database.user_version
    if version > STAGING_VERSION:
        raise IndexTooNew(f"{database.path}: made by a newer cas3fs (its version is {version}): use that")
    if version == STAGING_VERSION:
        return
    database.begin()
    if version == 0:
        for text in creating(staging_metadata):
            database.execute(text)
    for added, column in _ADDED.items() if version else ():
        if version < added:
            database.add_column(staged.name, ddl(CreateColumn(column)))
    database.set_user_version(STAGING_VERSION)
    database.commit()
    database.sync()
