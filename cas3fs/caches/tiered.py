# SPDX-License-Identifier: GPL-3.0-or-later
"""Several caches as one: read from the fastest to the slowest; a block found in a slower tier is put into the faster
ones.

The first tier, unless it is remote, returns parts itself and serves all threads at once. All other tiers are asked for
whole blocks, and by one thread at a time for each block: threads that want the same block wait for that thread's result
and share it.

Hits and misses are counted by tier, as ``cache.<name>.hits`` and ``cache.<name>.misses``.

Locks: `_lock` guards the table of reads in flight; no tier is called under it.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from cas3fs.caches.base import BlockCache, BlockCheck, check_plainly, part_of
from cas3fs.caches.wrappers import ensure_verified
from cas3fs.metrics import Counter, Metrics
from cas3fs.values import BlockHash, Buffer


class _Tier:
    """A cache and its two counters."""

    def __init__(self, cache: BlockCache, metrics: Metrics, check: BlockCheck) -> None:
        self.cache = ensure_verified(cache, check)
        self.hits: Counter = metrics.counter(f"cache.{cache.name}.hits")
        self.misses: Counter = metrics.counter(f"cache.{cache.name}.misses")


class TieredCache(BlockCache):
    """The caches of `tiers`, fastest first; there must be at least one."""

    name = "tiered"
    verifies = True

    def __init__(self, tiers: Sequence[BlockCache], *, metrics: Metrics, check: BlockCheck = check_plainly) -> None:
        self._tiers = tuple(_Tier(cache, metrics, check) for cache in tiers)
        has_local = not self._tiers[0].cache.remote
        self._local = self._tiers[0] if has_local else None
        self._slower = self._tiers[has_local:]
        self._lock = threading.Lock()
        self._in_flight: dict[BlockHash, Future[bytes | None]] = {}

    def get(self, block: BlockHash) -> bytes | None:
        """Return the block from the fastest tier that has it; it is put into the faster ones."""
        if self._local is not None:
            plain = self._local.cache.get(block)
            if plain is not None:
                self._local.hits.add()
                return plain
            self._local.misses.add()
        return self._get_from_slower(block)

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """Return the part from the first tier, or cut it from the block that a slower tier has."""
        if self._local is not None:
            part = self._local.cache.get_part(block, skip, length)
            if part is not None:
                self._local.hits.add()
                return part
            self._local.misses.add()
        plain = self._get_from_slower(block)
        return None if plain is None else part_of(plain, skip, length)

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Put the block into every tier."""
        for tier in self._tiers:
            tier.cache.put(block, plain)

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """Put the blocks into every tier."""
        for tier in self._tiers:
            tier.cache.put_many(blocks)

    def contains(self, block: BlockHash) -> bool:
        """Return whether any tier has the block; a slower tier is asked only if no faster one has it."""
        return any(tier.cache.contains(block) for tier in self._tiers)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Return the blocks that any tier has; a slower tier is asked only for those that no faster one has."""
        found: set[BlockHash] = set()
        missing = dict.fromkeys(blocks)
        for tier in self._tiers:
            here = tier.cache.contains_many(missing)
            found |= here
            missing = {block: None for block in missing if block not in here}
            if not missing:
                break
        return found

    def evict(self, block: BlockHash) -> None:
        """Remove the block from every tier."""
        for tier in self._tiers:
            tier.cache.evict(block)

    @property
    def size_bytes(self) -> int:
        """The size of all tiers together."""
        return sum(tier.cache.size_bytes for tier in self._tiers)

    def free_disk_space(self) -> None:
        for tier in self._tiers:
            tier.cache.free_disk_space()

    def close(self) -> None:
        """Close every tier."""
        for tier in self._tiers:
            tier.cache.close()

    def _get_from_slower(self, block: BlockHash) -> bytes | None:
        """Read the slower tiers, or wait for the thread that is reading this block from them."""
        if not self._slower:
            return None
        with self._lock:
            result = self._in_flight.get(block)
            reads = result is None
            if result is None:
                result = self._in_flight[block] = Future()
        if reads:
            self._read_and_share(block, result)
        return result.result()

    def _read_and_share(self, block: BlockHash, result: "Future[bytes | None]") -> None:
        plain = None
        try:
            plain = self._read_in_order(block)
        finally:
            with self._lock:
                del self._in_flight[block]
            result.set_result(plain)

    def _read_in_order(self, block: BlockHash) -> bytes | None:
        for place, tier in enumerate(self._slower, start=len(self._tiers) - len(self._slower)):
            plain = tier.cache.get(block)
            if plain is not None:
                tier.hits.add()
                for faster in self._tiers[:place]:
                    faster.cache.put(block, plain)
                return plain
            tier.misses.add()
        return None
