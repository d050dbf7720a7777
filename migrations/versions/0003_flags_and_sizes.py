# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags of inodes, as chattr sets them, and how many bytes each file's chunks hold.

The bytes are counted from the chunks as they are. As in 0002, the table of inodes is made anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OLD = "inodes_0002"
BEFORE = "id, mode, uid, gid, nlink, rdev"
AFTER = "size, atime_ns, mtime_ns, ctime_ns, crtime_ns, stored_seq"
SUMS = "chunk_count, chunk_sum"


def upgrade() -> None:
    """Brings the tables of 0002 to those of 0003."""
    op.rename_table("inodes", OLD)
    op.create_table(
        "inodes",
        *(sa.Column(name, BIG, nullable=False) for name in BEFORE.split(", ")),
        sa.Column("flags", BIG, server_default="0", nullable=False),
        *(sa.Column(name, BIG, nullable=False) for name in AFTER.split(", ")),
        *(sa.Column(name, BIG, server_default="0", nullable=False) for name in (*SUMS.split(", "), "chunk_bytes")),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.execute(
        f"INSERT INTO inodes ({BEFORE}, {AFTER}, {SUMS}, chunk_bytes) "
        f"SELECT {BEFORE}, {AFTER}, {SUMS}, coalesce(s.bytes, 0) FROM {OLD} i LEFT JOIN "
        "(SELECT inode, sum(length) AS bytes FROM chunks GROUP BY inode) s ON s.inode = i.id ORDER BY id"
    )
    # numbers are not used again, also those of inodes that are gone
    op.execute(
        f"UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = '{OLD}') WHERE name = 'inodes'"
    )
    op.drop_table(OLD)
