# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.comparing`."""

from cas3fs.index.prepared import Prepared

OLDER = "older"
CHANGED = Prepared(
    "SELECT inodes.id, inodes.mode, inodes.rdev, inodes.size, inodes.mtime_ns, inodes.ctime_ns, "
    "inodes.stored_seq FROM inodes EXCEPT SELECT older.inodes.id, older.inodes.mode, older.inodes.rdev, "
    "older.inodes.size, older.inodes.mtime_ns, older.inodes.ctime_ns, older.inodes.stored_seq FROM "
    "older.inodes"
)
PLACED = Prepared(
    "SELECT dentries.parent, dentries.name, dentries.inode FROM dentries EXCEPT SELECT "
    "older.dentries.parent, older.dentries.name, older.dentries.inode FROM older.dentries"
)
KNOWN = Prepared("SELECT older.inodes.id FROM older.inodes")
