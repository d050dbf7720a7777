# SPDX-License-Identifier: GPL-3.0-or-later
"""The index: which files there are, what they are called, and which blocks hold their bytes.

All SQL of cas3fs is in this room; the database is SQLite, the statements are SQLAlchemy Core's
(`statements`), and their texts are kept (`texts`).

Vocabulary
    index       the database of one volume on this machine; the store holds snapshots of it
    inode       a file of whatever type; its number is never reused; number 1 is the root directory
    entry       a name in a directory; its id is the cookie of readdir, so it grows and is never reused
    chunk       the use of a block at an offset of a file; between chunks are holes
    group       the transaction that is open while operations come in; one commit ends it for all of them
    operation   a change that happens as a whole or not at all: a savepoint within the group
    pinned      a state of the index that a reader goes on seeing, whatever is committed after it

Invariants
    A chunk names a block that a confirmed pack holds: both enter in one transaction. Chunks of a file never overlap.
    Names and contents are bytes. Times are whole nanoseconds. The database is never vacuumed and its pages have one
    size for ever, so that a snapshot shares its pages with the one before.

Threads
    The room has no threads, and the writer's connection no lock: the caller holds one lock of its own around every
    call of an `Index`, of its namespace, chunks, blocks and state. What needs none: `Index.sync`, `Index.reader` and
    what it gives, `PinnedIndex`, and all of `StagingIndex`. No open database may cross a fork.

It knows nothing of the object store, of staging files, of FUSE, or of what a checkpoint is.
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
    "VolumeState",
    "number_of",
    "ordinal_of",
]
