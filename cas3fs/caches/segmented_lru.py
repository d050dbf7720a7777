# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks the disk cache holds, what their files take, and which must go: decided here, without any I/O.

A block being written is *booked*: its room is taken, but it is no candidate for removal. Written, it is *fresh*.
Fresh blocks queue up (an eighth of the limit), so that the many small reads of one pass over a file count as one use;
the oldest then becomes *settled*. A hit on a settled block makes it *proven* (three quarters of the limit at most;
the least recently used one becomes settled again). The longest unused settled block goes first, then proven, then
fresh ones. So one pass over more data than fits, such as a backup, flows through and leaves what is used again.

Not thread-safe: the owner has a lock.
"""

from collections import OrderedDict
from collections.abc import Iterable

from cas3fs.values import BlockHash

WINDOW_SHARE = 8
"""One part in so many of the limit is for fresh blocks."""


class LruSegment:
    """Sizes by block in order, oldest first, and their sum."""

    def __init__(self) -> None:
        self.sizes: OrderedDict[BlockHash, int] = OrderedDict()
        self.total_bytes = 0

    def add(self, block: BlockHash, size_bytes: int) -> None:
        """At the young end."""
        self.sizes[block] = size_bytes
        self.total_bytes += size_bytes

    def pop(self, block: BlockHash) -> int | None:
        """Its size; None if it is not here."""
        size_bytes = self.sizes.pop(block, None)
        if size_bytes is not None:
            self.total_bytes -= size_bytes
        return size_bytes

    def pop_oldest(self) -> tuple[BlockHash, int]:
        """The one at the old end; there must be one."""
        block, size_bytes = self.sizes.popitem(last=False)
        self.total_bytes -= size_bytes
        return block, size_bytes


class SegmentedLru:
    """Bounded by `limit_bytes` and by `limit_files`, whichever is reached first."""

    def __init__(self, limit_bytes: int, limit_files: int) -> None:
        self.limit_bytes = limit_bytes
        self.limit_files = limit_files
        self._fresh = LruSegment()
        self._settled = LruSegment()
        self._proven = LruSegment()
        self._evictable = (self._settled, self._proven, self._fresh)
        self._booked: dict[BlockHash, int] = {}
        self._booked_bytes = 0

    def __contains__(self, block: BlockHash) -> bool:
        return (
            block in self._settled.sizes
            or block in self._proven.sizes
            or block in self._fresh.sizes
            or block in self._booked
        )

    def __len__(self) -> int:
        return len(self._settled.sizes) + len(self._proven.sizes) + len(self._fresh.sizes) + len(self._booked)

    @property
    def size_bytes(self) -> int:
        """What all known files take together, with those being written."""
        segments = self._settled.total_bytes + self._proven.total_bytes + self._fresh.total_bytes
        return segments + self._booked_bytes

    def book(self, block: BlockHash, size_bytes: int) -> list[BlockHash] | None:
        """Keep room for a block about to be written: the blocks whose files must be removed first.

        None if it cannot be written now: it is here, being written, or there is no room beside what is being written.
        """
        booked_bytes = self._booked_bytes + size_bytes
        if block in self or booked_bytes > self.limit_bytes or len(self._booked) >= self.limit_files:
            return None
        victims = self._make_room(self.limit_bytes - size_bytes, self.limit_files - 1)
        self._booked[block] = size_bytes
        self._booked_bytes = booked_bytes
        return victims

    def cancel(self, block: BlockHash) -> None:
        """A booked block was not written."""
        self._booked_bytes -= self._booked.pop(block)

    def enter(self, block: BlockHash, size_bytes: int) -> None:
        """A booked block was written; its file takes `size_bytes`."""
        self.cancel(block)
        self._add_fresh(block, size_bytes)

    def meet(self, block: BlockHash, size_bytes: int) -> list[BlockHash]:
        """Enter a file that someone else put there; the blocks that are too much now and must go."""
        if block not in self:
            self._add_fresh(block, size_bytes)
        return self._make_room(self.limit_bytes, self.limit_files)

    def adopt(self, found: Iterable[tuple[BlockHash, int]]) -> list[BlockHash]:
        """Enter files that were there before, longest unused first; the blocks that are too much and must go."""
        known = list(self._settled.sizes)
        for block, size_bytes in found:
            if block not in self:
                self._settled.add(block, size_bytes)
        for block in known:
            self._settled.sizes.move_to_end(block)
        return self._make_room(self.limit_bytes, self.limit_files)

    def used(self, block: BlockHash) -> bool:
        """Note a hit; False if the block is not known."""
        if block in self._proven.sizes:
            self._proven.sizes.move_to_end(block)
            return True
        size_bytes = self._settled.pop(block)
        if size_bytes is None:
            return block in self._fresh.sizes
        self._proven.add(block, size_bytes)
        while self._proven.total_bytes > self.limit_bytes * 3 // 4:
            self._settled.add(*self._proven.pop_oldest())
        return True

    def forget(self, block: BlockHash) -> None:
        """The file is gone, or going. What is booked stays so."""
        for segment in self._evictable:
            segment.pop(block)

    def release(self, size_bytes: int) -> list[BlockHash]:
        """The blocks to remove so that `size_bytes` less are taken."""
        return self._make_room(max(0, self.size_bytes - size_bytes), self.limit_files)

    def _add_fresh(self, block: BlockHash, size_bytes: int) -> None:
        self._fresh.add(block, size_bytes)
        while self._fresh.total_bytes > self.limit_bytes // WINDOW_SHARE:
            self._settled.add(*self._fresh.pop_oldest())

    def _make_room(self, keep_bytes: int, keep_files: int) -> list[BlockHash]:
        victims = []
        for segment in self._evictable:
            while segment.sizes and (self.size_bytes > keep_bytes or len(self) > keep_files):
                victims.append(segment.pop_oldest()[0])
        return victims
