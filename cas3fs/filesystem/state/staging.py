# SPDX-License-Identifier: GPL-3.0-or-later
"""Staging: the durable home of file data and attributes that the store does not hold yet.

It owns the layers (module `layers`) of every inode, their files ``<folder>/<inode>-<seq>``, and their rows in
``staging.sqlite`` (module `staging_rows`). The row of a small layer has its bytes, so it is never without them; a large
layer has a file, and its row has the ranges.

Locks: every method needs the file system's lock, unless it says otherwise. `space_available` is a condition on that
lock; it is notified when bytes or writers go.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from cas3fs.filesystem.state.extents import MemoryBytes
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layer_files import FileBytes, LayerFiles, PendingWrite
from cas3fs.filesystem.state.layers import Layer
from cas3fs.filesystem.state.staging_rows import StagingRows
from cas3fs.index.staging import StagingIndex
from cas3fs.localdisk import LocalDisk
from cas3fs.values import Buffer

SMALL_LAYER_BYTES = 256 * 1024
"""A layer that outgrows this moves from memory to a file."""
_LEAST_OVERFLOW_BYTES = 8 * 1024 * 1024
_OVERFLOW_SHARE = 8
_MAX_WAIT_S = 2.0
_SILENCE_S = 20.0
MOST_RANGES = 4096
"""A layer with so many ranges takes no more writes, so that its row, 16 bytes a range, is not written again."""

_log = logging.getLogger(__name__)


@attrs.define
class StagingLoss:
    """The disk has lost staged bytes of a file; an fsync reports it once to each handle."""

    count: int = 0
    reported: int = 0
    """How many of them were reported to a handle: handles that are opened later do not get them."""
    reason: str = ""


class Staging:
    """The layers of all inodes, in memory and on the local disk."""

    def __init__(
        self,
        folder: Path,
        records: StagingIndex,
        *,
        limit_bytes: int,
        memory_bytes: int,
        disk: LocalDisk | None = None,
        most_open: int | None = None,
        lock: "threading.Lock | None" = None,
    ) -> None:
        """Begins without layers; `recover` restores those of an earlier process.

        Args:
            folder: where the files of large layers are.
            records: the database of rows.
            limit_bytes: how much may be staged; when it is reached, writers wait.
            memory_bytes: how much of that is kept in memory; the rest goes to files.
            disk: the local disk.
            most_open: how many files are open at once; None for a share of what the process may open.
            lock: the file system's lock; None to make it.
        """
        self.lock = threading.Lock() if lock is None else lock
        """The file system's lock; writers that wait for `space_available` release it meanwhile."""
        self.space_available = threading.Condition(self.lock)
        self.folder = folder
        self.layer_files = LayerFiles(folder, disk or LocalDisk(), self._on_lost, most_open)
        self.limit_bytes = self.limit_now_bytes = limit_bytes
        """How much may be staged, and how much of that the local disk has space for."""
        self.memory_limit_bytes = memory_bytes
        self.files: dict[int, Inode] = {}
        """Every inode that has layers."""
        self.unstored: dict[int, Inode] = {}
        """Those of which a layer is not in the index yet."""
        self.losses: dict[int, StagingLoss] = {}
        """By the number of the inode, what the disk has lost of its staged bytes."""
        self.quarantined: list[tuple[int, str]] = []
        """Rows that could not be restored: the inode, 0 for unknown, and why."""
        self.rows = StagingRows(records, self.files)
        self.size_bytes = 0
        self.memory_bytes = 0
        self.store_requested = threading.Event()
        """Set when writers wait or memory runs short: storers do not wait for files to settle then."""
        self.is_storing_failing = False
        """The last attempt to store anything has failed: waiting for space may take for ever."""
        self.last_response_at: Callable[[], float] = time.monotonic
        """When the store last responded, by the monotonic clock, in seconds."""
        self._last_freed_at_s = 0.0
        self._disk_limit_bytes: int | None = None
        self._stored: list[tuple[Inode, list[Layer]]] = []
        self._new_losses: deque[tuple[FileBytes, OSError]] = deque()  # not noted yet

    # -- space

    @property
    def is_full(self) -> bool:
        return self.size_bytes >= self.limit_now_bytes

    @property
    def is_short_of_disk(self) -> bool:
        """Whether the local disk has no space for more."""
        return self._disk_limit_bytes is not None and self.size_bytes >= self._disk_limit_bytes

    @property
    def may_free_space(self) -> bool:
        """Whether storing succeeds, so that it will free space on the local disk."""
        return not self.is_storing_failing and self._may_store

    @property
    def is_full_of_unstorable(self) -> bool:
        """Whether it is full of files that cannot be stored although others could."""
        return self.size_bytes >= self.limit_bytes and not self._may_store

    @property
    def _may_store(self) -> bool:
        now_s = time.monotonic()
        return any(inode.retry_at_s <= now_s for inode in self.files.values())

    def is_waiting_useless(self, since_s: float) -> bool:
        """Whether a writer that has waited for space on the local disk since then waits in vain.

        It does when nothing would free space, or when the store has not responded for long.
        """
        if not self.may_free_space:
            return True
        return time.monotonic() - max(since_s, self._last_freed_at_s, self.last_response_at()) > _SILENCE_S

    @property
    def is_overfull(self) -> bool:
        """Whether even writers that cannot wait may not add anything."""
        return self.size_bytes >= self.limit_bytes + self._overflow_bytes

    @property
    def _overflow_bytes(self) -> int:
        return max(self.limit_bytes // _OVERFLOW_SHARE, _LEAST_OVERFLOW_BYTES)

    @property
    def max_wait_s(self) -> float:
        """How long a writer waits for space that cannot wait as long as it takes."""
        near = self.size_bytes >= self.limit_bytes + self._overflow_bytes // 2
        return _MAX_WAIT_S if near or self.is_short_of_disk else 0.0

    def set_free_disk_bytes(self, free_bytes: int) -> None:
        """Sets how much more staging may put on the local disk, beside what its files have already."""
        in_files = max(0, self.size_bytes - self.memory_bytes)
        was_full = self.is_full
        self._disk_limit_bytes = in_files + max(0, free_bytes)
        self.limit_now_bytes = min(self.limit_bytes, self._disk_limit_bytes)
        if was_full and not self.is_full:
            self.space_available.notify_all()

    @property
    def is_short_of_memory(self) -> bool:
        return self.memory_bytes > self.memory_limit_bytes * 3 // 4

    # -- changes

    def active_layer(self, inode: Inode) -> Layer:
        """The layer that takes the changes of `inode`: the top one, or a new one where that is frozen or missing."""
        layers = inode.layers
        if layers:
            top = layers[-1]
            if not top.frozen:
                return top
            seq = max(top.seq, inode.stored_seq) + 1
        else:
            seq = inode.stored_seq + 1
            self.files[inode.number] = inode
        made = Layer(seq, inode.size, inode.mtime_ns, inode.ctime_ns)
        layers.append(made)
        self.unstored[inode.number] = self.rows.changed[inode.number] = inode
        return made

    def update_active_layer(self, inode: Inode) -> None:
        """Copies the size and times of `inode`, which have changed, to its active layer."""
        layer = self.active_layer(inode)
        layer.size, layer.mtime_ns, layer.ctime_ns, layer.unsaved = inode.size, inode.mtime_ns, inode.ctime_ns, True
        self.rows.changed[inode.number] = inode
        inode.changed_at_s = time.monotonic()

    @staticmethod
    def is_in_file(inode: Inode) -> bool:
        """Whether the layer that takes the changes of `inode` has its bytes in a file."""
        layers = inode.layers
        return bool(layers) and not layers[-1].frozen and isinstance(layers[-1].bytes, FileBytes)

    def write_to_memory(self, inode: Inode, offset: int, data: Buffer) -> bool:
        """Puts the bytes in memory.

        Returns:
            False where they have to go to a file, or where there is no space.
        """
        if self.is_full or self.memory_bytes >= self.memory_limit_bytes:
            return False
        layer = self._layer_for_bytes(inode)
        held = layer.bytes
        if not isinstance(held, MemoryBytes) or held.size_bytes + len(data) > SMALL_LAYER_BYTES:
            return False
        before, cost = held.size_bytes, held.cost_bytes
        held.write(offset, data)
        if layer.holes.starts:
            layer.holes.remove(offset, offset + len(data))
        self.size_bytes += held.size_bytes - before
        self.memory_bytes += held.cost_bytes - cost
        if self.is_short_of_memory:
            self.store_requested.set()
        return True

    def _layer_for_bytes(self, inode: Inode) -> Layer:
        """The active layer; a new one where it has too many ranges, unless a write to it is under way."""
        layer = self.active_layer(inode)
        if layer.bytes.range_count + len(layer.holes.starts) < MOST_RANGES or layer.writers or layer.closing:
            return layer
        layer.frozen = True
        return self.active_layer(inode)

    def begin_file_write(self, inode: Inode) -> tuple[Layer, FileBytes]:
        """Moves the bytes of the active layer to a file, and counts a writer of it; `end_file_write` has to follow.

        Bytes that a row has stay where they are, below a new layer: they are durable, and in a file the disk could lose
        them. Waits (and releases the lock meanwhile) while a storer is about to freeze the layer.

        Returns:
            the layer, and its file.

        Raises:
            OSError: the file could not be made; the layer is as it was.
        """
        layer = self._layer_for_bytes(inode)
        while layer.closing:
            self.space_available.wait()
            layer = self._layer_for_bytes(inode)
        if layer.has_row and isinstance(layer.bytes, MemoryBytes) and layer.bytes.size_bytes:
            layer.frozen = True
            layer = self.active_layer(inode)
        held = layer.bytes
        if isinstance(held, MemoryBytes):
            held = self._spill(inode, layer, held)
        layer.writers += 1
        return layer, held

    def _spill(self, inode: Inode, layer: Layer, held: MemoryBytes) -> FileBytes:
        moved = FileBytes(self.folder / f"{inode.number:x}-{layer.seq:x}", self.layer_files, create=True)
        try:
            for start, data in zip(held.starts, held.extents, strict=True):
                moved.finish_write(moved.write(start, data))
        except OSError:
            moved.discard()
            raise
        self.memory_bytes -= held.cost_bytes
        layer.bytes, layer.unsaved = moved, True
        self.rows.changed[inode.number] = inode
        return moved

    def end_file_write(self, inode: Inode, layer: Layer, held: FileBytes, written: PendingWrite | None) -> None:
        """Ends the write that `begin_file_write` began; `written` is None where it failed."""
        if written is not None:
            before = held.size_bytes
            held.finish_write(written)
            if layer.holes.starts:
                layer.holes.remove(written.offset, written.offset + written.length)
            self.size_bytes += held.size_bytes - before
            self.update_active_layer(inode)
        layer.writers -= 1
        if not layer.writers:
            self.space_available.notify_all()

    def release_readers(self, layers: Iterable[Layer]) -> None:
        """Ends the use of layers by readers that had counted themselves in `readers`."""
        for layer in layers:
            layer.readers -= 1
            if layer.dropped and not layer.readers:
                layer.bytes.discard()

    def truncate(self, inode: Inode, size: int) -> None:
        """Cuts or grows the file to `size`: what lies below its active layer is dead from there on."""
        layer = self.active_layer(inode)
        layer.floor = min(layer.floor, size)
        held = layer.bytes
        before = _sizes(held)
        held.truncate(size)
        layer.holes.truncate(size)
        # a row must not lose its bytes to a crash, nor a reader what it has planned to read, nor a writer what it has
        # written already and will count when it gets the lock
        if isinstance(held, FileBytes) and not (layer.has_row or layer.readers or layer.writers):
            held.shrink(size)
        now = _sizes(held)
        self._account(now[0] - before[0], now[1] - before[1])

    def punch(self, inode: Inode, start: int, end: int) -> None:
        """Makes ``[start, end)`` of the file a hole, as far as the file reaches.

        Nothing below its active layer shows there any more. The bytes of that layer are dropped; if they are in a file,
        the local disk has their space again when the layer is stored.
        """
        layer = self._layer_for_bytes(inode)
        end = min(end, inode.size)
        if start >= end:
            return
        before = _sizes(layer.bytes)
        layer.bytes.remove(start, end)
        end = min(end, layer.floor)
        if start < end:
            layer.holes.add(start, end)
        now = _sizes(layer.bytes)
        self._account(now[0] - before[0], now[1] - before[1])

    def _account(self, grown: int, grown_in_memory: int) -> None:
        self.size_bytes += grown
        self.memory_bytes += grown_in_memory
        if grown < 0:
            self._last_freed_at_s = time.monotonic()
            self.space_available.notify_all()

    # -- storing

    def freeze(self, inode: Inode) -> list[Layer]:
        """Freezes the layers of this moment.

        Waits (and releases the lock meanwhile) for writers to the top layer: a write belongs to one layer whole, its
        bytes and the size that it made. Several threads may wait for one writer; when the last of them wakes, the next
        writer may have begun a layer above, which is no part of this moment.

        Returns:
            the layers, bottom to top, without those that were dropped while this waited.
        """
        if not inode.layers:
            return []
        top = inode.layers[-1]
        top.closing = True
        while top.writers:
            self.space_available.wait()
        top.closing, top.frozen = False, True
        self.space_available.notify_all()
        return [layer for layer in inode.layers if layer.seq <= top.seq]

    def mark_stored(self, inode: Inode, layers: list[Layer]) -> None:
        """Records that the open index transaction has `layers`, the lowest unstored ones of the inode.

        A layer with a row stays until the index is durable, and so do those above it: if they were dropped first, its
        bytes would hide theirs.
        """
        for layer in layers:
            layer.stored = True
        self._update_unstored(inode)
        inode.replaced_another = inode.replaced_another and inode.is_unstored
        if inode.layers[0] is not layers[0] or any(layer.has_row for layer in layers):
            self._stored.append((inode, layers))
        else:
            self.rows.dropped_uncommitted.add(inode.number)
            self._drop_lowest(inode, layers)

    def hide_stored(self, inode: Inode) -> None:
        """Hides the layers of an inode from reads, all of them stored: the open index transaction is newer.

        Until that is committed no later layer gets a row: after a crash it would lie over an older index.
        """
        for layer in inode.layers:
            layer.hidden = True
        self.rows.dropped_uncommitted.add(inode.number)

    def _update_unstored(self, inode: Inode) -> None:
        if inode.is_unstored:
            self.unstored[inode.number] = inode
        else:
            self.unstored.pop(inode.number, None)
            self.rows.refused.pop(inode.number, None)

    def take_stored(self) -> tuple[list[tuple[Inode, list[Layer]]], set[int]]:
        """What was marked stored since the last commit.

        Returns:
            the layers that `drop` is to get when the index is durable, and the inodes of which layers were dropped
            already.
        """
        taken = self._stored, self.rows.dropped_uncommitted
        self._stored, self.rows.dropped_uncommitted = [], set()
        return taken

    def restore_stored(self, stored: list[tuple[Inode, list[Layer]]], dropped_uncommitted: set[int]) -> None:
        """Undoes `take_stored`, as the commit that it was for has failed."""
        self._stored += stored
        self.rows.dropped_uncommitted |= dropped_uncommitted

    def drop(self, stored: list[tuple[Inode, list[Layer]]]) -> None:
        """Drops layers that are durable in the index, with their rows and bytes."""
        for inode, layers in stored:
            self._drop_lowest(inode, [layer for layer in layers if not layer.dropped])

    def _drop_lowest(self, inode: Inode, layers: list[Layer]) -> None:
        for layer in layers:
            self._drop(inode, layer)
        inode.layers = [layer for layer in inode.layers if not layer.dropped]
        self._update_unstored(inode)
        if not inode.layers:
            self.files.pop(inode.number, None)
            self.rows.changed.pop(inode.number, None)

    def discard(self, inode: Inode) -> None:
        """Drops all that is staged for an inode that was removed.

        What has a row stays until the removal is durable: a crash before that brings the file back.
        """
        self._drop_lowest(inode, [layer for layer in inode.layers if not layer.has_row])
        for layer in inode.layers:
            layer.stored = True
        self._update_unstored(inode)
        self.losses.pop(inode.number, None)
        if inode.layers:
            self._stored.append((inode, list(inode.layers)))

    def _drop(self, inode: Inode, layer: Layer) -> None:
        if layer.has_row:
            self.rows.delete(inode.number, layer.seq)
        size_bytes, in_memory = _sizes(layer.bytes)
        self._account(-size_bytes, -in_memory)
        layer.dropped = True
        if not layer.readers:
            layer.bytes.discard()
        elif isinstance(layer.bytes, FileBytes):
            layer.bytes.rename_for_removal()

    # -- what the disk loses

    def _on_lost(self, held: FileBytes, error: OSError) -> None:
        self._new_losses.append((held, error))

    def record_losses(self) -> None:
        """Records what the disk has lost since the last time, in rows and for the next fsync of each handle."""
        while self._new_losses:
            held, error = self._new_losses.popleft()
            number = int(held.path.name.partition("-")[0], 16)
            inode = self.files.get(number)
            layer = next((one for one in inode.layers if one.bytes is held), None) if inode is not None else None
            if inode is None or layer is None or layer.stored:
                continue  # it was dropped, or is in a pack
            layer.unsaved = True
            self.rows.changed[number] = inode
            failure = self.losses.setdefault(number, StagingLoss())
            failure.count += 1
            failure.reason = f"the local disk has lost bytes of inode {number} that were not in the store yet: {error}"
            _log.error("%s; they cannot be read until they are written again", failure.reason)

    # -- after a crash

    def restore_layer(self, inode: Inode, layer: Layer) -> None:
        """Puts the layer of a row on top of those of `inode`, which gets its size and times."""
        inode.layers.append(layer)
        inode.size, inode.mtime_ns, inode.ctime_ns = layer.size, layer.mtime_ns, layer.ctime_ns
        inode.replaced_another = inode.stored_seq == 0  # perhaps not, but it costs little to assume so
        self.files[inode.number] = self.unstored[inode.number] = inode
        self._account(*_sizes(layer.bytes))

    def close(self) -> None:
        """Closes the files; rows and files stay for the next mount."""
        self.layer_files.close()
        self.files.clear()
        self.rows.records.close()


def _sizes(held: MemoryBytes | FileBytes) -> tuple[int, int]:
    """How many bytes are staged, and how much memory they need."""
    return held.size_bytes, held.cost_bytes if isinstance(held, MemoryBytes) else 0
