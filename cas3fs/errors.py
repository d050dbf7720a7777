# SPDX-License-Identifier: GPL-3.0-or-later
"""Every exception of cas3fs, as one tree.

::

    Cas3fsError                      caused by the user or by the outside; its text is one clear line
    ├── UsageError                   an invalid value from the user
    ├── VolumeError                  the volume as a whole
    │   ├── VolumeMissing            no volume under that URL
    │   ├── VolumeExists             mkfs where there is a volume
    │   ├── VolumeFormatError        made by a newer cas3fs, or not by cas3fs
    │   ├── StateInUse               another process uses the state directory
    │   ├── StateConflict            the state directory does not match the store
    │   ├── EpochHeld                another writer has not released the volume
    │   ├── EpochUnknown             the volume has no such epoch
    │   ├── Fenced                   a later writer has taken over
    │   └── StoreRolledBack          the store has an older state, or another volume, than this machine has seen
    ├── KeysError                    the keys of an encrypted volume
    │   ├── SecretMissing            the volume is encrypted, and no passphrase or key was given
    │   ├── SecretWrong              no entry of a key is opened by what was given
    │   ├── KeyringDamaged           the keys in the store were changed, or are missing
    │   └── GenerationUnknown        sealed with a generation of the key that the keyring lacks
    ├── EntryError                   a stored entry cannot be decoded
    │   ├── EntryCorrupt             damaged, truncated, or of another kind
    │   ├── MissingAttribute         a required attribute is missing
    │   └── InvalidAttribute         an attribute has an invalid value
    ├── SnapshotError
    │   ├── SnapshotMissing          no snapshot with that id
    │   ├── SnapshotDamaged          a manifest, list or segment is missing or does not match its hash
    │   └── SnapshotArchived         a manifest or pages object is in an archive: neither lost nor damaged
    ├── FilesNotStored               some files cannot be stored
    ├── BlockError                   a block or pack cannot be read: EIO for that range of a file
    │   ├── BlockMissing
    │   ├── BlockCorrupt
    │   └── PackCorrupt
    ├── IndexDatabaseError           the local database
    │   ├── IndexFull                the local disk is full
    │   ├── IndexCorrupt
    │   ├── IndexRowRefused          a value that SQLite cannot store
    │   ├── PinLost                  it did not stay as it was while a snapshot was made of it
    │   └── IndexTooNew              migrated by a newer cas3fs
    ├── StoreError                   the object store
    │   ├── ObjectMissing
    │   ├── ObjectArchived           it must be restored from an archive before it can be read
    │   ├── ObjectExists             create-if-absent found an object
    │   ├── ObjectTooShort           it ends before the requested range does
    │   ├── ObjectTooLong            it exceeds the limit of its reader
    │   ├── ObjectDamaged            its bytes are not what was sealed
    │   ├── DeleteFailed             the store refused to delete some keys
    │   ├── StoreMissing             no such bucket or directory
    │   ├── AccessDenied             credentials are missing, wrong, or lack a permission
    │   ├── InvalidKey               a key that breaks the rules for keys
    │   ├── StoreFull                the store is full
    │   ├── StoreRefused             any other failure that trying again cannot change
    │   └── TransientStoreError      trying again may help
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
    """The base of all; its text is one line: what happened, to what, and what to do."""


class UsageError(Cas3fsError):
    """A value from the user is invalid."""


class VolumeError(Cas3fsError):
    """The volume as a whole cannot be used as requested."""


class VolumeMissing(VolumeError):
    """There is no volume at that URL."""


class VolumeExists(VolumeError):
    """There is a volume already."""


class VolumeFormatError(VolumeError):
    """The volume was made by a newer cas3fs, or not by cas3fs."""


class StateInUse(VolumeError):
    """Another process uses this state directory."""


class StateConflict(VolumeError):
    """The state directory does not match the store."""


class EpochHeld(VolumeError):
    """Another writer has not released the volume."""


class EpochUnknown(VolumeError):
    """The volume has no such epoch."""


class Fenced(VolumeError):
    """A later writer has taken over."""


class StoreRolledBack(VolumeError):
    """The store has an older state of an encrypted volume, or another volume, than this machine has seen."""


class KeysError(Cas3fsError):
    """The keys of an encrypted volume cannot be used."""


class SecretMissing(KeysError):
    """The volume is encrypted, and no passphrase or key was given."""


class SecretWrong(KeysError):
    """What was given opens no entry of a key: it is wrong, or the entry is damaged."""


class KeyringDamaged(KeysError):
    """The keys in the store were changed, or are missing."""


class GenerationUnknown(KeysError):
    """Something is sealed with a generation of the key that the keyring lacks."""


class EntryError(Cas3fsError):
    """A stored entry cannot be decoded."""


class EntryCorrupt(EntryError):
    """The entry is damaged, truncated, or of another kind."""


class MissingAttribute(EntryError):
    """A required attribute is missing."""


class InvalidAttribute(EntryError):
    """An attribute has an invalid value."""


class SnapshotError(Cas3fsError):
    """A snapshot cannot be used."""


class SnapshotMissing(SnapshotError):
    """There is no snapshot with that id."""


class SnapshotDamaged(SnapshotError):
    """A manifest, list or segment is missing or does not match its hash."""


class SnapshotArchived(SnapshotError):
    """A manifest or pages object is in an archive: nothing is lost, but it must be restored before it can be read."""


class FilesNotStored(Cas3fsError):
    """Some files cannot be stored although others can.

    Attributes:
        files: what is reported of each, for JSON: its ``path``, the ``reason`` and more.
    """

    def __init__(self, message: str, files: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.files = files

    @classmethod
    def of(cls, files: Sequence[Mapping[str, Any]], then: str) -> "FilesNotStored":
        """The error for these files.

        Args:
            files: the text names the first one, by its ``path`` and ``reason``.
            then: the next part of the text: what holds in spite of these files.
        """
        count = "1 file is" if len(files) == 1 else f"{len(files):,} files are"
        such_as = "" if len(files) == 1 else "such as "
        return cls(
            f"{count} not in the store: {such_as}{files[0]['path']}: {files[0]['reason']}; {then}; cas3fs keeps "
            "trying: `cas3fs stats` lists the files, and rewriting or deleting a file resolves it",
            files,
        )


class BlockError(Cas3fsError):
    """A block or pack cannot be read: EIO for the range of the file that it belongs to."""


class BlockMissing(BlockError):
    """The store has no such pack, or no such range of it."""


class BlockCorrupt(BlockError):
    """The bytes do not match the block's hash, length or codec."""


