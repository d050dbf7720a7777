# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks in the memory of this process: an LRU cache, bounded in bytes.

One lock, held for a few dictionary operations and never while another lock is taken or awaited: every warm read calls
`get`. An entry is charged for its bytes and for the overhead of Python's objects.
"""

from collections import OrderedDict
from threading import Lock

from cas3fs.caches.base import BlockCache
from cas3fs.values import BlockHash, Buffer

ENTRY_OVERHEAD_BYTES = 256
"""About the size of two bytes objects, a link of the ordered dictionary and its hash slot, without the content."""


class MemoryCache(BlockCache):
    """At most `limit_bytes` of blocks; a block that alone exceeds the limit is not stored."""

    name = "memory"
    verifies = True

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._blocks: OrderedDict[BlockHash, bytes] = OrderedDict()
        self._size_bytes = 0
        self._lock = Lock()

    def get(self, block: BlockHash) -> bytes | None:
        """Return the same object that was put, not a copy."""
        with self._lock:
            plain = self._blocks.get(block)
            if plain is not None:
                self._blocks.move_to_end(block)
            return plain

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Store bytes as they are, and any other buffer as a copy."""
        charge = len(plain) + ENTRY_OVERHEAD_BYTES
        if charge > self.limit_bytes:
            return
        kept = plain if isinstance(plain, bytes) else bytes(plain)
        with self._lock:
            self._drop(block)
            while self._size_bytes + charge > self.limit_bytes:
                self._drop(next(iter(self._blocks)))
            self._blocks[block] = kept
            self._size_bytes += charge

    def contains(self, block: BlockHash) -> bool:
        """Return whether the block is here; does not count as a use."""
        return block in self._blocks

    def evict(self, block: BlockHash) -> None:
        """Remove the block."""
        with self._lock:
            self._drop(block)

    def clear(self) -> None:
        """Remove all blocks."""
        with self._lock:
            self._blocks.clear()
            self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Bytes charged for all entries; never above `limit_bytes`."""
        return self._size_bytes

    def close(self) -> None:
        """Free the memory."""
        self.clear()

    def _drop(self, block: BlockHash) -> None:
        """Remove an entry, if it is there; the caller holds the lock."""
        plain = self._blocks.pop(block, None)
        if plain is not None:
            self._size_bytes -= len(plain) + ENTRY_OVERHEAD_BYTES
