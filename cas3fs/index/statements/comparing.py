# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.comparing`."""

from typing import Final

from sqlalchemy import MetaData, select

from cas3fs.index.statements.writing import Written
from cas3fs.index.tables import dentries, inodes

OLDER: Final = "older"
# the time of change stands for owner and extended attributes too
_TOLD = ("id", "mode", "rdev", "size", "mtime_ns", "ctime_ns", "stored_seq")
_NAMED = ("parent", "name", "inode")
_older_inodes = inodes.to_metadata(MetaData(), schema=OLDER)
_older_dentries = dentries.to_metadata(MetaData(), schema=OLDER)
CHANGED = Written(
    select(*(inodes.c[name] for name in _TOLD)).except_(select(*(_older_inodes.c[name] for name in _TOLD)))
)
PLACED = Written(
    select(*(dentries.c[name] for name in _NAMED)).except_(select(*(_older_dentries.c[name] for name in _NAMED)))
)
KNOWN = Written(select(_older_inodes.c.id))
