# SPDX-License-Identifier: GPL-3.0-or-later
"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes all tables of revision 0001."""
    _namespace()
    _content()
    op.create_table(
        "volume_state",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )


def _integers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, BIG, nullable=False) for name in names]


def _namespace() -> None:
    op.create_table(
        "inodes",
        *_integers("id", "mode", "uid", "gid", "nlink", "rdev", "size"),
        *_integers("atime_ns", "mtime_ns", "ctime_ns", "crtime_ns", "stored_seq"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dentries",
        *_integers("id", "parent"),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        *_integers("inode"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("parent", "name", name="uq_dentries_parent_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_dentries_inode", "dentries", ["inode"])
    op.create_index("ix_dentries_parent", "dentries", ["parent"])
    op.create_table(
        "symlinks",
        sa.Column("inode", BIG, autoincrement=False, nullable=False),
        sa.Column("target", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("inode"),
    )
    op.create_table(
        "xattrs",
        sa.Column("inode", BIG, autoincrement=False, nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("inode", "name"),
        sqlite_with_rowid=False,
    )


def _content() -> None:
    op.create_table(
        "chunks",
        sa.Column("inode", BIG, autoincrement=False, nullable=False),
        sa.Column("offset", BIG, autoincrement=False, nullable=False),
        *_integers("length", "block", "skip"),
        sa.PrimaryKeyConstraint("inode", "offset"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "blocks",
        *_integers("id"),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        *_integers("pack", "offset", "stored_length", "plain_length"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_blocks_hash", "blocks", ["hash"], unique=True)
    op.create_table(
        "packs",
        *_integers("id"),
        sa.Column("name", sa.Text(), nullable=False),
        *_integers("size", "born"),
        sa.Column("died", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", name="uq_packs_name"),
        sqlite_autoincrement=True,
    )