class PackCorrupt(BlockError):
    """The table of contents of a pack is damaged."""


class IndexDatabaseError(Cas3fsError):
    """The local database failed.

    Attributes:
        group_lost: whether its open transaction was undone, with all operations in it.
        is_final: whether trying again cannot help this process.
    """

    group_lost = False
    is_final = False


class IndexFull(IndexDatabaseError):
    """The local disk is full."""


class IndexCorrupt(IndexDatabaseError):
    """SQLite reports that the database is damaged."""


class IndexRowRefused(IndexDatabaseError):
    """SQLite refuses a row: a number has more than 64 bits, or a constraint is violated."""


class PinLost(IndexDatabaseError):
    """The index could not be kept as it was while a snapshot was made of it."""


class IndexTooNew(IndexDatabaseError):
    """The database was migrated by a newer cas3fs."""


class StoreError(Cas3fsError):
    """The object store failed or refused a request."""


class ObjectMissing(StoreError):
    """There is no object of that key."""


class ObjectArchived(StoreError):
    """The object is in a storage class from which it must be restored before it can be read."""


class ObjectExists(StoreError):
    """Create-if-absent found an object of that key."""


class ObjectTooShort(StoreError):
    """The object ends before the requested range does: it is not what its reader expects."""


class ObjectTooLong(StoreError):
    """The object exceeds the limit of its reader: it is not what its reader expects."""


class ObjectDamaged(StoreError):
    """The object's bytes are not what was sealed under its name: they are damaged, or forged."""


class DeleteFailed(StoreError):
    """The store refused to delete some objects; `keys` has their keys."""

    def __init__(self, message: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


class StoreMissing(StoreError):
    """There is no such bucket or directory."""


class AccessDenied(StoreError):
    """The credentials are missing, wrong, or lack a permission."""


class InvalidKey(StoreError):
    """The key breaks the rules for keys."""


class StoreFull(StoreError):
    """The store is full."""


class StoreRefused(StoreError):
    """The store refused a request for any other reason that trying again cannot change."""


class TransientStoreError(StoreError):
    """Trying again may help."""

    transfer_s = 0.0
    """For how long bytes were in transfer before the attempt failed."""


class StoreUnreachable(TransientStoreError):
    """No connection, an unknown host, or no response in time."""


class TruncatedBody(TransientStoreError):
    """A response had fewer bytes than announced."""


class StoreBusy(TransientStoreError):
    """The server is overloaded (429, 5xx), or another conditional write of the key is in progress."""


class ControlError(Cas3fsError):
    """The control socket of a mount cannot be used, or a request through it failed."""


class MountError(Cas3fsError):
    """A mount cannot be made, found or removed."""


class FileSystemError(Cas3fsError):
    """An operation of the file system failed with `errno`; most are answers that programs expect, so it is cheap."""

    def __init__(self, errno: int, message: str = "") -> None:
        self.errno = errno
        self.message = message

    def __str__(self) -> str:
        return self.message or os.strerror(self.errno)


def errno_of(error: BaseException) -> int:
    """The errno that a program in the mount sees for `error`: EIO where no other fits."""
    if isinstance(error, FileSystemError):
        return error.errno
    if isinstance(error, IndexFull | StoreFull):
        return _errno.ENOSPC
    if isinstance(error, Fenced):
        return _errno.EROFS
    if isinstance(error, OSError) and error.errno in (_errno.ENOSPC, _errno.EDQUOT):
        return _errno.ENOSPC
    return _errno.EIO
