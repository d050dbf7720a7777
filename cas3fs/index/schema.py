# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database that came from elsewhere may hold before anything in it is believed: tables and indexes, and those
that are declared in `tables` alone.

SQLite runs triggers and views by itself, and both may hold any statement. Nothing of ours has any, so a database that
does was made by somebody else; it is refused before it is asked the first question.
"""

from pathlib import Path
from typing import Final

from cas3fs.errors import IndexCorrupt
from cas3fs.index.database import Database
from cas3fs.index.texts.schema import INDEXES, TABLES

_SQLITES_OWN: Final = "sqlite_"
_ALL: Final = "SELECT type, name, rootpage FROM sqlite_master"


def refuse_programs(database: Database) -> None:
    """Raises IndexCorrupt where the database holds anything but tables and indexes that store rows."""
    for kind, name, root in database.execute(_ALL):
        if kind not in ("table", "index") or not root:
            raise _foreign(database.path, kind, name)


def check_names(database: Database) -> None:
    """Raises IndexCorrupt where the database has other tables than an index of this cas3fs, or lacks one."""
    found = set()
    for kind, name, _ in database.execute(_ALL):
        if not str(name).startswith(_SQLITES_OWN) and name not in (TABLES if kind == "table" else INDEXES):
            raise _foreign(database.path, kind, name)
        found.add(name)
    if missing := sorted({*TABLES} - found):
        raise IndexCorrupt(f"{database.path}: it has no table {missing[0]}, so it is no index of cas3fs")


def _foreign(path: Path, kind: object, name: object) -> IndexCorrupt:
    return IndexCorrupt(f"{path}: it holds the {kind} {name!r}, which no index of cas3fs has")
