# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.staging`."""

from cas3fs.index.prepared import Prepared

SAVE = Prepared(
    "INSERT INTO staged (inode, seq, floor, size, mtime_ns, ctime_ns, ranges, data, lost) VALUES (?, ?, "
    "?, ?, ?, ?, ?, ?, ?) ON CONFLICT (inode, seq) DO UPDATE SET floor = excluded.floor, size = "
    "excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, ranges = excluded.ranges,"
    " data = excluded.data, lost = excluded.lost"
)
DELETE = Prepared("DELETE FROM staged WHERE staged.inode = ? AND staged.seq = ?")
KEYS = Prepared("SELECT staged.inode, staged.seq FROM staged ORDER BY staged.inode, staged.seq")
ROW = Prepared(
    "SELECT staged.inode, staged.seq, staged.floor, staged.size, staged.mtime_ns, staged.ctime_ns, "
    "staged.ranges, staged.data, staged.lost FROM staged WHERE staged.inode = ? AND staged.seq = ?"
)
NEXT = Prepared(
    "SELECT rowid, staged.inode, staged.seq, staged.floor, staged.size, staged.mtime_ns, staged.ctime_ns,"
    " staged.ranges, staged.data, staged.lost FROM staged WHERE ? < rowid ORDER BY rowid LIMIT 1 OFFSET 0"
)
GET = Prepared('SELECT meta.value FROM meta WHERE meta."key" = ?')
SET = Prepared('INSERT INTO meta ("key", value) VALUES (?, ?) ON CONFLICT ("key") DO UPDATE SET value = excluded.value')
