# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of the index: the one place where they are declared.

A new index is made from them, and statements name their columns. `migrations/` brings older databases to what is
declared here; a test compares both word by word.

Autoincrement keeps numbers from being used again after their row was deleted. Tables without a rowid are stored in
the order of their primary key, so that the chunks of a file lie together. SQLite appends the row's id to every entry
of an index, so the one on (parent) is ordered by (parent, id), which is readdir's order.
"""

from typing import Final

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
    column,
    table,
)

ROOT_INODE: Final = 1
"""The number of the root directory, which has no name."""

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
    # as chattr sets them: FS_IMMUTABLE_FL and others of FS_IOC_GETFLAGS
    Column("flags", Big, nullable=False, server_default="0"),
    Column("size", Big, nullable=False),
    Column("atime_ns", Big, nullable=False),
    Column("mtime_ns", Big, nullable=False),
    Column("ctime_ns", Big, nullable=False),
    Column("crtime_ns", Big, nullable=False),
    # the sequence of the newest staged change whose bytes are in `chunks`: what is not newer is not replayed
    Column("stored_seq", Big, nullable=False),
    # the checksum of its rows in `chunks`, which every change of those changes too: what is lost there shows here
    Column("chunk_count", Big, nullable=False, server_default="0"),
    Column("chunk_sum", Big, nullable=False, server_default="0"),
    Column("chunk_bytes", Big, nullable=False, server_default="0"),
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
    # found by its hash without an index here, so that snapshots need none: module `hash_index`
    sqlite_autoincrement=True,
)

# blocks whose bytes were found missing or wrong: nothing is deduplicated onto them until they are stored again
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
"""Alembic's own table: declared here so that a new index can be made without Alembic."""

alembic_version = Table(
    "alembic_version",
    revision_metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

sequences = table("sqlite_sequence", column("name", Text), column("seq", Integer))
"""SQLite's own: the greatest number that each table with autoincrement ever had."""

hashes_metadata = MetaData()
"""The tables of `index.sqlite-hashes`, a separate database that is part of no snapshot."""

block_hashes = Table(
    "block_hashes",
    hashes_metadata,
    # of the hash
    Column("prefix", LargeBinary, primary_key=True),
    Column("block", Big, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

staging_metadata = MetaData()
"""The tables of `staging.sqlite`, a separate database that is part of no snapshot."""

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
    # those of the ranges that the local disk has lost
    Column("lost", LargeBinary, nullable=True),
    # the ranges that were punched: zeros, whatever lies below
    Column("holes", LargeBinary, nullable=True),
)

ledger_metadata = MetaData()
"""The tables of `copied.sqlite`, what a copy of a volume knows by itself (`cas3fs.copying`); part of no snapshot."""

ledger_meta = Table(
    "meta",
    ledger_metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

# the hash that a block of the source has in the destination
copied_blocks = Table(
    "copied",
    ledger_metadata,
    Column("source", LargeBinary, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# into which blocks a part of a file with these chunks in the source is cut for the destination
recut_parts = Table(
    "recut",
    ledger_metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("chunks", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# parts of files that were read back and compared, with what they are made of on both sides
verified_parts = Table(
    "verified",
    ledger_metadata,
    Column("digest", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
