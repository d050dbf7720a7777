# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes at places of a file: sets of ranges, and few bytes in memory (for many see module `layer_files`).

Nothing here takes a lock.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from cas3fs.values import Buffer

Range = tuple[int, int]
"""From (included) and to (excluded), bytes of the file."""

EXTENT_COST_BYTES = 128
"""The memory that an extent needs beside its bytes."""

_RANGE = struct.Struct("<qq")


def pack_ranges(ranges: Iterable[Range]) -> bytes:
    """The ranges as a staging row holds them: pairs of little-endian signed 64-bit numbers."""
    return b"".join(_RANGE.pack(start, end) for start, end in ranges)


def unpack_ranges(blob: bytes) -> list[Range]:
    """What `pack_ranges` wrote.

    Raises:
        ValueError: the bytes are not ascending, disjoint ranges.
    """
    if len(blob) % _RANGE.size:
        raise ValueError("a list of ranges is cut short")
    ranges: list[Range] = list(_RANGE.iter_unpack(blob))
    last = 0
    for start, end in ranges:
        if not last <= start < end:
            raise ValueError("a list of ranges is not ascending")
        last = end
    return ranges


class RangeSet:
    """Disjoint, non-adjacent ranges in ascending order."""

    __slots__ = ("ends", "size_bytes", "starts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.size_bytes = 0
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> "zip[Range]":
        return zip(self.starts, self.ends, strict=True)

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, start: int, end: int) -> None:
        """Joins ``[start, end)`` with what it overlaps or touches."""
        if self.ends and start == self.ends[-1]:  # appending, by far the most frequent case
            self.ends[-1] = end
            self.size_bytes += end - start
            return
        low = bisect_left(self.ends, start)
        high = bisect_right(self.starts, end)
        if low < high:
            self.size_bytes -= sum(self.ends[i] - self.starts[i] for i in range(low, high))
            start, end = min(start, self.starts[low]), max(end, self.ends[high - 1])
        self.starts[low:high] = [start]
        self.ends[low:high] = [end]
        self.size_bytes += end - start

    def remove(self, start: int, end: int) -> None:
        """Removes ``[start, end)``."""
        low = bisect_right(self.ends, start)
        high = bisect_left(self.starts, end)
        if low >= high:
            return
        left = [(self.starts[low], start)] if self.starts[low] < start else []
        right = [(end, self.ends[high - 1])] if self.ends[high - 1] > end else []
        self.size_bytes -= sum(self.ends[i] - self.starts[i] for i in range(low, high))
        self.starts[low:high] = [one for one, _ in left + right]
        self.ends[low:high] = [other for _, other in left + right]
        self.size_bytes += sum(other - one for one, other in left + right)

    def truncate(self, size: int) -> None:
        """Drops everything from `size` on."""
        keep = bisect_left(self.starts, size)
        self.size_bytes -= sum(self.ends[i] - self.starts[i] for i in range(keep, len(self.starts)))
        del self.starts[keep:], self.ends[keep:]
        if keep and self.ends[-1] > size:
            self.size_bytes -= self.ends[-1] - size
            self.ends[-1] = size

    def overlaps(self, start: int, end: int) -> bool:
        """Whether the set holds any of ``[start, end)``."""
        i = bisect_right(self.ends, start)
        return i < len(self.starts) and self.starts[i] < end

    def within(self, start: int, end: int) -> list[Range]:
        """The parts of ``[start, end)`` that the set holds, ascending."""
        found = []
        for i in range(bisect_right(self.ends, start), len(self.starts)):
            if self.starts[i] >= end:
                break
            found.append((max(start, self.starts[i]), min(end, self.ends[i])))
        return found

    def outside(self, start: int, end: int) -> list[Range]:
        """The parts of ``[start, end)`` that the set does not hold, ascending."""
        found, position = [], start
        for begin, stop in self.within(start, end):
            if position < begin:
                found.append((position, begin))
            position = stop
        if position < end:
            found.append((position, end))
        return found


