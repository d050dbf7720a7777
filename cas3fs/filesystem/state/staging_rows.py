# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of layers in ``staging.sqlite`` (`cas3fs.index.staging`), which make layers survive a crash.

Rows and the index are two databases. These rules make every crash between their commits harmless:

- a commit syncs the layers' files, then commits and syncs the rows, then commits the index (module `commits`);
- a layer that has a row is dropped, with its row and file, only after the index transaction that stored it is durable;
- a layer that never had a row is dropped as soon as the open index transaction stores it: a crash before the commit
  undoes what was never promised. Until that commit no later layer of the inode gets a row (`dropped_uncommitted`),
  since after a crash it would lie over an index that lacks the dropped layer;
- so rows are written for all layers of an inode or for none;
- a row also says what the disk has lost of its layer's file (module `layer_files`): it is lost at the next mount too;
- a row counts at the next mount only if its sequence number is greater than the inode's ``stored_seq`` in the index.
  So a row that should have been deleted already is ignored, and one whose index transaction was lost still counts.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cas3fs.errors import IndexRowRefused
from cas3fs.filesystem.state.extents import MemoryBytes, pack_ranges
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layer_files import FileBytes
from cas3fs.filesystem.state.layers import Layer
from cas3fs.index.staging import StagedRow, StagingIndex


class StagingRows:
    """Writes and deletes the rows of layers.  Every method needs the file system's lock, unless it says otherwise."""

    def __init__(self, records: StagingIndex, files: Mapping[int, Inode]) -> None:
        """Begins with nothing to write.

        Args:
            records: the database.
            files: every inode that has layers.
        """
        self.records = records
        self._files = files
        self.changed: dict[int, Inode] = {}
        """Inodes that may have something to write; the others have not."""
        self.dropped_uncommitted: set[int] = set()
        """Inodes of which the open index transaction has something that no layer has: a layer that was dropped when it
        was stored, or chunks that were copied."""
        self.refused: dict[int, str] = {}
        """Inodes of which the database refuses a row as it is now, and why."""
        self._one_by_one = False
        self._deferred: set[int] = set()  # those of `refused` that were tried since `retry_refused`
        self._to_delete: list[tuple[int, int]] = []
        self._uncommitted: list[tuple[Inode, Layer]] = []

    def pin_unsynced(self) -> list[Layer]:
        """The layers that need rows and whose files have bytes that may not be on the disk.

        Each gets one reader more: `Staging.release_readers` has to follow.
        """
        unstored = [inode for inode in self.changed.values() if inode.is_unstored]
        pinned = [layer for inode in unstored for layer in inode.layers if _is_unsynced(layer)]
        for layer in pinned:
            layer.readers += 1
        return pinned

    def save_some(self, limit_bytes: int) -> bool:
        """Writes rows that have changed since the last time, about `limit_bytes` of them, and all of an inode.

        A layer with unsynced bytes gets no row: a row names no bytes that a loss of power could take. Nor do the layers
        above it, which could come to lie over a file that lacks what is in it. The rows are durable after `commit`.

        Returns:
            whether there may be more.

        Raises:
            IndexDatabaseError: the disk is full or broken; nothing since the last `commit` counts as saved.
        """
        rows: list[StagedRow] = []
        size_bytes = 0
        for inode, layer in self._unsaved():
            if size_bytes >= limit_bytes and (not rows or inode.number != rows[-1].inode):
                break
            rows.append(_row(inode, layer))
            layer.unsaved, layer.has_row = False, True
            self._uncommitted.append((inode, layer))
            size_bytes += len(rows[-1].data or b"") + len(rows[-1].ranges) + len(rows[-1].holes or b"")
        with self._undone_on_failure([]):
            if not self._save(rows):
                return True
        if size_bytes >= limit_bytes:
            return True
        self.changed = {number: inode for number, inode in self.changed.items() if _has_unsaved(inode)}
        return False

    def _save(self, rows: list[StagedRow]) -> bool:
        """Writes rows.

        Returns:
            False where the database refuses one, so that all since the last `commit` have to be written again: one by
            one, until none is refused.
        """
        if not self._one_by_one:
            try:
                self.records.save(rows)
            except IndexRowRefused:
                self._one_by_one = True
                self._undo()
                return False
            return True
        for number in {row.inode for row in rows}:
            self.refused.pop(number, None)
        for row, error in self.records.save_each(rows):
            self._refuse(row, error)
        return True

    def _refuse(self, row: StagedRow, error: IndexRowRefused) -> None:
        """Leaves a refused row as it was, or missing, and deletes those above it: they depend on it."""
        self.refused[row.inode] = f"what is staged of inode {row.inode} cannot be kept: {error}"
        self._deferred.add(row.inode)
        layers = [layer for layer in self._files[row.inode].layers if layer.seq >= row.seq]
        for layer in layers:
            layer.unsaved = True
        self.records.delete((row.inode, layer.seq) for layer in layers[1:])

    def retry_refused(self) -> None:
        """Has the next `save_some` try refused rows again."""
        self._deferred.clear()
        self._one_by_one = bool(self.refused)

    def delete(self, number: int, seq: int) -> None:
        """Has the next `commit` delete the row of a layer."""
        self._to_delete.append((number, seq))

    def commit(self) -> None:
        """Makes saved rows durable, and deletes those of dropped layers.

        Needs no lock while only one thread commits.

        Raises:
            IndexDatabaseError: the disk is full or broken; nothing since the last `commit` counts as saved.
        """
        to_delete, self._to_delete = self._to_delete, []
        if not to_delete and not self._uncommitted:
            return
        with self._undone_on_failure(to_delete):
            self.records.delete(to_delete)
            self.records.commit()
        self._uncommitted = []

    @contextmanager
    def _undone_on_failure(self, to_delete: list[tuple[int, int]]) -> Iterator[None]:
        """Undoes what memory has of rows since their last commit, as the database does when it fails."""
        try:
            yield
        except BaseException:
            self._to_delete += to_delete
            self._undo()
            raise

    def _undo(self) -> None:
        for inode, layer in self._uncommitted:
            layer.unsaved = True
            if not layer.dropped:
                self.changed[inode.number] = inode
        self._uncommitted = []

    def _unsaved(self) -> Iterator[tuple[Inode, Layer]]:
        for inode in self.changed.values():
            is_held_back = inode.number in self.dropped_uncommitted or inode.number in self._deferred
            if is_held_back or not inode.is_unstored:
                continue
            for layer in inode.layers:
                if _is_unsynced(layer):
                    break
                if layer.unsaved:
                    yield inode, layer


def _is_unsynced(layer: Layer) -> bool:
    return isinstance(layer.bytes, FileBytes) and layer.bytes.unsynced


def _has_unsaved(inode: Inode) -> bool:
    return inode.is_unstored and any(layer.unsaved or _is_unsynced(layer) for layer in inode.layers)


def _row(inode: Inode, layer: Layer) -> StagedRow:
    held = layer.bytes
    data = held.joined() if isinstance(held, MemoryBytes) else None
    lost = held.lost_ranges() if isinstance(held, FileBytes) else []
    return StagedRow(
        inode.number,
        layer.seq,
        layer.floor,
        layer.size,
        layer.mtime_ns,
        layer.ctime_ns,
        pack_ranges(held.ranges()),
        data,
        pack_ranges(lost) if lost else None,
        pack_ranges(layer.holes) if layer.holes.starts else None,
    )
