# SPDX-License-Identifier: GPL-3.0-or-later
"""Sums of each file's chunks, and the blocks that are known to be lost.

The sums are taken from the chunks as they are. The table of inodes is made anew, as SQLite would write a column that is
added in another way than one that was always there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OLD = "inodes_0001"
PRIME = 2147483647
SUM = (
    f"sum(block % {PRIME} * ((offset % {PRIME} * 3 + length % {PRIME} * 5 + skip % {PRIME} * 7 + 1) % {PRIME}) "
    f"% {PRIME})"
)
KEPT = "id, mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns, crtime_ns, stored_seq"
NOWHERE = "00000000/" + "0" * 64


def upgrade() -> None:
    """Brings the tables of 0001 to those of 0002."""
    _sum_up()
    _note_losses()


def _sum_up() -> None:
    op.rename_table("inodes", OLD)
    op.create_table(
        "inodes",
        *(sa.Column(name, BIG, nullable=False) for name in KEPT.split(", ")),
        sa.Column("chunk_count", BIG, server_default="0", nullable=False),
        sa.Column("chunk_sum", BIG, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.execute(
        f"INSERT INTO inodes ({KEPT}, chunk_count, chunk_sum) "
        f"SELECT {KEPT}, coalesce(s.number, 0), coalesce(s.total, 0) FROM {OLD} i LEFT JOIN "
        f"(SELECT inode, count(*) AS number, {SUM} AS total FROM chunks GROUP BY inode) s ON s.inode = i.id ORDER BY id"
    )
    # numbers are not used again, also those of inodes that are gone
    op.execute(
        f"UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = '{OLD}') WHERE name = 'inodes'"
    )
    op.drop_table(OLD)


def _note_losses() -> None:
    op.create_table(
        "lost_blocks",
        sa.Column("block", BIG, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("block"),
    )
    known = "(SELECT char(10) || value || char(10) FROM volume_state WHERE key = 'lost_packs')"
    op.execute(
        "INSERT INTO lost_blocks SELECT b.id FROM blocks b JOIN packs p ON p.id = b.pack "
        f"WHERE p.name = '{NOWHERE}' OR instr(coalesce({known}, ''), char(10) || p.name || char(10)) > 0"
    )
