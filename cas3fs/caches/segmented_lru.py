# SPDX-License-Identifier: GPL-3.0-or-later
"""A segmented LRU: which blocks the disk cache holds, the space of their files, and which to evict. Makes no I/O.

- A block about to be written is *reserved*: its space counts, and it cannot be evicted.
- Once written it enters the *window*, a queue for an eighth of the limit. Hits there are ignored, so the many small
  reads of one pass over a file count as one use.
- The oldest block of the window becomes *probationary*.
- A hit on a probationary block makes it *protected*. Protected blocks get at most three quarters of the limit; beyond
  that, the least recently used one becomes probationary again.

Eviction takes the least recently used probationary block first, then protected ones, then the window. So one pass over
more data than fits, such as a backup, leaves the blocks that are used repeatedly.

Not thread-safe: the owner has a lock.
"""

from collections import OrderedDict
from collections.abc import Iterable

from cas3fs.values import BlockHash

WINDOW_DIVISOR = 8
"""The window gets the limit divided by this."""


class LruSegment:
    """Sizes by block, least recently used first, and their sum."""

    def __init__(self) -> None:
        self.sizes: OrderedDict[BlockHash, int] = OrderedDict()
        self.total_bytes = 0

    def add(self, block: BlockHash, size_bytes: int) -> None:
        """Add a block as the most recently used one."""
        self.sizes[block] = size_bytes
        self.total_bytes += size_bytes

    def pop(self, block: BlockHash) -> int | None:
        """Remove a block and return its size; None if it is not here."""
        size_bytes = self.sizes.pop(block, None)
        if size_bytes is not None:
            self.total_bytes -= size_bytes
        return size_bytes

    def pop_oldest(self) -> tuple[BlockHash, int]:
        """Remove and return the least recently used block; there must be one."""
        block, size_bytes = self.sizes.popitem(last=False)
        self.total_bytes -= size_bytes
        return block, size_bytes


class SegmentedLru:
    """Bounded by `limit_bytes` and by `limit_files`, whichever is reached first."""

    def __init__(self, limit_bytes: int, limit_files: int) -> None:
        self.limit_bytes = limit_bytes
        self.limit_files = limit_files
        self._window = LruSegment()
        self._probationary = LruSegment()
        self._protected = LruSegment()
        self._eviction_order = (self._probationary, self._protected, self._window)
        self._reserved: dict[BlockHash, int] = {}
        self._reserved_bytes = 0

    def __contains__(self, block: BlockHash) -> bool:
        return (
            block in self._probationary.sizes
            or block in self._protected.sizes
            or block in self._window.sizes
            or block in self._reserved
        )

    def __len__(self) -> int:
        return (
            len(self._probationary.sizes) + len(self._protected.sizes) + len(self._window.sizes) + len(self._reserved)
        )

    @property
    def size_bytes(self) -> int:
        """The size of all files, with those being written."""
        segments = self._probationary.total_bytes + self._protected.total_bytes + self._window.total_bytes
        return segments + self._reserved_bytes

    def reserve(self, block: BlockHash, size_bytes: int) -> list[BlockHash] | None:
        """Reserve space for a block that is about to be written.

        Returns:
            The evicted blocks, whose files must be deleted first. None if the block cannot be written now: it is
            cached, or is being written, or does not fit beside the other blocks that are being written.
        """
        reserved_bytes = self._reserved_bytes + size_bytes
        if block in self or reserved_bytes > self.limit_bytes or len(self._reserved) >= self.limit_files:
            return None
        evicted = self._evict_down_to(self.limit_bytes - size_bytes, self.limit_files - 1)
        self._reserved[block] = size_bytes
        self._reserved_bytes = reserved_bytes
        return evicted

    def cancel(self, block: BlockHash) -> None:
        """Give up the reservation of a block that was not written."""
        self._reserved_bytes -= self._reserved.pop(block)

    def commit(self, block: BlockHash, size_bytes: int) -> None:
        """Add a reserved block that was written; its file has `size_bytes`."""
        self.cancel(block)
        self._add_to_window(block, size_bytes)

    def add_found(self, block: BlockHash, size_bytes: int) -> list[BlockHash]:
        """Add a file that another process wrote; return the evicted blocks."""
        if block not in self:
            self._add_to_window(block, size_bytes)
        return self._evict_down_to(self.limit_bytes, self.limit_files)

    def add_existing(self, found: Iterable[tuple[BlockHash, int]]) -> list[BlockHash]:
        """Add files of an earlier run, least recently used first; return the evicted blocks.

        They are evicted before any block that was used in this run.
        """
        known = list(self._probationary.sizes)
        for block, size_bytes in found:
            if block not in self:
                self._probationary.add(block, size_bytes)
        for block in known:
            self._probationary.sizes.move_to_end(block)
        return self._evict_down_to(self.limit_bytes, self.limit_files)

    def record_hit(self, block: BlockHash) -> bool:
        """Record a hit; return False if the block is not known."""
        if block in self._protected.sizes:
            self._protected.sizes.move_to_end(block)
            return True
        size_bytes = self._probationary.pop(block)
        if size_bytes is None:
            return block in self._window.sizes
        self._protected.add(block, size_bytes)
        while self._protected.total_bytes > self.limit_bytes * 3 // 4:
            self._probationary.add(*self._protected.pop_oldest())
        return True

    def discard(self, block: BlockHash) -> None:
        """Remove a block whose file is deleted, or about to be. A reservation stays."""
        for segment in self._eviction_order:
            segment.pop(block)

    def shrink_by(self, size_bytes: int) -> list[BlockHash]:
        """Evict blocks until `size_bytes` less are used; return them."""
        return self._evict_down_to(max(0, self.size_bytes - size_bytes), self.limit_files)

    def _add_to_window(self, block: BlockHash, size_bytes: int) -> None:
        self._window.add(block, size_bytes)
        while self._window.total_bytes > self.limit_bytes // WINDOW_DIVISOR:
            self._probationary.add(*self._window.pop_oldest())

    def _evict_down_to(self, keep_bytes: int, keep_files: int) -> list[BlockHash]:
        evicted = []
        for segment in self._eviction_order:
            while segment.sizes and (self.size_bytes > keep_bytes or len(self) > keep_files):
                evicted.append(segment.pop_oldest()[0])
        return evicted
