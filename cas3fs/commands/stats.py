# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``cas3fs stats`` tells of a volume: of an index's counts, and where the index of one that is not mounted comes
from."""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.entries.kinds import VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import IndexDatabaseError, StateInUse
from cas3fs.filesystem import FileSystem
from cas3fs.index import Counts, Index, IndexReader, migrations
from cas3fs.maintenance.last_results import load_last_results
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.volume.comparison import IndexStatus, LineageRecord, StoreComparison
from cas3fs.volume.loading import load_volume, open_volume_store
from cas3fs.volume.location import find_state_folder
from cas3fs.volume.state_folder import StateFolder


def volume_report(entry: VolumeEntry, url: str, counts: Counts) -> dict[str, Any]:
    """What is told of a volume whether it is mounted or not."""
    return {
        "url": url,
        "uuid": str(entry.uuid),
        "label": entry.label,
        "chunker": entry.chunker,
        "compression": entry.compression,
        **counts._asdict(),
        "dedup_ratio": _ratio(counts.chunk_bytes, counts.unique_bytes),
        "compression_ratio": _ratio(counts.unique_bytes, counts.stored_bytes),
    }


def list_unstored(filesystem: FileSystem) -> list[dict[str, Any]]:
    """What is told of files that cannot be stored although others can.

    Raises:
        IndexDatabaseError: their paths cannot be read.
    """
    return [attrs.asdict(one) for one in filesystem.unstorable_files()]


def _ratio(before: int, after: int) -> float:
    return round(before / after, 3) if after else 1.0


def unmounted_report(settings: StoreSettings, folders: LocalFolders) -> dict[str, Any]:
    """The report of a volume that no process of this machine has open: of its newest snapshot.

    Raises:
        VolumeMissing, VolumeFormatError: there is no volume that can be read.
        StoreError, SnapshotError, IndexDatabaseError: it cannot be read.
    """
    with closing(open_volume_store(settings, Metrics())) as store:
        entry = load_volume(store)
        archive = SnapshotArchive(Shelf(store))
        newest = archive.newest()
        newest_id = None if newest is None else newest.id
        state = find_state_folder(folders, str(entry.uuid), settings)
        counts = _local_counts(state, archive, newest_id)
        if counts is None:
            counts = _restored_counts(archive, newest_id)
        known = load_last_results(state)
        return volume_report(entry, store.url, counts) | {
            "snapshot": newest_id,
            "snapshot_bytes": archive.stored_bytes(),
            "maintenance": known,
        }


def _local_counts(path: Path, archive: SnapshotArchive, newest: str | None) -> Counts | None:
    """The counts of the local index, if that is the newest snapshot."""
    if newest is None or not path.is_dir():
        return None
    try:
        with closing(StateFolder(path)) as state:
            if not state.index.exists() or migrations.current(state.index) != migrations.head():
                return None
            with Index.open(state.index) as index:
                found = StoreComparison(archive, LineageRecord.read(index), newest, ()).compare()
            return _counts(state.index) if found.status is IndexStatus.CURRENT else None
    except (StateInUse, IndexDatabaseError):
        return None


def _restored_counts(archive: SnapshotArchive, newest: str | None) -> Counts:
    with tempfile.TemporaryDirectory(prefix="cas3fs-") as folder:
        path = Path(folder) / "index.sqlite"
        if newest is not None:
            archive.restore(newest, path)
        migrations.upgrade(path, with_hash_index=False)
        return _counts(path)


def _counts(path: Path) -> Counts:
    with IndexReader(path) as reader:
        return reader.counts()
