# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.index`."""

from sqlalchemy import insert, literal_column, select

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import alembic_version, inodes

_NOW_COLUMNS = ("atime_ns", "mtime_ns", "ctime_ns", "crtime_ns")
_NOW_COLUMNS = ("atime_ns", "mtime_ns", "ctime_ns", "crtime_ns")
ADD_ROOT = Written(
    insert(inodes)
    .values(
        {name: literal_column("0") for name in ("rdev", "size", "stored_seq")}
        | {
            "id": param("id"),
            "mode": param("mode"),
            "uid": param("uid"),
            "gid": param("gid"),
            "nlink": literal_column("2"),
        }
        | dict.fromkeys(_NOW_COLUMNS, param("now"))
    )
    .inline(),
    "id mode uid gid now",
)
STAMP = Written(insert(alembic_version).values(version_num=param("revision")).inline(), "revision")
REVISION = Written(select(alembic_version.c.version_num))
