# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting the dirty parts of a frozen file into blocks.

Dirty ranges rarely begin and end where blocks do.  A *region* begins at the start of the old chunk that its first
dirty byte lies in (or touches, since a file's last chunk was cut by the file's end and not by its content), and ends
where the chunker cuts again where an old chunk began, behind the last dirty byte; or at a hole, or at the end of the
file.  What lies between is cut anew, so that the whole file ends up cut nearly as if it had been written at once.

Where the old bytes beside the dirty ones cannot be read, `exact` cuts just the dirty ranges; the index then keeps what
the old chunks have beside them.

Memory: one region's unfinished bytes, at most `_PIECE_BYTES` and a longest chunk.  A layer's file is read into it, and
not mapped: a sector that cannot be read is the trouble of one file, and no signal that ends the process.
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
from cas3fs.filesystem.state.layers import Layer, dirty_ranges
from cas3fs.filesystem.state.staging import Staging
from cas3fs.index import Index
from cas3fs.values import BlockHash, ChunkSpan, NewChunk

_MIB = 1 << 20
_PIECE_BYTES = 4 * _MIB

Emit = Callable[[Sequence[memoryview]], list[BlockHash]]
"""Sees to it that these blocks get stored, and gives their hashes."""


def enter_chunks(index: Index, file: "FrozenFile", ids: Mapping[BlockHash, int]) -> None:
    """Puts what `file` was cut into in the place of what `index` has of it; `ids` are the index's own."""
    number = file.inode.number
    index.chunks.truncate(number, min(file.floor, file.size))
    for part in file.replacements:
        rows = [(new.offset, new.length, ids[new.hash], 0) for new in part.chunks]
        index.chunks.replace(number, part.start, part.end, rows)


@attrs.frozen
class ChunkReplacement:
    """The chunks that begin within ``[start, end)`` give way to `chunks`."""

    start: int
    end: int
    chunks: Sequence[NewChunk]


