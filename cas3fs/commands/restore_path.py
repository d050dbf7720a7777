# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a file or a tree back out of a snapshot, without copying its data.

The process that has the volume open enters the tree as rows, in the folder where it belongs, under a hidden name
(`cas3fs.filesystem.operations.restored_trees`). Then the tree is renamed: in a mount by a system call of the command,
so that the kernel learns of it and checks the user's permission; otherwise by the file system. So the name appears in
one step. A file or folder that had the name is kept beside it under another one.

The data of the snapshot stays in the store meanwhile: the snapshot is marked as in use on this machine, so nobody here
deletes it; the store is asked by name for the packs that are needed again; and nothing is published, pruned or
collected while the rows are entered. A crash leaves nothing, or the tree under its hidden name.
"""

import errno
import os
import secrets
from pathlib import Path
from typing import Final

from cas3fs.commands.mount_service import MountService
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Progress
from cas3fs.control.messages.snapshots import RestorePathReply, RestorePathRequest
from cas3fs.entries.kinds import PackEntry
from cas3fs.errors import FileSystemError, ObjectMissing, SnapshotDamaged, SnapshotError, SnapshotMissing, UsageError
from cas3fs.filesystem import ROOT, FileSystem
from cas3fs.filesystem.operations.renames import RenameFlag
from cas3fs.fuse.renaming import exchange, rename_new
from cas3fs.index import TreeRows
from cas3fs.index.tree_rows import read_tree
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.selection import find_snapshot
from cas3fs.volume.opening import OpenVolume, open_writer
from cas3fs.volume.publisher import Publisher
from cas3fs.volume.snapshot_indexes import SnapshotIndexes

_HIDDEN: Final = ".cas3fs-restored-"
_KEPT: Final = ".replaced"
_PURPOSE: Final = "nothing can be restored in it"


def restore_path_mounted(service: MountService, request: RestorePathRequest, progress: Progress) -> RestorePathReply:
    """Enter the tree under a hidden name.

    Raises:
        ControlError: the mount is read-only.
        SnapshotError, UsageError: there is no such snapshot, path or folder.
        StoreError, IndexDatabaseError, OSError: store or local disk failed; nothing was entered.
    """
    return _enter(service.volume, service.publisher(_PURPOSE), request, progress)


def restore_path_unmounted(
    settings: StoreSettings,
    folders: LocalFolders,
    request: RestorePathRequest,
    name: str,
    *,
    overwrite: bool,
    progress: Progress,
) -> tuple[RestorePathReply, str | None]:
    """Restore the tree under that name in a volume that no process has open, and publish a snapshot.

    Returns:
        The reply, and the name under which a file or folder that was replaced is kept.

    Raises:
        Cas3fsError: as `restore_path_mounted`, `open_writer` and `OpenVolume.finish`.
    """
    volume = open_writer(settings, WriterSettings(cache_size_bytes=0), folders)
    try:
        volume.start(0)
        assert volume.publisher is not None
        try:
            _check_free(volume.filesystem, request.folder, name, overwrite=overwrite)
            reply = _enter(volume, volume.publisher, request, progress)
            kept = _place(volume.filesystem, request.folder, reply.name, os.fsencode(name))
        finally:
            volume.finish(progress)  # what a crashed mount had left is stored in any case
        return reply, kept
    finally:
        volume.close()


def _enter(
    volume: OpenVolume, publisher: Publisher, request: RestorePathRequest, progress: Progress
) -> RestorePathReply:
    filesystem, archive = volume.filesystem, volume.archive
    snapshot = find_snapshot(archive, request.snapshot)
    folder = _folder(filesystem, request.folder)
    indexes = SnapshotIndexes(archive, volume.state.path, progress)
    with indexes.open(snapshot, filesystem.index_path) as index:
        tree = read_tree(index, _names(request.path))
        if tree is None:
            raise SnapshotError(f"snapshot {snapshot} has no {request.path}; `cas3fs snapshot find` looks for names")
        stored = _check_packs(archive.shelf.store, filesystem, tree, snapshot)
        name = f"{_HIDDEN}{secrets.token_hex(8)}"
        with publisher.exclusively():
            if snapshot not in archive.ids():
                raise SnapshotMissing(f"snapshot {snapshot} was deleted meanwhile")
            filesystem.restored_trees.insert(folder, name.encode(), tree, stored)
    filesystem.commit()
    return RestorePathReply(snapshot, name, len(tree.inodes), tree.logical_bytes)


def _check_packs(store: ObjectStore, filesystem: FileSystem, tree: TreeRows, snapshot: str) -> set[str]:
    """The packs that are needed again, each of which the store has.

    Raises:
        SnapshotDamaged: it lacks one.
        StoreError: the store failed.
    """
    packs = filesystem.restored_trees.packs_to_revive(tree)
    for one in sorted(packs):
        try:
            store.head(PackEntry.key_of(one))
        except ObjectMissing as error:
            raise SnapshotDamaged(
                f"the store has lost pack {one}, which snapshot {snapshot} needs for this: `cas3fs fsck` shows what is "
                "lost; restore what is around it"
            ) from error
    return packs


def _names(path: str) -> list[bytes]:
    return [os.fsencode(name) for name in path.split("/") if name not in ("", ".")]


def _folder(filesystem: FileSystem, path: str) -> int:
    """The number of a folder.

    Raises:
        UsageError: there is none at that path.
    """
    number = ROOT
    for name in _names(path):
        inode = filesystem.find(number, name)
        if inode is None:
            raise UsageError(f"the volume has no folder {path}: restore that, or give another destination with --to")
        filesystem.forget([(inode.number, 1)])
        if not inode.is_directory:
            raise UsageError(f"{path} is not a folder")
        number = inode.number
    return number


# -- the last step


def _check_free(filesystem: FileSystem, folder: str, name: str, *, overwrite: bool) -> None:
    """Raises UsageError if something has the name already, and is not to be replaced."""
    found = filesystem.find(_folder(filesystem, folder), os.fsencode(name))
    if found is not None:
        filesystem.forget([(found.number, 1)])
        if not overwrite:
            raise UsageError(f"{name} exists: restore to another path with --to, or give --overwrite to replace it")


def _place(filesystem: FileSystem, folder: str, hidden: str, name: bytes) -> str | None:
    """Give the tree its name; where that was taken, the name under which what had it is kept."""
    parent = _folder(filesystem, folder)
    try:
        filesystem.rename(parent, hidden.encode(), parent, name, RenameFlag.NOREPLACE)
        return None
    except FileSystemError as error:
        if error.errno != errno.EEXIST:
            raise
    filesystem.rename(parent, hidden.encode(), parent, name, RenameFlag.EXCHANGE)
    for kept in _kept_names(os.fsdecode(name)):
        try:
            filesystem.rename(parent, hidden.encode(), parent, os.fsencode(kept), RenameFlag.NOREPLACE)
            return kept
        except FileSystemError as error:
            if error.errno != errno.EEXIST:
                raise
    raise AssertionError("unreachable")


def place_in_mount(hidden: Path, target: Path, *, overwrite: bool) -> Path | None:
    """Give the tree its name in a mount.

    Args:
        hidden: where it is.
        target: where it is to be, in the same folder.
        overwrite: keep what is there under another name, which is returned.

    Raises:
        FileExistsError: something is there.
        OSError: it cannot be renamed; the tree stays where it is.
    """
    try:
        rename_new(hidden, target)
        return None
    except FileExistsError:
        if not overwrite:
            raise
    try:
        exchange(hidden, target)
        old = hidden
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        old = _keep(target, target)  # the front-end llfuse cannot exchange names
        rename_new(hidden, target)
        return old
    return _keep(old, target)


def _keep(old: Path, target: Path) -> Path:
    for name in _kept_names(target.name):
        try:
            rename_new(old, target.with_name(name))
            return target.with_name(name)
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def _kept_names(name: str) -> list[str]:
    return [f"{name}{_KEPT}", *(f"{name}{_KEPT}-{number}" for number in range(2, 10_000))]
