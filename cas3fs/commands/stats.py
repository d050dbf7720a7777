# SPDX-License-Identifier: GPL-3.0-or-later
"""The statistics of a volume.

Those of an unmounted volume are counted in the local index if that is the newest snapshot, else in a restored copy.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

from cas3fs.commands.mount_service import MountService
from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Progress
from cas3fs.control.messages.mount import StatsReply, StatsRequest
from cas3fs.entries.kinds import VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import Cas3fsError
from cas3fs.index import Counts, IndexReader
from cas3fs.maintenance.last_results import load_last_results
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.volume.loading import open_volume
from cas3fs.volume.location import find_state_directory
from cas3fs.volume.newest_index import read_newest_index
from cas3fs.volume.seen import SeenState


def report_mounted(service: MountService, request: StatsRequest, progress: Progress) -> StatsReply:
    """The report of a volume by the process of its mount.

    Raises:
        StoreError, IndexDatabaseError: it could not be read.
    """
    volume, filesystem, publisher = service.volume, service.volume.filesystem, service.volume.publisher
    trouble = service.end_state.trouble
    try:
        filesystem.commit()
    except (Cas3fsError, OSError) as error:
        trouble = str(error)
    with filesystem.read_index() as reader:
        counts = reader.counts()
    return StatsReply(
        **_described(volume.entry, volume.url, volume.seen, counts),
        snapshot=volume.shown if publisher is None else publisher.newest,
        snapshot_bytes=None if publisher is None else publisher.pruner.stored_bytes(),
        maintenance=load_last_results(volume.state.path),
        mountpoint=str(service.mountpoint),
        read_only=filesystem.read_only,
        read_only_reason=filesystem.read_only_reason,
        not_on_disk_reason=trouble,
        is_view=publisher is None,
        fenced=publisher is not None and bool(publisher.fenced),
        snapshot_gone=publisher is None and volume.shown_snapshot_deleted(),
        snapshots={"newest_age_s": None if publisher is None else publisher.newest_age_s()},
        troubles={name: error._asdict() for name, error in volume.metrics.last_errors().items()},
        pending=service.pending(),
        unstored=volume.unstored_files(),
        process=dict(filesystem.statistics()),
        kernel_requests={} if service.session is None else service.session.requests(),
    )


def report_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: StatsRequest, progress: Progress
) -> StatsReply:
    """The report of the newest snapshot of a volume that no process of this machine has open.

    Raises:
        VolumeMissing, VolumeFormatError: there is no volume that can be read.
        StoreError, SnapshotError, IndexDatabaseError: it cannot be read.
    """
    with closing(open_volume(settings, Metrics())) as opened:
        store, entry = opened.store, opened.entry
        archive = SnapshotArchive(Shelf(store))
        newest = archive.newest()
        newest_id = None if newest is None else newest.id
        state = find_state_directory(folders, str(entry.uuid), settings)
        counts = read_newest_index(state, archive, newest_id, _counts)
        return StatsReply(
            **_described(entry, store.url, opened.seen, counts),
            snapshot=newest_id,
            snapshot_bytes=archive.stored_bytes(),
            maintenance=load_last_results(state),
        )


def _described(entry: VolumeEntry, url: str, seen: SeenState | None, counts: Counts) -> dict[str, Any]:
    """What is reported of a volume whether it is mounted or not."""
    return {
        "url": url,
        "uuid": str(entry.uuid),
        "label": entry.label,
        "chunker": entry.chunker,
        "compression": entry.compression,
        "cipher": entry.cipher,
        "fingerprint": None if seen is None else seen.fingerprint,
        **counts._asdict(),
        "dedup_ratio": _ratio(counts.chunk_bytes, counts.unique_bytes),
        "compression_ratio": _ratio(counts.unique_bytes, counts.stored_bytes),
    }


def _ratio(before: int, after: int) -> float:
    return round(before / after, 3) if after else 1.0


def _counts(index: Path) -> Counts:
    with IndexReader(index) as reader:
        return reader.counts()
