# SPDX-License-Identifier: GPL-3.0-or-later
"""Every exception of cas3fs, as one tree.

::

    Cas3fsError                      what a user or the outside can cause; its text is one clear line
    ├── UsageError                   a value given by the user makes no sense
    ├── VolumeError                  the volume as a whole
    │   ├── VolumeMissing            no volume under that URL
    │   ├── VolumeExists             mkfs where one is
    │   ├── VolumeFormatError        made by a newer cas3fs, or not by cas3fs
    │   ├── StateInUse               another process works with this state directory
    │   ├── StateConflict            the state directory and the store do not belong together
    │   ├── EpochHeld                another writer has not released the volume
    │   ├── EpochUnknown             the volume never had that epoch
    │   └── Fenced                   a later writer has taken over
    ├── EntryError                   a stored object cannot be understood
    │   ├── EntryCorrupt             damaged, cut short, or of another kind
    │   ├── MissingAttribute         a required attribute is absent
    │   └── InvalidAttribute         an attribute cannot be coerced to its type
    ├── SnapshotError
    │   ├── SnapshotMissing          no snapshot of that id
    │   ├── SnapshotDamaged          a manifest, list or segment is missing or does not match its hash
    │   └── SnapshotArchived         a manifest or pages object lies in an archive: neither lost nor damaged
    ├── FilesNotStored               files that cannot be stored although others can
    ├── BlockError                   one block or pack; EIO for the range of the file it belongs to
    │   ├── BlockMissing
    │   ├── BlockCorrupt
    │   └── PackCorrupt
    ├── IndexDatabaseError           the local database
    │   ├── IndexFull                no room on the local disk
    │   ├── IndexCorrupt
    │   ├── IndexRowRefused          a value that no row can hold
    │   └── IndexTooNew              migrated by a newer cas3fs
    ├── StoreError                   the object store
    │   ├── ObjectMissing
    │   ├── ObjectArchived           it lies in an archive, and cannot be read before it is restored
    │   ├── ObjectExists             create-if-absent found the name taken
    │   ├── ObjectTooShort           it ends before the range that was asked
    │   ├── ObjectTooLong            it has more bytes than its reader takes
    │   ├── DeleteFailed             some keys of a batch were refused
    │   ├── StoreMissing             no such bucket or directory
    │   ├── AccessDenied             credentials are absent, wrong, or lack a right
    │   ├── InvalidKey               a key that could leave the volume, or that no store takes
    │   ├── StoreFull                no room in the store
    │   ├── StoreRefused             any other answer that asking again cannot change
    │   └── TransientStoreError      asking again may help
    │       ├── StoreUnreachable     no connection, no name, timeout
    │       ├── TruncatedBody        fewer bytes than announced
    │       └── StoreBusy            429, 5xx, a concurrent conditional write
    ├── ControlError                 the control socket of a mount
    ├── MountError                   mount point, /dev/fuse, fusermount
    └── FileSystemError              carries the errno for the kernel

The front-end maps `FileSystemError` to its errno and everything else of this tree to `errno_of`.
"""

import errno as _errno
import os
from collections.abc import Mapping, Sequence
from typing import Any


class Cas3fsError(Exception):
    """Base of all; ``str()`` of it is one line that tells what happened, to what, and what to do."""


class UsageError(Cas3fsError):
    """A value given by the user makes no sense."""


class VolumeError(Cas3fsError):
    """The volume as a whole."""


class VolumeMissing(VolumeError):
    """No volume under that URL."""


class VolumeExists(VolumeError):
    """A volume is already there."""


class VolumeFormatError(VolumeError):
    """Made by a newer cas3fs, or not by cas3fs at all."""


class StateInUse(VolumeError):
    """Another process works with this state directory."""


class StateConflict(VolumeError):
    """The state directory and the store do not belong together."""


class EpochHeld(VolumeError):
    """Another writer has not released the volume."""


class EpochUnknown(VolumeError):
    """The volume never had that epoch."""


class Fenced(VolumeError):
    """A later writer has taken over."""


class EntryError(Cas3fsError):
    """A stored object cannot be understood."""


class EntryCorrupt(EntryError):
    """Damaged, cut short, or of another kind."""


class MissingAttribute(EntryError):
    """A required attribute is absent."""


class InvalidAttribute(EntryError):
    """An attribute cannot be coerced to its type."""


class SnapshotError(Cas3fsError):
    """A snapshot of the index."""


