# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing two states of an index: which files differ."""

from pathlib import Path
from urllib.parse import quote

from sqlalchemy import MetaData, select

from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared
from cas3fs.index.tables import inodes

_OLDER = "older"
_older_inodes = inodes.to_metadata(MetaData(), schema=_OLDER)
_TOLD = ("id", "mode", "rdev", "size", "mtime_ns", "stored_seq")
_CHANGED = Prepared(
    select(*(inodes.c[name] for name in _TOLD)).except_(select(*(_older_inodes.c[name] for name in _TOLD)))
)


def changed_inodes(path: Path, older: Path) -> set[int]:
    """The numbers of inodes that `path` has and that `older` lacks, or has with other contents or times.

    Raises:
        IndexDatabaseError: one of them cannot be read.
    """
    database = Database(path, "read")
    try:
        database.execute(f"ATTACH DATABASE 'file:{quote(str(older.absolute()))}?mode=ro' AS {_OLDER}")
        return {row[0] for row in _CHANGED.on(database).all()}
    finally:
        database.close()
