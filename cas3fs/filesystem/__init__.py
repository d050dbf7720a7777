# SPDX-License-Identifier: GPL-3.0-or-later
"""The file system, without FUSE: usable from Python, and by any front-end.

Vocabulary
    inode       a file of any type, by number; names are entries of directories
    handle      an open file or directory, by number
    layer       what was written to a file and is not in the store yet; a file has a stack of them (`state.layers`)
    staging     all layers, and their durable home on the local disk (`state.staging`)
    row         the record of one layer in staging's database: it makes the layer survive a crash
    group       the open transaction of the index, which one commit makes durable (`writeback.commits`)
    region      a dirty part of a file, widened to where blocks begin and end (`writeback.rechunk`)
    storing     uploading dirty regions as blocks in packs, and entering their chunks (`writeback.storer`)
    unstorable  a file that cannot be stored although others can be (`writeback.unstorable`)
    checkpoint  an image of the index that shows a state the file system had (`writeback.checkpoint`)

Parts: `FileSystem` makes them and holds them; each says in its constructor what it needs
    state       `FileSystemState`: index, inodes, names, staging, and the lock that guards them; given to all others
    reading     how bytes of a file are read: layers over chunks over zeros
    operations  what programs do: `Directories`, `Renames`, `Listings`, `Files`, `Ranges`, `Xattrs`, and `Statistics`
    copies      copies of ranges of files: `Copies`
    writeback   how changes become durable: `Commits`, `Storer`, `Checkpoints`, `PackRecords`

Invariants
    - A read sees the layers of a file from the top down, then its chunk list, then zeros.
    - While a file has an unstored layer, staging owns its size, mtime and ctime; the index has them as of the last time
      it was stored.
    - The index names only blocks in packs that the store has confirmed.
    - An operation changes the index completely or not at all, and memory only after its last statement.
    - What staging holds is durable before the group that depends on it; a row goes only when the index is durable.

Locks, in the order in which they are taken
    1. a lock of the front-end, held around a handler; nothing here takes it
    2. the mutex of `Checkpoints`: one checkpoint at a time
    3. the mutex of the index's file (`cas3fs.index.index_file`): while commits move from its log into it, or it is
       pinned
    4. ``commit_mutex`` of `Commits`: one commit at a time
    5. ``lock`` of `FileSystemState`: guards the index's connection, inodes, names, layers and handles; it is held for
       microseconds and never across a request to the store, but a commit holds it while staging rows are synced
    6. locks of the layer files (`state.layer_files`), of caches, block reader and block writer, which never call up

Other subpackages reach the index by `FileSystem.index_transaction`, and only so.

It does not know of FUSE, of object stores' names and formats, of snapshots, or of epochs.
"""

from cas3fs.filesystem.filesystem import FileSystem
from cas3fs.filesystem.operations.listings import Entry, EntryWithInode
from cas3fs.filesystem.operations.statistics import Pending, VolumeStatistics
from cas3fs.filesystem.settings import Caller, FileSystemSettings, Owner
from cas3fs.filesystem.state.inodes import ROOT, Inode
from cas3fs.filesystem.state.staging import Staging
from cas3fs.filesystem.writeback.unstorable import UnstorableFile

__all__ = [
    "ROOT",
    "Caller",
    "Entry",
    "EntryWithInode",
    "FileSystem",
    "FileSystemSettings",
    "Inode",
    "Owner",
    "Pending",
    "Staging",
    "UnstorableFile",
    "VolumeStatistics",
]
