# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts blocks into the caches in the background, so that no reader or writer waits for a cache.

At most `QUEUED_LIMIT_BYTES` are queued. Beyond that, a block that cost a request to the store is put by the thread that
has it, which slows that thread down to the speed of the cache; an optional block is left out.
"""

from concurrent.futures import ThreadPoolExecutor

from cas3fs.blockstore.budget import ByteBudget
from cas3fs.caches.base import BlockCache
from cas3fs.values import BlockHash

QUEUED_LIMIT_BYTES = 16 * 1024 * 1024


class CacheFiller:
    """Puts blocks into `cache` in a thread of its own."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self._budget = ByteBudget(QUEUED_LIMIT_BYTES)
        self._worker = ThreadPoolExecutor(1, "cas3fs-fill")

    def put(self, block: BlockHash, plain: bytes, *, optional: bool) -> None:
        """Queue the block; if the queue is full, put it now, or drop it if it is `optional`."""
        if self._budget.try_take(len(plain)):
            try:
                self._worker.submit(self._put, block, plain)
            except RuntimeError:  # closed in the meantime
                self._budget.release(len(plain))
        elif not optional:
            self._cache.put(block, plain)

    def close(self) -> None:
        """Drop what is queued; later calls of `put` drop their block, too."""
        self._budget.close()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _put(self, block: BlockHash, plain: bytes) -> None:
        try:
            self._cache.put(block, plain)
        finally:
            self._budget.release(len(plain))