class SnapshotMissing(SnapshotError):
    """No snapshot of that id."""


class SnapshotDamaged(SnapshotError):
    """A manifest, list or segment is missing or does not match its hash."""


class SnapshotArchived(SnapshotError):
    """A manifest, or pages of a snapshot, lie in an archive: nothing is lost, and nobody can read it for now."""


class FilesNotStored(Cas3fsError):
    """Files that cannot be stored although others can; `files` has what is told of each, for JSON."""

    def __init__(self, message: str, files: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.files = files

    @classmethod
    def of(cls, files: Sequence[Mapping[str, Any]], then: str) -> "FilesNotStored":
        """The error that names the first of the files, by `path` and `reason`, and says what `then` is so."""
        count = "1 file is" if len(files) == 1 else f"{len(files):,} files are"
        such_as = "" if len(files) == 1 else "such as "
        return cls(
            f"{count} not in the store: {such_as}{files[0]['path']}: {files[0]['reason']}; {then}; it is tried again "
            "and again: `cas3fs stats` shows which, and a file that is written anew or removed is none of them",
            files,
        )


class BlockError(Cas3fsError):
    """One block or pack: EIO for the range of the file it belongs to."""


class BlockMissing(BlockError):
    """The store has no such pack, or no such range of it."""


class BlockCorrupt(BlockError):
    """The bytes do not match the block's hash, length or codec."""


class PackCorrupt(BlockError):
    """The table of contents of a pack makes no sense."""


class IndexDatabaseError(Cas3fsError):
    """The local database; `group_lost` says that its open transaction is gone, with all operations in it, `is_final`
    that trying again cannot help this process."""

    group_lost = False
    is_final = False


class IndexFull(IndexDatabaseError):
    """No room on the local disk."""


class IndexCorrupt(IndexDatabaseError):
    """SQLite finds the database damaged."""


class IndexRowRefused(IndexDatabaseError):
    """SQLite does not take a row: a number has more than 64 bits, or something of that name is there."""


class IndexTooNew(IndexDatabaseError):
    """The database was migrated by a newer cas3fs."""


class StoreError(Cas3fsError):
    """The object store."""


class ObjectMissing(StoreError):
    """No object of that name."""


class ObjectArchived(StoreError):
    """The object lies in a storage class that cannot be read before it is restored."""


class ObjectExists(StoreError):
    """Create-if-absent found the name taken."""


class ObjectTooShort(StoreError):
    """The object ends before the range that was asked: it is not what its reader believes."""


class ObjectTooLong(StoreError):
    """The object has more bytes than its reader takes into memory: it is not what its reader believes."""


class DeleteFailed(StoreError):
    """Some keys of a batch were refused; `keys` names them."""

    def __init__(self, message: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


class StoreMissing(StoreError):
    """No such bucket or directory."""


class AccessDenied(StoreError):
    """Credentials are absent, wrong, or lack a right."""


class InvalidKey(StoreError):
    """A key that could leave the volume, or that no store takes."""


class StoreFull(StoreError):
    """No room in the store."""


class StoreRefused(StoreError):
    """Any other answer that asking again cannot change."""


class TransientStoreError(StoreError):
    """Asking again may help."""

    transfer_s = 0.0
    """For so many seconds of the attempt bytes moved, before it failed."""


class StoreUnreachable(TransientStoreError):
    """No connection, no name, or no answer in time."""


class TruncatedBody(TransientStoreError):
    """Fewer bytes than announced."""


class StoreBusy(TransientStoreError):
    """429, 5xx, or a concurrent conditional write."""


class ControlError(Cas3fsError):
    """The control socket of a mount."""


class MountError(Cas3fsError):
    """Mount point, /dev/fuse or fusermount."""


class FileSystemError(Cas3fsError):
    """An operation of the file system failed with `errno`."""

    def __init__(self, errno: int, message: str = "") -> None:
        super().__init__(message or os.strerror(errno))
        self.errno = errno


def errno_of(error: BaseException) -> int:
    """The errno that tells a program of the mount what `error` is: exhaustive, EIO where nothing fits better."""
    if isinstance(error, FileSystemError):
        return error.errno
    if isinstance(error, IndexFull | StoreFull):
        return _errno.ENOSPC
    if isinstance(error, Fenced):
        return _errno.EROFS
    if isinstance(error, OSError) and error.errno in (_errno.ENOSPC, _errno.EDQUOT):
        return _errno.ENOSPC
    return _errno.EIO
