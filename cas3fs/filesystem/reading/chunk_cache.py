# SPDX-License-Identifier: GPL-3.0-or-later
"""The chunks of an open file that its readers have needed, so that few reads ask the index.

An answer of the index is valid while its `version` is the same; any change to it, of whatever file, empties the cache.
The first question after that is only passed on, since there may be no second one before the next change; from the
second one on, whole *windows* are read and cached.

Small files are mostly read once, one after the other in the order in which they were made, as a backup does. So the
first question of a file is put to `NeighbourChunks`, which asks the index for many files at once.

A window in which the index has lost a block is not cached: only a read of that block gets the error.

Everything here needs the file system's lock.
"""

from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

from cas3fs.errors import BlockMissing
from cas3fs.index import Index
from cas3fs.values import ChunkSpan

WINDOW_BYTES = 16 << 20
WINDOW_SPANS = 64
"""At most so many chunks of a window are cached; for later ones the index is asked each time."""
LARGEST_WINDOWS = 256

NEIGHBOURS = 64
"""How many inodes one query of the index is for, where files are read one after the other."""
_NEIGHBOUR_SPANS = 128

_NEVER = (-1, -1)
_offset = attrgetter("offset")


class _Window(NamedTuple):
    """The chunks of a file from some multiple of `WINDOW_BYTES` up to `end`."""

    end: int
    spans: list[ChunkSpan]


class NeighbourChunks:
    """The chunks of files that will probably be read next; one for all handles."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._version = _NEVER
        self._number = 0
        self._known: dict[int, list[ChunkSpan]] = {}

    def of(self, number: int, version: tuple[int, int]) -> list[ChunkSpan] | None:
        """All chunks of the inode; None where the index has to be asked for it alone.

        They are fetched where two files followed each other, while nothing in the index changed: after a change, what
        was fetched is of no use.
        """
        before, self._number = self._number, number
        if version != self._version:
            self._version = version
            self._known.clear()
            return None
        spans = self._known.get(number)
        if spans is None and 0 < number - before <= NEIGHBOURS:
            self._known = self._index.chunks.of_inodes(number, number + NEIGHBOURS - 1, _NEIGHBOUR_SPANS)
            spans = self._known.get(number)
        return spans


class ChunkCache:
    """The chunks of one inode: called with a range, gives those that overlap it, ascending.

    Raises:
        BlockMissing: the index has lost a block of that range.
    """

    __slots__ = ("_index", "_latest", "_neighbours", "_number", "_version", "_windows")

    def __init__(self, index: Index, number: int, neighbours: NeighbourChunks) -> None:
        self._index = index
        self._neighbours = neighbours
        self._number = number
        self._version = _NEVER
        self._latest: tuple[int, int, list[ChunkSpan]] = (0, 0, [])
        self._windows: dict[int, _Window] = {}

    def __call__(self, start: int, end: int) -> list[ChunkSpan]:
        version = self._index.version
        if version != self._version:
            self._version = version
            self._windows.clear()
            return self._first(start, end, version)
        latest_start, latest_end, spans = self._latest
        if start == latest_start and end == latest_end:
            return spans
        number = start // WINDOW_BYTES
        window = self._windows.get(number)
        if window is None:
            window = self._load_window(number)
        if end > window.end:
            return self._query(start, end)
        return _overlapping(window.spans, start, end)

    def _first(self, start: int, end: int, version: tuple[int, int]) -> list[ChunkSpan]:
        all_spans = self._neighbours.of(self._number, version)
        if all_spans is None:
            return self._query(start, end)
        spans = _overlapping(all_spans, start, end)
        self._latest = (start, end, spans)
        return spans

    def _query(self, start: int, end: int) -> list[ChunkSpan]:
        self._latest = (0, 0, [])
        spans = self._index.chunks.spans(self._number, start, end)
        self._latest = (start, end, spans)
        return spans

    def _load_window(self, number: int) -> _Window:
        start = number * WINDOW_BYTES
        try:
            spans = self._index.chunks.spans(self._number, start, start + WINDOW_BYTES, WINDOW_SPANS)
        except BlockMissing:
            window = _Window(start, [])
        else:
            is_whole = len(spans) < WINDOW_SPANS
            window = _Window(start + WINDOW_BYTES if is_whole else spans[-1].offset + spans[-1].length, spans)
        if len(self._windows) >= LARGEST_WINDOWS:
            self._windows.clear()
        self._windows[number] = window
        return window


def _overlapping(spans: list[ChunkSpan], start: int, end: int) -> list[ChunkSpan]:
    """Those of `spans`, which ascend and do not overlap, that reach into ``[start, end)``."""
    place = bisect_right(spans, start, key=_offset)
    if place and spans[place - 1].offset + spans[place - 1].length > start:
        place -= 1
    found = []
    while place < len(spans) and spans[place].offset < end:
        found.append(spans[place])
        place += 1
    return found
