# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting the dirty parts of a frozen file into blocks.

Dirty ranges rarely begin and end where blocks do. A *region* begins at the start of the old chunk that has its first
dirty byte (or that ends before it, since a file's last chunk was cut by the file's end and not by its content). It ends
where the chunker cuts again where an old chunk began, behind the last dirty byte; or at a hole, or at the end of the
file. What lies between is cut anew, so that the whole file ends up cut nearly as if it had been written at once.

Where the old bytes beside the dirty ones cannot be read, `exact` cuts just the dirty ranges; the index then keeps what
the old chunks have beside them.

Memory: one region's unfinished bytes, at most `_PIECE_BYTES` and a longest chunk. A layer's file is read into memory
and not mapped: a sector that cannot be read is an error of one file then, and not a signal that ends the process.
"""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

import attrs

from cas3fs.blocks.chunkers import Chunker
from cas3fs.errors import BlockMissing
from cas3fs.filesystem.reading.read_plan import ReadPlan
from cas3fs.filesystem.state.extents import MemoryBytes
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layer_files import FileBytes
from cas3fs.filesystem.state.layers import Layer, changed_ranges
from cas3fs.filesystem.state.staging import Staging
from cas3fs.index import Index
from cas3fs.values import BlockHash, ChunkSpan, NewChunk

_MIB = 1 << 20
_PIECE_BYTES = 4 * _MIB

Emit = Callable[[Sequence[memoryview]], list[BlockHash]]
"""Has these blocks stored, and returns their hashes."""


def enter_chunks(index: Index, file: "FrozenFile", ids: Mapping[BlockHash, int]) -> None:
    """Replaces the chunks of `file` in `index` by those that it was cut into; `ids` are the numbers of blocks there."""
    number = file.inode.number
    index.chunks.truncate(number, min(file.floor, file.size))
    for start, end in file.holes:
        index.chunks.replace(number, start, end, ())
    for part in file.replacements:
        rows = [(new.offset, new.length, ids[new.hash], 0) for new in part.chunks]
        index.chunks.replace(number, part.start, part.end, rows)


@attrs.frozen
class ChunkReplacement:
    """The chunks that begin within ``[start, end)`` are replaced by `chunks`."""

    start: int
    end: int
    chunks: Sequence[NewChunk]


class FrozenFile:
    """An inode as of the moment when its layers were frozen.  Made under the lock.

    The files of its layers stay open until `release`, even if the inode is removed before.
    """

    def __init__(self, inode: Inode, layers: Sequence[Layer]) -> None:
        assert all(layer.frozen for layer in layers), "a layer that still changes would be read without a lock"
        top = layers[-1]
        unstored = [layer for layer in layers if not layer.stored]
        self.inode = inode
        self.layers = [layer for layer in layers if not layer.hidden]
        self.unstored = unstored
        self.seq = top.seq
        self.size = top.size
        self.mtime_ns = top.mtime_ns
        self.ctime_ns = top.ctime_ns
        self.floor = min(layer.floor for layer in unstored)
        """Index bytes from here on are dead."""
        self.dirty, self.holes = changed_ranges(unstored)
        self.dirty.truncate(self.size)
        self.holes.truncate(min(self.floor, self.size))
        self.replacements: list[ChunkReplacement] = []
        self.is_held = True
        """Whether `release` was not called yet."""
        for layer in self.layers:
            layer.readers += 1
        self._files = [
            (layer.bytes, layer.bytes.failures) for layer in self.layers if isinstance(layer.bytes, FileBytes)
        ]

    def verify(self) -> None:
        """Checks that what was read of the layers' files so far are the bytes that were written.

        Raises:
            OSError: perhaps not, as the disk has lost some of them meanwhile.
        """
        for held, failures in self._files:
            held.verify()
            if held.failures != failures:
                raise OSError(errno.EIO, f"the local disk has lost bytes of staging file {held.path}")

    def release(self, staging: Staging) -> bool:
        """Ends the use of its layers.  Needs the lock.

        Returns:
            False if that was done before.
        """
        was_held, self.is_held = self.is_held, False
        if was_held:
            staging.release_readers(self.layers)
        return was_held

    @property
    def chunks(self) -> list[NewChunk]:
        """All chunks that are to be entered."""
        return [new for part in self.replacements for new in part.chunks]

    @property
    def is_new(self) -> bool:
        """Whether the index has no byte of it."""
        return self.inode.stored_seq == 0

    def content_in_memory(self, limit_bytes: int) -> bytes | None:
        """All of the content, where it is in memory in one piece of at most that length; else None."""
        if len(self.layers) > 1 or self.floor or not 0 < self.size <= limit_bytes:
            return None
        held = self.layers[0].bytes
        if not isinstance(held, MemoryBytes) or held.ranges() != [(0, self.size)]:
            return None
        return held.joined()


class Rechunker:
    """Cuts one frozen file; used by one thread, without the file system's lock."""

    def __init__(
        self, state: FileSystemState, file: FrozenFile, chunker: Chunker, emit: Emit, *, exact: bool = False
    ) -> None:
        self._state = state
        self._exact = exact
        self._file = file
        self._chunker = chunker
        self._emit = emit
        self._spans = partial(state.index.chunks.spans, file.inode.number)
        self._dirty = list(file.dirty)
        self._next = 0  # index of the next dirty range that no region has reached
        self._dirty_end = 0
        self._done = 0  # everything before is cut

    def replacements(self) -> Iterator[ChunkReplacement]:
        """Cuts the file, and emits the blocks.

        Yields:
            what changes in the file's chunk list, ascending.

        Raises:
            BlockError, StoreError: old bytes next to the dirty ones cannot be read.
            OSError: staged bytes cannot be read.
        """
        while self._next < len(self._dirty):
            start, _ = self._dirty[self._next]
            yield self._region(self._region_start(start))

    def _region_start(self, start: int) -> int:
        """Where the region begins that has a dirty byte at `start`."""
        alignment = self._chunker.alignment
        if self._exact:
            return start
        if alignment > 1:
            return max(start - start % alignment, self._done)
        old = self._old_chunks(max(start - 1, 0), start)
        if old:
            offset, length = old[-1]
            if offset >= self._done and (offset + length > start or length < self._chunker.max_size):
                return offset
        return start

    def _region(self, begin: int) -> ChunkReplacement:
        chunks: list[NewChunk] = []
        position = filled = begin
        limit = self._absorb_dirty(self._dirty[self._next][0])
        rest = memoryview(b"")
        final = False
        while not final:
            if filled == limit:
                limit, final = self._extend(limit, position + _PIECE_BYTES)
            stop = min(limit, max(filled, position + _PIECE_BYTES))
            data = self._read_on(rest, filled, stop)
            filled = stop
            used = 0
            for chunk in self._emit_chunks(data, self._chunker.cut(data, final and filled == limit), position):
                chunks.append(chunk)
                position += chunk.length
                used += chunk.length
                if self._meets_old_chunk(position):
                    return self._finish_region(begin, position, chunks)
            rest = data[used:]
        return self._finish_region(begin, position, chunks)

    def _emit_chunks(self, data: memoryview, lengths: Sequence[int], position: int) -> list[NewChunk]:
        """Emits the chunks that `data` was cut into."""
        blocks: list[memoryview] = []
        used = 0
        for length in lengths:
            blocks.append(data[used : used + length])
            used += length
        chunks = []
        for block, block_hash in zip(blocks, self._emit(blocks), strict=True):
            chunks.append(NewChunk(position, len(block), block_hash))
            position += len(block)
        return chunks

    def _meets_old_chunk(self, position: int) -> bool:
        """Whether old chunks can stay as they are from `position` on."""
        if position < self._dirty_end or (self._next < len(self._dirty) and self._dirty[self._next][0] <= position):
            return False
        old = self._old_chunks(position, position + 1)
        return bool(old) and old[0][0] == position

    def _finish_region(self, begin: int, position: int, chunks: Sequence[NewChunk]) -> ChunkReplacement:
        self._done = position
        return ChunkReplacement(begin, position, chunks)

    def _absorb_dirty(self, reached: int) -> int:
        """How far the region is dirty if it is up to `reached`, with all dirty ranges that this reaches."""
        while self._next < len(self._dirty) and self._dirty[self._next][0] <= reached:
            reached = self._dirty_end = max(reached, self._aligned_up(self._dirty[self._next][1]))
            self._next += 1
        return reached

    def _extend(self, limit: int, wanted: int) -> tuple[int, bool]:
        """How far the region extends beyond `limit`, and whether it ends there.

        It reaches up to `wanted`, or a little farther, where one old chunk after the other is dirty.
        """
        while True:
            reached = self._absorb_dirty(limit)
            if reached == limit:
                reached = self._old_end(limit)
                if reached == limit:
                    return limit, True
            limit = reached
            if limit >= wanted or not self._continues_dirty(limit):
                return limit, False

    def _continues_dirty(self, limit: int) -> bool:
        """Whether the old chunk at `limit`, or what begins there, is dirty too."""
        return self._next < len(self._dirty) and self._dirty[self._next][0] < self._old_end(limit)

    def _old_end(self, position: int) -> int:
        """The end of the old chunk at `position`; `position` itself where there is none."""
        old = [] if self._exact else self._old_chunks(position, position + 1)
        return max((offset + length for offset, length in old), default=position)

    def _next_old_chunks(self, end: int) -> list[ChunkSpan]:
        """The old chunks that will be read next; none where one is lost, which reading it will report."""
        if self._continues_dirty(end):
            with suppress(BlockMissing), self._state.lock:
                return self._spans(end, end + _PIECE_BYTES)
        return []

    def _aligned_up(self, end: int) -> int:
        alignment = 1 if self._exact else self._chunker.alignment
        return min(-(-end // alignment) * alignment, self._file.size)

    def _old_chunks(self, start: int, end: int) -> list[tuple[int, int]]:
        """(offset, length) of the old chunks, or parts of them, that overlap the range, without what is dead."""
        end = min(end, self._file.floor)
        if start >= end:
            return []
        with self._state.lock:
            found = self._state.index.chunks.bounds(self._file.inode.number, start, end)
        return [
            (begin, stop - begin)
            for offset, length in found
            for begin, stop in self._file.holes.outside(offset, min(offset + length, self._file.floor))
            if begin < end and start < stop
        ]

    def _read_on(self, rest: memoryview, start: int, end: int) -> memoryview:
        """`rest`, and behind it the file's bytes ``[start, end)``."""
        if start == end:
            return rest
        state = self._state
        with state.lock:
            plan = ReadPlan(self._spans, self._file.layers, start, end)
        state.reader.prefetch([span.block for span in (*plan.spans, *self._next_old_chunks(end))])
        joined = memoryview(bytearray(len(rest) + end - start))
        joined[: len(rest)] = rest
        try:
            plan.execute_into(joined[len(rest) :], state.reader)
        finally:
            if plan.holds_files:
                with state.lock:
                    plan.finish(state.staging)
        return joined
