# SPDX-License-Identifier: GPL-3.0-or-later
"""Salvages the records of staging from a damaged database: readable ones go to a new database, the old one is kept.

SQLite ends a statement where it meets a damaged page; rows behind that page can be read nevertheless. So rows are read
one by one, in the order in which they lie; where that fails, the next readable place is searched in steps that double.
The index over the rows lies on pages of its own, and shows which rows are missing.

If the process dies before the new database takes the place of the old one, all this begins anew. The old one is linked
into the quarantine folder first.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from cas3fs.durable import sync_folder
from cas3fs.errors import IndexCorrupt, IndexDatabaseError
from cas3fs.index.files import os_fault, put_in_place, remove_database
from cas3fs.index.staging import StagedRow, StagingIndex, StagingReader

_LAST_ROWID: Final = 2**62
_MOST_NAMED: Final = 10
_BATCH: Final = 64


def open_or_salvage(path: Path, quarantine: Path) -> StagingIndex:
    """Opens the records of staging. A damaged database is linked into the folder `quarantine`, and a new one is opened
    that has what could be read; its `salvaged` says what happened.

    Raises:
        IndexTooNew: a newer cas3fs made it.
        IndexDatabaseError: the disk failed, or is full.
    """
    damage = find_damage(path)
    if not damage:
        return StagingIndex(path)
    kept = _keep(path, quarantine)
    fresh = path.with_name(f"{path.name}.new")
    remove_database(fresh)
    with StagingIndex(fresh) as rows:
        number = _fill(rows, path)
    lost = _lost_keys(path, fresh)
    put_in_place(fresh, path)
    opened = StagingIndex(path)
    opened.salvaged = (
        f"{damage}; of the records of staged bytes {number:,} could be read, {_description_of(lost)}, and files "
        f"without a record are as they were last stored; the damaged database is kept as {kept}, and the bytes beside "
        "it: `cas3fs rescue` saves them"
    )
    return opened


def find_damage(path: Path) -> str:
    """What is wrong with the database of records; empty where nothing is, or there is none.

    Raises:
        IndexDatabaseError: it cannot be opened.
    """
    if not path.exists():
        return ""
    try:
        with StagingIndex(path) as rows:
            found = rows.check()
    except IndexDatabaseError as error:
        if _is_damage(error):
            return str(error)
        raise
    return f"{path}: {found}" if found else ""


def _is_damage(error: IndexDatabaseError) -> bool:
    """Whether a part of the database cannot be read, now or ever."""
    code = getattr(error.__cause__, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return isinstance(error, IndexCorrupt) or code & 0xFF == sqlite3.SQLITE_IOERR


def _keep(path: Path, quarantine: Path) -> Path:
    kept = quarantine / f"{path.name}.{time.time_ns()}"
    try:
        quarantine.mkdir(parents=True, exist_ok=True, mode=0o700)
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                os.link(f"{path}{suffix}", f"{kept}{suffix}")
        sync_folder(quarantine)
        sync_folder(quarantine.parent)
    except OSError as error:
        raise os_fault(kept, error) from error
    return kept


def _fill(rows: StagingIndex, damaged: Path) -> int:
    """Copies the claim and the rows that can be read; returns how many rows."""
    number = 0
    with suppress(IndexDatabaseError), closing(StagingReader(damaged)) as source:
        with suppress(IndexDatabaseError):
            claim = source.claim()
            if claim is not None:
                rows.set_claim(claim)
        for row in _readable(source):
            number += not rows.save_each([row])
            if not number % _BATCH:
                rows.commit(durable=False)
    rows.commit()
    return number


def _readable(source: StagingReader) -> Iterator[StagedRow]:
    at = 0
    while True:
        try:
            found = source.following(at)
        except IndexDatabaseError as error:
            behind = _behind(source, at) if _is_damage(error) else None
            if behind is None:
                return
            at = behind
            continue
        if found is None:
            return
        at, row = found
        yield row


def _behind(source: StagingReader, at: int) -> int | None:
    """The least number behind `at` from which on something can be read; None where nothing can."""
    step = 1
    while not _is_readable(source, at + step):
        at, step = at + step, 2 * step
        if at + step > _LAST_ROWID:
            return None
    low, high = at, at + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _is_readable(source, middle) else (middle, high)
    return high


def _is_readable(source: StagingReader, at: int) -> bool:
    try:
        source.following(at)
    except IndexDatabaseError:
        return False
    return True


def _lost_keys(damaged: Path, fresh: Path) -> set[tuple[int, int]] | None:
    """The keys that the index of the damaged database has and the new one lacks; None where it cannot be read."""
    try:
        with closing(StagingReader(damaged)) as source, closing(StagingReader(fresh)) as destination:
            return source.keys() - destination.keys()
    except IndexDatabaseError:
        return None


def _description_of(lost: set[tuple[int, int]] | None) -> str:
    if lost is None:
        return "which others there were is unknown"
    inodes = sorted({str(inode) for inode, _ in lost})
    if not inodes:
        return "which are all"
    more = f" and {len(inodes) - _MOST_NAMED:,} more" if len(inodes) > _MOST_NAMED else ""
    return f"those of inodes {', '.join(inodes[:_MOST_NAMED])}{more} could not"
