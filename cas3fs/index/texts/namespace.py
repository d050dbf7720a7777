# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.namespace`."""

from cas3fs.index.prepared import Prepared

INSERT_INODE = Prepared(
    "INSERT INTO inodes (mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns, crtime_ns, "
    "stored_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
)
INSERT_NUMBERED = Prepared(
    "INSERT INTO inodes (id, mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns, crtime_ns, "
    "stored_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
)
LAST_NUMBERS = Prepared("SELECT name, seq FROM sqlite_sequence WHERE name IN ('inodes', 'dentries')")
INODE = Prepared(
    "SELECT inodes.id, inodes.mode, inodes.uid, inodes.gid, inodes.nlink, inodes.rdev, inodes.size, "
    "inodes.atime_ns, inodes.mtime_ns, inodes.ctime_ns, inodes.crtime_ns, inodes.stored_seq FROM inodes "
    "WHERE inodes.id = ?"
)
SAVE_INODE = Prepared(
    (
        "UPDATE inodes SET mode=?, uid=?, gid=?, nlink=?, rdev=?, size=?, atime_ns=?, mtime_ns=?, ctime_ns=? "
        "WHERE inodes.id = ?"
    ),
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 0),
)
SAVE_ATTRIBUTES = Prepared(
    "UPDATE inodes SET mode=?, uid=?, gid=?, nlink=?, atime_ns=? WHERE inodes.id = ?", (1, 2, 3, 4, 5, 0)
)
REMOVALS = (
    Prepared("DELETE FROM inodes WHERE inodes.id = ?"),
    Prepared("DELETE FROM chunks WHERE chunks.inode = ?"),
    Prepared("DELETE FROM symlinks WHERE symlinks.inode = ?"),
    Prepared("DELETE FROM xattrs WHERE xattrs.inode = ?"),
)
UNLINKED = Prepared("SELECT inodes.id FROM inodes WHERE inodes.nlink = 0 ORDER BY inodes.id")
LOOKUP = Prepared(
    "SELECT inodes.id, inodes.mode, inodes.uid, inodes.gid, inodes.nlink, inodes.rdev, inodes.size, "
    "inodes.atime_ns, inodes.mtime_ns, inodes.ctime_ns, inodes.crtime_ns, inodes.stored_seq FROM dentries"
    " JOIN inodes ON inodes.id = dentries.inode WHERE dentries.parent = ? AND dentries.name = ?"
)
CHILD = Prepared("SELECT dentries.id, dentries.inode FROM dentries WHERE dentries.parent = ? AND dentries.name = ?")
ADD_ENTRY = Prepared("INSERT INTO dentries (parent, name, inode) VALUES (?, ?, ?)")
ADD_NUMBERED = Prepared("INSERT INTO dentries (id, parent, name, inode) VALUES (?, ?, ?, ?)")
REMOVE_ENTRY = Prepared("DELETE FROM dentries WHERE dentries.parent = ? AND dentries.name = ?")
REDIRECT_ENTRY = Prepared("UPDATE dentries SET inode=? WHERE dentries.parent = ? AND dentries.name = ?", (2, 0, 1))
RENAME_ENTRY = Prepared("UPDATE dentries SET name=? WHERE dentries.parent = ? AND dentries.name = ?", (2, 0, 1))
ENTRIES = Prepared(
    "SELECT dentries.id, dentries.name, inodes.id AS id_1, inodes.mode, inodes.uid, inodes.gid, "
    "inodes.nlink, inodes.rdev, inodes.size, inodes.atime_ns, inodes.mtime_ns, inodes.ctime_ns, "
    "inodes.crtime_ns, inodes.stored_seq FROM dentries JOIN inodes ON inodes.id = dentries.inode WHERE "
    "dentries.parent = ? AND dentries.id > ? ORDER BY dentries.id LIMIT ? OFFSET 0"
)
ANY_ENTRY = Prepared("SELECT dentries.id FROM dentries WHERE dentries.parent = ? LIMIT 1 OFFSET 0")
NAMES = Prepared("SELECT dentries.parent, dentries.name FROM dentries WHERE dentries.inode = ? ORDER BY dentries.id")
ADD_SYMLINK = Prepared("INSERT INTO symlinks (inode, target) VALUES (?, ?)")
SYMLINK = Prepared("SELECT symlinks.target FROM symlinks WHERE symlinks.inode = ?")
SET_XATTR = Prepared(
    "INSERT INTO xattrs (inode, name, value) VALUES (?, ?, ?) ON CONFLICT (inode, name) DO UPDATE SET "
    "value = excluded.value"
)
GET_XATTR = Prepared("SELECT xattrs.value FROM xattrs WHERE xattrs.inode = ? AND xattrs.name = ?")
REMOVE_XATTR = Prepared("DELETE FROM xattrs WHERE xattrs.inode = ? AND xattrs.name = ?")
LIST_XATTRS = Prepared("SELECT xattrs.name FROM xattrs WHERE xattrs.inode = ? ORDER BY xattrs.name")
ANY_XATTR = Prepared("SELECT xattrs.inode FROM xattrs WHERE xattrs.inode = ? LIMIT 1 OFFSET 0")