class FrozenFile:
    """An inode as of the moment when its layers were frozen.  Made under the lock.

    The files of its layers stay open until `release`, even if the inode goes before.
    """

    def __init__(self, inode: Inode, layers: Sequence[Layer]) -> None:
        assert all(layer.frozen for layer in layers), "a layer that still changes would be read without a lock"
        top = layers[-1]
        unstored = [layer for layer in layers if not layer.stored]
        self.inode = inode
        self.layers = list(layers)
        self.unstored = unstored
        self.seq = top.seq
        self.size = top.size
        self.mtime_ns = top.mtime_ns
        self.ctime_ns = top.ctime_ns
        self.floor = min(layer.floor for layer in unstored)
        """Index bytes from here on are dead."""
        self.dirty = dirty_ranges(unstored)
        self.dirty.truncate(self.size)
        self.replacements: list[ChunkReplacement] = []
        self.held = True
        """`release` was not called yet."""
        for layer in self.layers:
            layer.readers += 1
        self._files = [(layer.bytes, layer.bytes.failures) for layer in layers if isinstance(layer.bytes, FileBytes)]

    def verify(self) -> None:
        """What was read of the layers' files so far are the bytes that were written.

        Raises:
            OSError: perhaps not: the disk has lost some of them meanwhile.
        """
        for held, failures in self._files:
            held.verify()
            if held.failures != failures:
                raise OSError(errno.EIO, f"the local disk has lost bytes of staging file {held.path}")

    def release(self, staging: Staging) -> bool:
        """Nobody reads its layers any more; whether that is new.  Needs the lock."""
        was_held, self.held = self.held, False
        if was_held:
            staging.release_readers(self.layers)
        return was_held

    @property
    def chunks(self) -> list[NewChunk]:
        """All chunks that are to be entered."""
        return [new for part in self.replacements for new in part.chunks]

    @property
    def is_new(self) -> bool:
        """Whether the index holds no byte of it."""
        return self.inode.stored_seq == 0

    def whole(self, limit_bytes: int) -> bytes | None:
        """All of the content, if it is in memory in one piece of at most that length, with nothing below it."""
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
        """What is to change in the file's chunk list, ascending; blocks are emitted on the way.

        Raises:
            BlockError, StoreError: old bytes next to the dirty ones cannot be read.
            OSError: staged bytes cannot be read.
        """
        while self._next < len(self._dirty):
            start, _ = self._dirty[self._next]
            yield self._region(self._beginning(start))

    def _beginning(self, start: int) -> int:
        """Where the region of a dirty byte at `start` begins."""
        alignment = self._chunker.alignment
        if self._exact:
            return start
        if alignment > 1:
            return max(start - start % alignment, self._done)
        old = self._bounds(max(start - 1, 0), start)
        if old:
            offset, length = old[-1]
            if offset >= self._done and (offset + length > start or length < self._chunker.max_size):
                return offset
        return start

    def _region(self, begin: int) -> ChunkReplacement:
        chunks: list[NewChunk] = []
        position = filled = begin
        limit = self._absorbed(self._dirty[self._next][0])
        rest = memoryview(b"")
        final = False
        while not final:
            if filled == limit:
                limit, final = self._grown(limit, position + _PIECE_BYTES)
            stop = min(limit, max(filled, position + _PIECE_BYTES))
            data = self._joined(rest, filled, stop)
            filled = stop
            used = 0
            for chunk in self._emitted(data, self._chunker.cut(data, final and filled == limit), position):
                chunks.append(chunk)
                position += chunk.length
                used += chunk.length
                if self._is_in_step(position):
                    return self._ended(begin, position, chunks)
            rest = data[used:]
        return self._ended(begin, position, chunks)

    def _emitted(self, data: memoryview, lengths: Sequence[int], position: int) -> list[NewChunk]:
        """The chunks that `data` was cut into, given to be stored."""
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

    def _is_in_step(self, position: int) -> bool:
        """Whether old chunks can stay as they are from here on."""
        if position < self._dirty_end or (self._next < len(self._dirty) and self._dirty[self._next][0] <= position):
            return False
        old = self._bounds(position, position + 1)
        return bool(old) and old[0][0] == position

    def _ended(self, begin: int, position: int, chunks: Sequence[NewChunk]) -> ChunkReplacement:
        self._done = position
        return ChunkReplacement(begin, position, chunks)

    def _absorbed(self, reached: int) -> int:
        """How far the region is dirty when it is so up to `reached`, with all dirty ranges that this reaches."""
        while self._next < len(self._dirty) and self._dirty[self._next][0] <= reached:
            reached = self._dirty_end = max(reached, self._aligned_up(self._dirty[self._next][1]))
            self._next += 1
        return reached

    def _grown(self, limit: int, wanted: int) -> tuple[int, bool]:
        """How far the region reaches when it goes on from `limit`, and whether it ends there.

        It reaches up to `wanted`, or a little farther, where one old chunk after the other is dirty.
        """
        while True:
            reached = self._absorbed(limit)
            if reached == limit:
                reached = self._old_end(limit)
                if reached == limit:
                    return limit, True
            limit = reached
            if limit >= wanted or not self._goes_on(limit):
                return limit, False

    def _goes_on(self, limit: int) -> bool:
        """Whether the old chunk at `limit`, or what begins there, is dirty, too."""
        return self._next < len(self._dirty) and self._dirty[self._next][0] < self._old_end(limit)

    def _old_end(self, position: int) -> int:
        """Where the old chunk ends that `position` lies in; `position` itself where there is none to go on with."""
        old = [] if self._exact else self._bounds(position, position + 1)
        return max((offset + length for offset, length in old), default=position)

    def _ahead(self, end: int) -> list[ChunkSpan]:
        """What will be wanted next of the old chunks; one that is lost is noticed when it is."""
        if self._goes_on(end):
            with suppress(BlockMissing), self._state.lock:
                return self._spans(end, end + _PIECE_BYTES)
        return []

    def _aligned_up(self, end: int) -> int:
        alignment = 1 if self._exact else self._chunker.alignment
        return min(-(-end // alignment) * alignment, self._file.size)

    def _bounds(self, start: int, end: int) -> list[tuple[int, int]]:
        """(offset, length) of old chunks that overlap the range, without what is dead."""
        end = min(end, self._file.floor)
        if start >= end:
            return []
        with self._state.lock:
            found = self._state.index.chunks.bounds(self._file.inode.number, start, end)
        return [(offset, min(length, self._file.floor - offset)) for offset, length in found]

    def _joined(self, rest: memoryview, start: int, end: int) -> memoryview:
        """`rest`, and behind it the file's bytes ``[start, end)``."""
        if start == end:
            return rest
        state = self._state
        with state.lock:
            plan = ReadPlan(self._spans, self._file.layers, start, end)
        state.reader.prefetch([span.block for span in (*plan.spans, *self._ahead(end))])
        joined = memoryview(bytearray(len(rest) + end - start))
        joined[: len(rest)] = rest
        try:
            plan.carry_out_into(joined[len(rest) :], state.reader)
        finally:
            if plan.holds_files:
                with state.lock:
                    plan.finish(state.staging)
        return joined
