# SPDX-License-Identifier: GPL-3.0-or-later
"""The file system, without FUSE: usable from Python, and by whatever front-end serves it.

Vocabulary
    inode       a file of whatever type, by number; names are entries of directories
    handle      an open file or directory, by number
    layer       what was written to a file and is not in the store yet; a file has a stack of them (`layers`)
    staging     all layers, with their durable home on the local disk (`staging`)
    group       the operations that one commit makes durable together (`commits`)
    region      a dirty part of a file, widened to where blocks begin and end (`cutting`)
    storing     dirty regions become blocks in packs, and chunks in the index (`storing`)
    refusal     what keeps one file from being stored although others can be (`refusals`)

What reads see: the layers of a file from the top down, then its chunk list, then zeros.

It does not know of llfuse, of buckets, of snapshots' format, or of epochs.
"""

from cas3fs.filesystem.base import Caller, FileSystemSettings, Owner
from cas3fs.filesystem.filesystem import FileSystem, Pending, VolumeStatistics
from cas3fs.filesystem.inodes import ROOT, Inode
from cas3fs.filesystem.refusals import UnstoredFile
from cas3fs.filesystem.staging import Staging

__all__ = [
    "ROOT",
    "Caller",
    "FileSystem",
    "FileSystemSettings",
    "Inode",
    "Owner",
    "Pending",
    "Staging",
    "UnstoredFile",
    "VolumeStatistics",
]
