# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying a file or a tree out of a snapshot, without a mount."""

import errno
import os
from pathlib import Path

from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Progress
from cas3fs.errors import FileSystemError, SnapshotError, UsageError
from cas3fs.export import Exporter, ExportResult
from cas3fs.filesystem import ROOT, FileSystem
from cas3fs.volume.opening import open_view


def extract(
    settings: StoreSettings,
    folders: LocalFolders,
    snapshot_id: str,
    path: str,
    destination: Path,
    *,
    progress: Progress,
) -> ExportResult:
    """Copies `path` of a snapshot to `destination`: into it where that is a folder, else under that name.

    Raises:
        SnapshotError: there is no such snapshot, or no such path in it.
        UsageError: something is at the destination already.
        StoreError, OSError: the store cannot be read or the local disk not written.
    """
    view = WriterSettings(read_only=True, cache_size_bytes=0, snapshot=snapshot_id)

    def restoring(done: int, total: int) -> None:
        progress({"what": "reading the index", "done": done, "total": total})

    volume = open_view(settings, view, folders, on_restore=restoring)
    try:
        volume.start(0)
        number, name = _find(volume.filesystem, snapshot_id, path)
        size_bytes = volume.filesystem.getattr(number).size
        total = None if volume.filesystem.getattr(number).is_directory else size_bytes
        exporter = Exporter(
            volume.filesystem,
            lambda files, done: progress({"what": f"{files} files", "done": done, "total": total or done}),
        )
        if not name and destination.is_dir():
            exporter.copy_entries(number, destination)
        else:
            exporter.copy(number, _target(destination, name))
        return exporter.result
    finally:
        volume.close()


def _find(filesystem: FileSystem, snapshot_id: str, path: str) -> tuple[int, str]:
    """The inode at `path`, and its name: empty for the root. Symbolic links on the way are not followed."""
    number = ROOT
    names = [name for name in path.split("/") if name not in ("", ".")]
    for name in names:
        try:
            number = filesystem.lookup(number, os.fsencode(name)).number
        except FileSystemError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            raise SnapshotError(f"snapshot {snapshot_id} has no {path}") from error
    return number, names[-1] if names and names[-1] != ".." else ""


def _target(destination: Path, name: str) -> Path:
    target = destination / name if name and destination.is_dir() else destination
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already")
    return target
