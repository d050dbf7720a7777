# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing two states of an index: which files differ, and which are elsewhere."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from sqlalchemy import MetaData, select

from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared
from cas3fs.index.tables import dentries, inodes

_OLDER = "older"
_older_inodes = inodes.to_metadata(MetaData(), schema=_OLDER)
_older_dentries = dentries.to_metadata(MetaData(), schema=_OLDER)
# the time of change stands for owner and extended attributes too
_TOLD = ("id", "mode", "rdev", "size", "mtime_ns", "ctime_ns", "stored_seq")
_NAMED = ("parent", "name", "inode")
_CHANGED = Prepared(
    select(*(inodes.c[name] for name in _TOLD)).except_(select(*(_older_inodes.c[name] for name in _TOLD)))
)
_PLACED = Prepared(
    select(*(dentries.c[name] for name in _NAMED)).except_(select(*(_older_dentries.c[name] for name in _NAMED)))
)
_KNOWN = Prepared(select(_older_inodes.c.id))


class Differences(NamedTuple):
    """What one state has and an older one lacks, as numbers of inodes."""

    changed: frozenset[int]
    """New, or with other contents, attributes or names."""
    moved: frozenset[int]
    """Known before, and under another name now: all that is below is elsewhere too."""


def differences(path: Path, older: Path) -> Differences:
    """What `path` has that `older` lacks.

    Raises:
        IndexDatabaseError: one of them cannot be read.
    """
    database = Database(path, "read")
    try:
        database.execute(f"ATTACH DATABASE 'file:{quote(str(older.absolute()))}?mode=ro' AS {_OLDER}")
        placed = {row[2] for row in _PLACED.on(database).all()}
        changed = {row[0] for row in _CHANGED.on(database).all()}
        known = {row[0] for row in _KNOWN.on(database).all()} if placed else set()
        return Differences(frozenset(changed | placed), frozenset(placed & known))
    finally:
        database.close()
