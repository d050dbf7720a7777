# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks into the caches, behind the back of whoever waits for them.

`FILLING_BYTES` may wait. Beyond that, blocks that cost a request are put by the thread that has them, which slows it
down to what the cache takes; others are left out.
"""

from concurrent.futures import ThreadPoolExecutor

from cas3fs.blockstore.budget import ByteBudget
from cas3fs.caches.base import BlockCache
from cas3fs.values import BlockHash

FILLING_BYTES = 16 * 1024 * 1024


class Filler:
    """Puts blocks into `cache` by one thread of its own."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self._budget = ByteBudget(FILLING_BYTES)
        self._worker = ThreadPoolExecutor(1, "cas3fs-fill")

    def fill(self, block: BlockHash, plain: bytes, *, dispensable: bool) -> None:
        """Put the block soon; if too many wait, at once, or, where it is `dispensable`, not at all."""
        if self._budget.offer(len(plain)):
            try:
                self._worker.submit(self._put, block, plain)
            except RuntimeError:  # closed meanwhile
                self._budget.release(len(plain))
        elif not dispensable:
            self._cache.put(block, plain)

    def close(self) -> None:
        """What waits is left out; afterwards `fill` does nothing."""
        self._budget.close()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _put(self, block: BlockHash, plain: bytes) -> None:
        try:
            self._cache.put(block, plain)
        finally:
            self._budget.release(len(plain))
