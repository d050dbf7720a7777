# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies one snapshot after the other; the docstring of this subpackage has the steps."""

from collections.abc import Callable
from pathlib import Path

from cas3fs.copying.blocks import BlockCopier
from cas3fs.copying.progress import CopyProgress
from cas3fs.copying.recut import FileCutter
from cas3fs.copying.source import CopySource
from cas3fs.copying.target import CopyTarget
from cas3fs.errors import IndexCorrupt
from cas3fs.snapshots.manifests import SnapshotInfo


class SnapshotCopier:
    """Copies snapshots, oldest first.

    Args:
        source: the volume that is copied.
        target: the copy.
        index: where the index of a snapshot of the source is restored.
        progress: is told how far it is.
        check_fence: raises Fenced if another writer has taken over the destination.
    """

    def __init__(
        self,
        source: CopySource,
        target: CopyTarget,
        index: Path,
        progress: CopyProgress,
        check_fence: Callable[[], None],
    ) -> None:
        self._source, self._target, self._index, self._progress = source, target, index, progress
        self._check_fence = check_fence
        self._blocks = BlockCopier(source, target, progress)
        self._cutter = FileCutter(source, target, progress)
        one, other = source.chunker, target.chunker
        self.is_alike = (one.name, one.average_size) == (other.name, other.average_size)
        """Whether blocks of the source become blocks of the destination."""
        self.lost_blocks = 0
        """How many blocks of the last snapshot are lost."""

    def copy(self, info: SnapshotInfo, *, is_last: bool) -> SnapshotInfo:
        """Copies a snapshot; returns its copy.

        Args:
            info: the snapshot.
            is_last: no other follows, so blocks that only earlier ones need are dropped from the index.

        Raises:
            SnapshotGone: its writer has deleted it meanwhile.
            SnapshotDamaged: it cannot be read.
            Fenced: another writer has taken over the destination.
            StoreError: one of the stores failed; copying again continues.
            IndexDatabaseError, OSError: the local disk failed.
        """
        self._source.restore(info.id, self._index, self._progress.restored)
        store = self._blocks.store if self.is_alike else self._cutter.store
        self.lost_blocks = store(self._index, info.id)
        if self.lost_blocks:
            self._source.check_snapshot(info.id)
        self._check_fence()
        self._progress.begin("writing the index")
        self._set_tables()
        if is_last:
            self._target.drop_unreferenced()
        self._progress.begin("publishing")
        made = self._target.publish(info)
        self._check_fence()
        return made

    def _set_tables(self) -> None:
        with self._target.tables(self._index) as tables:
            tables.copy_names()
            if self.is_alike:
                self._blocks.set_chunks(tables)
            else:
                self._cutter.set_chunks(tables, self._index)
            if tables.differing_tables() or (self.is_alike and not tables.has_all_chunks()):
                raise IndexCorrupt(
                    f"{self._target.index.path} does not hold what the snapshot holds: remove {self._target.folder}, "
                    "and copy again"
                )
