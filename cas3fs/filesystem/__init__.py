# SPDX-License-Identifier: GPL-3.0-or-later
"""The file system, without FUSE: usable from Python, and by whatever front-end serves it.

Vocabulary
    inode       a file of whatever type, by number; names are entries of directories
    handle      an open file or directory, by number
    layer       what was written to a file and is not in the store yet; a file has a stack of them (`layers`)
    staging     all layers, with their durable home on the local disk (`staging`)
    group       the operations that one commit makes durable together (`commits`)
    region      a dirty part of a file, widened to where blocks begin and end (`rechunk`)
    storing     dirty regions become blocks in packs, and chunks in the index (`storer`)
    unstorable  a file that cannot be stored although others can be (`unstorable`)

What reads see: the layers of a file from the top down, then its chunk list, then zeros.

It does not know of llfuse, of buckets, of snapshots' format, or of epochs.
"""

from cas3fs.filesystem.filesystem import FileSystem
from cas3fs.filesystem.operations.statistics import Pending, VolumeStatistics
from cas3fs.filesystem.settings import Caller, FileSystemSettings, Owner
from cas3fs.filesystem.state.inodes import ROOT, Inode
from cas3fs.filesystem.state.staging import Staging
from cas3fs.filesystem.writeback.unstorable import UnstorableFile

__all__ = [
    "ROOT",
    "Caller",
    "FileSystem",
    "FileSystemSettings",
    "Inode",
    "Owner",
    "Pending",
    "Staging",
    "UnstorableFile",
    "VolumeStatistics",
]