class MemoryBytes:
    """Few bytes, as ascending, disjoint, non-adjacent extents in memory."""

    __slots__ = ("extents", "size_bytes", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.extents: list[bytearray] = []
        self.size_bytes = 0

    @property
    def cost_bytes(self) -> int:
        """About how much memory it needs."""
        return self.size_bytes + EXTENT_COST_BYTES * len(self.starts)

    @property
    def range_count(self) -> int:
        return len(self.starts)

    def ranges(self) -> list[Range]:
        return [(start, start + len(data)) for start, data in zip(self.starts, self.extents, strict=True)]

    def write(self, offset: int, data: Buffer) -> None:
        """Puts `data` at `offset`, over what is there."""
        if self.starts:
            self._merge(offset, data)
        else:
            self.starts.append(offset)
            self.extents.append(bytearray(data))
            self.size_bytes = len(data)

    def _merge(self, offset: int, data: Buffer) -> None:
        """Joins the new bytes with every extent that they overlap or touch."""
        end = offset + len(data)
        low = bisect_right(self.starts, offset)
        if low and self.starts[low - 1] + len(self.extents[low - 1]) >= offset:
            low -= 1
        high = bisect_right(self.starts, end)
        if low == high:
            self.starts.insert(low, offset)
            self.extents.insert(low, bytearray(data))
            self.size_bytes += len(data)
            return
        before = sum(len(extent) for extent in self.extents[low:high])
        start = min(offset, self.starts[low])
        tail_start = self.starts[high - 1]
        tail = (
            bytes(self.extents[high - 1][end - tail_start :]) if tail_start + len(self.extents[high - 1]) > end else b""
        )
        if start < offset:  # the first extent stays the home of the bytes: appending copies nothing but the new
            home = self.extents[low]
            del home[offset - start :]
            home += data
        else:
            home = bytearray(data)
        home += tail
        self.starts[low:high] = [start]
        self.extents[low:high] = [home]
        self.size_bytes += len(home) - before

    def truncate(self, size: int) -> None:
        """Drops everything from `size` on."""
        keep = bisect_left(self.starts, size)
        del self.starts[keep:], self.extents[keep:]
        if keep and self.starts[-1] + len(self.extents[-1]) > size:
            del self.extents[-1][size - self.starts[-1] :]
        self.size_bytes = sum(map(len, self.extents))

    def remove(self, start: int, end: int) -> None:
        """Drops ``[start, end)``."""
        found = self.within(start, end)
        if not found:
            return
        low = bisect_right(self.starts, found[0][0]) - 1
        high = bisect_right(self.starts, found[-1][0])
        first, last = self.starts[low], self.starts[high - 1]
        tail = self.extents[high - 1][end - last :]
        head = self.extents[low][: max(0, start - first)]
        left = [(at, data) for at, data in ((first, head), (end, tail)) if data]
        self.starts[low:high] = [at for at, _ in left]
        self.extents[low:high] = [data for _, data in left]
        self.size_bytes -= sum(stop - begin for begin, stop in found)

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any of ``[start, end)`` is here."""
        i = bisect_left(self.starts, end) - 1
        return i >= 0 and self.starts[i] + len(self.extents[i]) > start

    def within(self, start: int, end: int) -> list[Range]:
        """The parts of ``[start, end)`` that are here, ascending."""
        found = []
        for i in range(max(bisect_right(self.starts, start) - 1, 0), bisect_left(self.starts, end)):
            begin, stop = self.starts[i], self.starts[i] + len(self.extents[i])
            if stop > start:
                found.append((max(start, begin), min(end, stop)))
        return found

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a range that lies in one extent, as `within` gives them."""
        i = bisect_right(self.starts, start) - 1
        begin = self.starts[i]
        return bytes(memoryview(self.extents[i])[start - begin : end - begin])

    def joined(self) -> bytes:
        """All extents, back to back."""
        return b"".join(self.extents)

    @classmethod
    def from_joined(cls, ranges: Sequence[Range], data: bytes) -> "MemoryBytes":
        """The bytes of `joined`, where `ranges` says that they belong.

        Raises:
            ValueError: the lengths do not agree.
        """
        made, position = cls(), 0
        for start, end in ranges:
            made.starts.append(start)
            made.extents.append(bytearray(data[position : position + end - start]))
            position += end - start
        if position != len(data):
            raise ValueError("ranges and bytes of a staging row differ in length")
        made.size_bytes = position
        return made

    def close(self) -> None:
        """Does nothing: there is nothing to close."""

    discard = close
