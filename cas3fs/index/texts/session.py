# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.session`."""

from cas3fs.index.prepared import Prepared

ADD_ROOT = Prepared(
    (
        "INSERT INTO inodes (id, mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns, crtime_ns, "
        "stored_seq) VALUES (?, ?, ?, ?, 2, 0, 0, ?, ?, ?, ?, 0)"
    ),
    (0, 1, 2, 3, 4, 4, 4, 4),
)
STAMP = Prepared("INSERT INTO alembic_version (version_num) VALUES (?)")
REVISION = Prepared("SELECT alembic_version.version_num FROM alembic_version")
