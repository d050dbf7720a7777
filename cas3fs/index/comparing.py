# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparing two states of an index: which files differ, and which are elsewhere."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cas3fs.index.database import Database
from cas3fs.index.texts import comparing as texts


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
        database.execute(f"ATTACH DATABASE 'file:{quote(str(older.absolute()))}?mode=ro' AS {texts.OLDER}")
        placed = {row[2] for row in texts.PLACED.on(database).all()}
        changed = {row[0] for row in texts.CHANGED.on(database).all()}
        known = {row[0] for row in texts.KNOWN.on(database).all()} if placed else set()
        return Differences(frozenset(changed | placed), frozenset(placed & known))
    finally:
        database.close()
