# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading bytes of a file: layers over chunks over zeros, for programs and for storers alike.

A `ReadPlan` is made under the lock, in microseconds: it copies what layers have in memory, and notes which ranges of
layer files and which blocks have the rest. It is then executed without any lock.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from cas3fs.blockstore.reader import BlockReader, WaitGuard
from cas3fs.filesystem.state.extents import MemoryBytes
from cas3fs.filesystem.state.layer_files import FileBytes
from cas3fs.filesystem.state.layers import Layer, LayerLookup
from cas3fs.filesystem.state.staging import Staging
from cas3fs.values import Buffer, ChunkSpan

Spans = Callable[[int, int], list[ChunkSpan]]
"""The chunks of a file that overlap ``[start, end)``, ascending; called under the file system's lock."""


class ReadPlan:
    """How to read the bytes ``[start, end)`` of a file.  Made under the file system's lock.

    Raises:
        BlockMissing: the index has lost a block of that range.
    """

    __slots__ = ("_files", "_memory", "_spans", "end", "start")

    def __init__(self, spans: Spans, layers: Sequence[Layer], start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._memory: list[tuple[int, bytes]] = []
        self._files: list[tuple[int, int, Layer]] = []
        self._spans: list[tuple[int, int, ChunkSpan]] = []
        if not layers:  # by far the most frequent case
            self._want(spans, start, end)
            return
        view = LayerLookup(layers, start, end)
        for begin, stop in view.gaps:  # first: this may fail, and nothing is to be taken back then
            self._want(spans, begin, stop)
        for begin, stop, layer in view.pieces:
            held = layer.bytes
            if isinstance(held, MemoryBytes):
                self._memory.append((begin, held.read(begin, stop)))
            else:
                layer.readers += 1
                self._files.append((begin, stop, layer))

    def _want(self, spans: Spans, begin: int, stop: int) -> None:
        for span in spans(begin, stop):
            self._spans.append((max(begin, span.offset), min(stop, span.offset + span.length), span))

    @property
    def spans(self) -> list[ChunkSpan]:
        """The chunks that are to be read, ascending."""
        return [span for _, _, span in self._spans]

    def now(self, reader: BlockReader) -> Buffer | None:
        """The bytes, if all of them are in memory, else None. Never waits."""
        if self._files:
            return None
        if len(self._spans) == 1 and not self._memory:
            begin, stop, span = self._spans[0]
            if begin == self.start and stop == self.end:  # by far the most frequent case: no copy
                return reader.read_now(span.block, span.skip + begin - span.offset, stop - begin)
        found = bytearray(self.end - self.start)
        into = memoryview(found)  # a slice of the array itself would copy what it is given first
        for begin, stop, span in self._spans:
            data = reader.read_now(span.block, span.skip + begin - span.offset, stop - begin)
            if data is None:
                return None
            into[begin - self.start : stop - self.start] = data
        for begin, piece in self._memory:
            into[begin - self.start : begin - self.start + len(piece)] = piece
        return found

    def execute(self, reader: BlockReader, wait_guard: WaitGuard = nullcontext) -> Buffer:
        """Reads the bytes; may wait for the disk and the store.  Call it without a lock, and `finish` afterwards.

        Raises:
            BlockError: a block is missing or damaged.
            StoreError: the store cannot be reached.
            OSError: a layer file cannot be read.
        """
        if len(self._spans) == 1 and not self._memory and not self._files:
            begin, stop, span = self._spans[0]
            if begin == self.start and stop == self.end:
                return reader.read(span.block, span.skip + begin - span.offset, stop - begin, wait_guard)
        found = bytearray(self.end - self.start)
        self.execute_into(memoryview(found), reader, wait_guard)
        return found

    def execute_into(self, found: memoryview, reader: BlockReader, wait_guard: WaitGuard = nullcontext) -> None:
        """As `execute`, into memory that is as long as the range."""
        for begin, stop, span in self._spans:
            data = reader.read(span.block, span.skip + begin - span.offset, stop - begin, wait_guard)
            found[begin - self.start : stop - self.start] = data
        for begin, stop, layer in self._files:
            held = layer.bytes
            assert isinstance(held, FileBytes)
            held.read_into(begin, found[begin - self.start : stop - self.start])
        for begin, piece in self._memory:
            found[begin - self.start : begin - self.start + len(piece)] = piece

    def finish(self, staging: Staging) -> None:
        """Ends the use of layer files.  Needs the lock."""
        staging.release_readers(layer for _, _, layer in self._files)
        self._files = []

    @property
    def holds_files(self) -> bool:
        """Whether it uses layer files, so that `finish` has to be called."""
        return bool(self._files)
