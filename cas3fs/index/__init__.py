# SPDX-License-Identifier: GPL-3.0-or-later
"""The index: which files there are, what they are called, and which blocks hold their bytes.

All SQL of cas3fs is in this subpackage. It is written with SQLAlchemy Core over the tables that `tables` declares; the
engine that runs it is SQLite.

Vocabulary
    index       the database of one volume on this machine; the store holds snapshots of it
    inode       a file of whatever type; its number is never reused; number 1 is the root directory
    entry       a name in a directory; its id is the cookie of readdir, so it grows and is never reused
    chunk       the use of a block at an offset of a file; between chunks are holes
    checksum    what an inode says of its chunks, so that a lost chunk is noticed
    group       the transaction that is open while operations come in; one commit ends it for all of them
    operation   a change that happens as a whole or not at all: a savepoint within the group
    pinned      a state of the index that a reader goes on seeing, whatever is committed after it; of the file: it does
                not change, as nothing is moved into it
    move        what SQLite calls a checkpoint: pages of committed changes go from the write-ahead log into the file
    lost        of a block: its bytes were found missing or wrong; of a group: SQLite has undone it
    scan        all packs or blocks of one kind as of one instant, in a temporary table

Invariants
    A chunk names a block that a confirmed pack holds: both enter in one transaction. Chunks of a file never overlap.
    Names and contents are bytes. Times are whole nanoseconds. The database is never vacuumed and its pages have one
    size for ever, so that a snapshot shares its pages with the one before.

Where to find and to add what
    A statement stands in the class beside the method that runs it (`statement` shows how): in `namespace` (inodes,
    names, link targets, extended attributes), `chunks`, `blocks` (and packs), `garbage`, `reader` (questions about the
    whole), `staging` (a database of its own), `checks` and `repairs` (fsck), `scans` (gc and fsck), `usage` (du),
    `pack_merge` (restoring an older snapshot), `hash_index` (finding blocks by hash), `copying` and `ledger` (copying
    another volume). A column or table is added in `tables` and as a step in `migrations/`, whose id goes to `schema`. A
    pragma, or other SQL that only SQLite has, goes to `sqlite`, or `sqlite_features` if it is no matter of
    transactions. A class that reads through a connection of its own is a `holder.ConnectionHolder`.
    `index_file` owns the file and its log, decides when commits move from one to the other, and reads the file for
    snapshots.

    `Index` puts the parts together. What only gc and fsck need is imported from its module when they begin.

Threads
    The subpackage has no threads, and the writer's connection no lock: the caller holds one lock of its own around
    every call of an `Index`, of its namespace, chunks, blocks and state. No lock is needed for `Index.sync`,
    `Index.reader` and the reader itself, `Index.prepare_hashes`, `PinnedIndex`, and all of `StagingIndex`. An
    `IndexFile` says of each method what it needs. No open database may cross a fork.

It knows nothing of the object store, of staging files, of FUSE, or of what a checkpoint of the file system is.
"""

from cas3fs.index.blocks import (
    LOST_PACK,
    BlockTable,
    DeadPack,
    PackContents,
    PackRow,
    PackUse,
    number_of,
    ordinal_of,
)
from cas3fs.index.chunks import ChunkTable
from cas3fs.index.garbage import Garbage
from cas3fs.index.index import Index, PinnedIndex, VolumeState
from cas3fs.index.namespace import InodeRow, Namespace
from cas3fs.index.reader import Counts, IndexReader
from cas3fs.index.staging import StagedRow, StagingIndex
from cas3fs.index.tables import ROOT_INODE
from cas3fs.index.tree_rows import TreeRows

__all__ = [
    "LOST_PACK",
    "ROOT_INODE",
    "BlockTable",
    "ChunkTable",
    "Counts",
    "DeadPack",
    "Garbage",
    "Index",
    "IndexReader",
    "InodeRow",
    "Namespace",
    "PackContents",
    "PackRow",
    "PackUse",
    "PinnedIndex",
    "StagedRow",
    "StagingIndex",
    "TreeRows",
    "VolumeState",
    "number_of",
    "ordinal_of",
]
