# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of the index.

`migrations/` brings older databases to what is declared here; a test holds that both agree, word by word.

Autoincrement keeps numbers from being used again after their row was deleted. Tables without a rowid are stored in
the order of their primary key, so that the chunks of a file lie together. SQLite appends the row's id to every entry
of an index, so the one on (parent) is ordered by (parent, id), which is readdir's order.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# SQLite numbers rows by themselves only in a column declared INTEGER, which has 64 bits there
Big = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

inodes = Table(
    "inodes",
    metadata,
    Column("id", Big, primary_key=True),
    Column("mode", Big, nullable=False),
    Column("uid", Big, nullable=False),
    Column("gid", Big, nullable=False),
    Column("nlink", Big, nullable=False),
    Column("rdev", Big, nullable=False),
    Column("size", Big, nullable=False),
    Column("atime_ns", Big, nullable=False),
    Column("mtime_ns", Big, nullable=False),
    Column("ctime_ns", Big, nullable=False),
    Column("crtime_ns", Big, nullable=False),
    # the sequence of the newest staged change whose bytes are in `chunks`: what is not newer is not replayed
    Column("stored_seq", Big, nullable=False),
    # what `chunks` has of it, counted and summed up by those who changed it (`sums`): what is lost there shows here
    Column("chunk_count", Big, nullable=False, server_default="0"),
    Column("chunk_sum", Big, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

dentries = Table(
    "dentries",
    metadata,
    Column("id", Big, primary_key=True),
    Column("parent", Big, nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("inode", Big, nullable=False),
    UniqueConstraint("parent", "name", name="uq_dentries_parent_name"),
    Index("ix_dentries_parent", "parent"),
    Index("ix_dentries_inode", "inode"),
    sqlite_autoincrement=True,
)

symlinks = Table(
    "symlinks",
    metadata,
    Column("inode", Big, primary_key=True, autoincrement=False),
    Column("target", LargeBinary, nullable=False),
)

xattrs = Table(
    "xattrs",
    metadata,
    Column("inode", Big, primary_key=True, autoincrement=False),
    Column("name", LargeBinary, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

chunks = Table(
    "chunks",
    metadata,
    Column("inode", Big, primary_key=True, autoincrement=False),
    Column("offset", Big, primary_key=True, autoincrement=False),
    Column("length", Big, nullable=False),
    Column("block", Big, nullable=False),
    Column("skip", Big, nullable=False),
    sqlite_with_rowid=False,
)

blocks = Table(
    "blocks",
    metadata,
    Column("id", Big, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("pack", Big, nullable=False),
    Column("offset", Big, nullable=False),
    Column("stored_length", Big, nullable=False),
    Column("plain_length", Big, nullable=False),
    # no constraint, so that copies can do without it: module `trimming`
    Index("uq_blocks_hash", "hash", unique=True),
    sqlite_autoincrement=True,
)

# blocks whose bytes were found missing or wrong: nothing is deduplicated onto them until they were stored again
lost_blocks = Table(
    "lost_blocks",
    metadata,
    Column("block", Big, primary_key=True, autoincrement=False),
)

packs = Table(
    "packs",
    metadata,
    Column("id", Big, primary_key=True),
    Column("name", Text, nullable=False),
    Column("size", Big, nullable=False),
    Column("born", Big, nullable=False),
    Column("died", Big, nullable=True),
    UniqueConstraint("name", name="uq_packs_name"),
    sqlite_autoincrement=True,
)

volume_state = Table(
    "volume_state",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

revision_metadata = MetaData()
"""Alembic's own table, which is no table of ours: declared so that a new index can be made without Alembic."""

alembic_version = Table(
    "alembic_version",
    revision_metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

staging_metadata = MetaData()
"""The tables of `staging.sqlite`, a database apart: it is no part of any snapshot."""

staging_meta = Table(
    "meta",
    staging_metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

staged = Table(
    "staged",
    staging_metadata,
    Column("inode", Big, primary_key=True, autoincrement=False),
    Column("seq", Big, primary_key=True, autoincrement=False),
    Column("floor", Big, nullable=True),
    Column("size", Big, nullable=False),
    Column("mtime_ns", Big, nullable=False),
    Column("ctime_ns", Big, nullable=False),
    Column("ranges", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=True),
    # the ranges, of those above, that the local disk has lost
    Column("lost", LargeBinary, nullable=True),
)
