# SPDX-License-Identifier: GPL-3.0-or-later
"""Several caches as one: asked from the fastest to the slowest, and what a slower one had fills the faster ones.

The first tier, unless it is remote, answers parts by itself and anybody at once. All others are asked for whole blocks,
and for each block by one thread at a time: who asks for the same block meanwhile waits for that answer and shares it.

Hits and misses are counted by tier, as ``cache.<name>.hits`` and ``cache.<name>.misses``.

Locks: `_lock` guards the table of answers under way; no tier is called under it.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from cas3fs.caches.base import BlockCache, part_of
from cas3fs.caches.wrappers import ensure_verified
from cas3fs.metrics import Counter, Metrics
from cas3fs.values import BlockHash, Buffer


class _Tier:
    """A cache and its two counters."""

    def __init__(self, cache: BlockCache, metrics: Metrics) -> None:
        self.cache = ensure_verified(cache)
        self.hits: Counter = metrics.counter(f"cache.{cache.name}.hits")
        self.misses: Counter = metrics.counter(f"cache.{cache.name}.misses")


class TieredCache(BlockCache):
    """The caches of `tiers`, fastest first; there must be at least one."""

    name = "tiered"
    verifies = True

    def __init__(self, tiers: Sequence[BlockCache], *, metrics: Metrics) -> None:
        self._tiers = tuple(_Tier(cache, metrics) for cache in tiers)
        near = not self._tiers[0].cache.remote
        self._near = self._tiers[0] if near else None
        self._slower = self._tiers[near:]
        self._lock = threading.Lock()
        self._asked: dict[BlockHash, Future[bytes | None]] = {}

    def get(self, block: BlockHash) -> bytes | None:
        """The block from the fastest tier that has it; the faster ones have it then, too."""
        if self._near is not None:
            plain = self._near.cache.get(block)
            if plain is not None:
                self._near.hits.add()
                return plain
            self._near.misses.add()
        return self._from_slower(block)

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """The part from the first tier, or cut from the block that a slower tier has."""
        if self._near is not None:
            part = self._near.cache.get_part(block, skip, length)
            if part is not None:
                self._near.hits.add()
                return part
            self._near.misses.add()
        plain = self._from_slower(block)
        return None if plain is None else part_of(plain, skip, length)

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Into every tier."""
        for tier in self._tiers:
            tier.cache.put(block, plain)

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """Into every tier."""
        for tier in self._tiers:
            tier.cache.put_many(blocks)

    def contains(self, block: BlockHash) -> bool:
        """Whether some tier has it; the slower are asked only if the faster have it not."""
        return any(tier.cache.contains(block) for tier in self._tiers)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Those that some tier has; the slower are asked only for what the faster have not."""
        held: set[BlockHash] = set()
        missing = dict.fromkeys(blocks)
        for tier in self._tiers:
            here = tier.cache.contains_many(missing)
            held |= here
            missing = {block: None for block in missing if block not in here}
            if not missing:
                break
        return held

    def evict(self, block: BlockHash) -> None:
        """From every tier."""
        for tier in self._tiers:
            tier.cache.evict(block)

    @property
    def size_bytes(self) -> int:
        """Of all tiers together."""
        return sum(tier.cache.size_bytes for tier in self._tiers)

    def free_disk_space(self) -> None:
        for tier in self._tiers:
            tier.cache.free_disk_space()

    def close(self) -> None:
        """Close every tier."""
        for tier in self._tiers:
            tier.cache.close()

    def _from_slower(self, block: BlockHash) -> bytes | None:
        """Ask the slower tiers, or wait for the thread that is just asking them."""
        if not self._slower:
            return None
        with self._lock:
            answer = self._asked.get(block)
            asks = answer is None
            if answer is None:
                answer = self._asked[block] = Future()
        if asks:
            self._ask(block, answer)
        return answer.result()

    def _ask(self, block: BlockHash, answer: "Future[bytes | None]") -> None:
        plain = None
        try:
            plain = self._ask_in_turn(block)
        finally:
            with self._lock:
                del self._asked[block]
            answer.set_result(plain)

    def _ask_in_turn(self, block: BlockHash) -> bytes | None:
        for place, tier in enumerate(self._slower, start=len(self._tiers) - len(self._slower)):
            plain = tier.cache.get(block)
            if plain is not None:
                tier.hits.add()
                for faster in self._tiers[:place]:
                    faster.cache.put(block, plain)
                return plain
            tier.misses.add()
        return None
