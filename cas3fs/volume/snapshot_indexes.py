# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens the indexes of snapshots for a command that looks into them, beside any writer.

An index is restored to a file below the volume's state directory, where the writer of this machine sees that the
snapshot is in use. Segments that an index on this machine has, such as that of the mount, or the one that was opened
before, are not read from the store.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Progress
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs
from cas3fs.index import PinnedIndex, migrations
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.volume.handover import expect_released_head, expect_seen_head
from cas3fs.volume.lineage import restore_with_advice
from cas3fs.volume.loading import open_volume
from cas3fs.volume.location import find_state_directory
from cas3fs.volume.state_directory import ViewDirectory, local_indexes


class SnapshotIndexes:
    """The snapshots of a volume, and files with their indexes; made by `open_snapshot_indexes`."""

    def __init__(self, archive: SnapshotArchive, of_volume: Path, progress: Progress) -> None:
        self.archive = archive
        self._of_volume, self._progress = of_volume, progress

    @contextmanager
    def open(self, snapshot_id: str, own_index: Path | None = None) -> Iterator[Path]:
        """The index of a snapshot as a file, which is removed when the context ends; until then no writer of this
        machine deletes the snapshot.

        Args:
            snapshot_id: the snapshot.
            own_index: an index that this process has open; segments are taken from a copy of it.

        Raises:
            SnapshotMissing, SnapshotDamaged: the snapshot cannot be read.
            StoreError, IndexDatabaseError, UsageError: store, index or state directory cannot be used.
        """

        def report(done: int, total: int) -> None:
            self._progress({"what": "reading the index", "done": done, "total": total})

        with closing(ViewDirectory.make(self._of_volume)) as view:
            view.shows(snapshot_id)
            local = local_indexes(self._of_volume)
            copy = view.path / "copy.sqlite"
            if own_index is not None:
                with PinnedIndex(own_index) as pinned:
                    pinned.copy_to(copy)
                local.insert(0, copy)
            restore_with_advice(self.archive, snapshot_id, view.index, report, local)
            copy.unlink(missing_ok=True)
            migrations.upgrade(view.index)
            yield view.index


@contextmanager
def open_snapshot_indexes(
    settings: StoreSettings, folders: LocalFolders, progress: Progress
) -> Iterator[SnapshotIndexes]:
    """The snapshots of a volume, to be looked into.

    Raises:
        VolumeMissing, VolumeFormatError, KeysError, StoreError, UsageError: there is no volume that can be read.
    """
    with closing(open_volume(settings.recorded_in(folders), Metrics())) as opened:
        shelf = Shelf(opened.store)
        archive = SnapshotArchive(shelf)
        expect_released_head(archive, Epochs(shelf, conditional_writes=opened.entry.conditional_writes).newest())
        expect_seen_head(archive, opened.seen)
        yield SnapshotIndexes(archive, find_state_directory(folders, str(opened.entry.uuid), settings), progress)
