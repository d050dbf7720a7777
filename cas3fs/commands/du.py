# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the space that files and folders take: the process of a mount answers, as it knows what is not stored yet; of a
volume that is not mounted, the newest index does."""

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import attrs

from cas3fs.commands.mount_service import MountService
from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Progress
from cas3fs.control.messages.usage import UsageReply, UsageRequest, UsageRow
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import UsageError
from cas3fs.index import ordinal_of
from cas3fs.index.usage import Usage, UsageReader
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import SnapshotNumber, StagedSize
from cas3fs.volume.loading import open_volume
from cas3fs.volume.location import find_state_directory
from cas3fs.volume.newest_index import read_newest_index

_ROWS = 1000
"""So many are sent at a time."""


def measure_mounted(service: MountService, request: UsageRequest, progress: Progress) -> UsageReply:
    """Send what they take now, with what is not stored yet.

    Raises:
        UsageError: one of them does not exist.
        IndexDatabaseError, OSError: the index cannot be read, or what was written before is not in it.
    """
    service.write_back()
    filesystem = service.volume.filesystem
    filesystem.commit()
    publisher = service.volume.publisher
    newest = service.volume.shown if publisher is None else publisher.newest
    # before the index is read: what is stored in between is in both, and counts once
    staged = filesystem.staged_sizes()
    return UsageReply(_send(_measured(filesystem.index_path, request, staged, newest), progress))


def measure_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: UsageRequest, progress: Progress
) -> UsageReply:
    """Send what they take in the newest state of a volume that no process of this machine has open.

    Raises:
        VolumeMissing, VolumeFormatError: there is no volume that can be read.
        UsageError: one of them does not exist.
        StoreError, SnapshotError, IndexDatabaseError: it cannot be read.
    """
    with closing(open_volume(settings, Metrics())) as opened:
        archive = SnapshotArchive(Shelf(opened.store))
        state = find_state_directory(folders, str(opened.entry.uuid), settings)
        newest = archive.newest_id()
        found = read_newest_index(state, archive, newest, lambda index: _measured(index, request, (), newest))
    return UsageReply(_send(found, progress))


def _measured(index: Path, request: UsageRequest, staged: Iterable[StagedSize], newest: str | None) -> list[Usage]:
    with UsageReader(index) as reader:
        ordinal = 0 if newest is None else ordinal_of(SnapshotNumber.parse(newest))
        return reader.measure(_roots(reader, request), request.depth, staged, ordinal)


def _send(found: Sequence[Usage], progress: Progress) -> int:
    for first in range(0, len(found), _ROWS):
        rows = (UsageRow(**one._asdict() | {"path": os.fsdecode(one.path)}) for one in found[first : first + _ROWS])
        progress({"usage": [attrs.asdict(row) for row in rows]})
    return len(found)


def _roots(reader: UsageReader, request: UsageRequest) -> list[int]:
    for number in request.inodes:
        if not reader.has(number):
            raise UsageError(f"the file of the number {number} has been deleted")
    found = list(request.inodes)
    for path in request.paths:
        if (there := reader.find(path)) is None:
            raise UsageError(f"the volume has no {path}")
        found.append(there)
    return found
