# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads blocks from the nearest place that has them: memory, the caches, the object store.

Blocks from the store are checked against their hash; caches verify their own blocks (`cas3fs.caches.wrappers`). How
blocks are requested from the store and fetched ahead is described in `cas3fs.blockstore.fetcher`.

Memory used beside the memory cache: blocks fetched ahead and not yet read, at most half of that cache (and
`ahead_bytes`), and their encoded bytes while they arrive; blocks on their way into the caches
(`cas3fs.blockstore.cache_filler`); two whole packs, each with decoded blocks of up to half of the memory cache; one
block for each thread that reads. The caller owns the caches: `close` leaves them open.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from cas3fs.blockstore.fetcher import Fetcher, OnLost
from cas3fs.blockstore.pack_store import PackStore
from cas3fs.caches.base import BlockCache, check_by, part_of
from cas3fs.caches.memory import MemoryCache
from cas3fs.caches.wrappers import ensure_verified
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.values import BlockHash, BlockLocation, Buffer

DEFAULT_PACK_BYTES = 16 * 1024 * 1024
LARGEST_WHOLE_PACK_BYTES = 32 * 1024 * 1024
"""Blocks of larger packs are fetched one by one, or in ranges on a hint."""
LOADED_WHOLE_BYTES = 128 * 1024
"""A block up to this length is loaded whole from the caches into memory."""
STREAMED_FROM_BYTES = 64 * 1024
"""So is a longer block if its first so many bytes are read in one request: the rest will most likely follow."""

WaitGuard = Callable[[], AbstractContextManager[None]]
"""Makes the context in which a reader waits for the store; it may raise an exception to prevent the wait."""


class BlockReader:
    """Reads parts of blocks; thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        memory: MemoryCache,
        cache: BlockCache | None,
        *,
        metrics: Metrics,
        fetch_workers: int = 8,
        ahead_bytes: int = 64 * 1024 * 1024,
        pack_size_bytes: int = DEFAULT_PACK_BYTES,
        near_store: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the fetcher.

        Args:
            store: the volume's object store.
            memory: the cache in memory.
            cache: the other caches; may be None.
            metrics: where reads are counted.
            fetch_workers: threads that fetch ahead.
            ahead_bytes: limit of what is fetched ahead; half of the memory cache if that is less.
            pack_size_bytes: the size of the volume's packs.
            near_store: the store is as near as the caches, so blocks that are fetched ahead are not put into them.
            clock: the time in seconds.
        """
        self._memory = memory
        self._cache = None if cache is None else ensure_verified(cache, check_by(store.hash_content))
        self._fetcher = Fetcher(
            PackStore(store, metrics),
            memory,
            self._cache,
            metrics=metrics,
            workers=fetch_workers,
            ahead_bytes=min(ahead_bytes, memory.limit_bytes // 2),
            whole_packs=pack_size_bytes <= LARGEST_WHOLE_PACK_BYTES,
            near_store=near_store,
            clock=clock,
        )
        self._unread = self._fetcher.unread
        self._memory_hits = metrics.counter("reader.memory_hits")
        self._cache_hits = metrics.counter("reader.cache_hits")
        self._misses = metrics.counter("reader.misses")
        metrics.watch("cache.memory.size_bytes", lambda: memory.size_bytes)

    def on_lost_block(self, callback: OnLost) -> None:
        """Call `callback` with each block that is missing or damaged in the store; see `OnLost`."""
        self._fetcher.on_lost = callback

    def read_now(self, block: BlockLocation, skip: int, length: int) -> Buffer | None:
        """`length` bytes of the block from `skip` on if it is in memory, else None; no I/O, no waiting, no copy."""
        plain = self._memory.get(block.hash)
        if plain is None:
            return None
        if block.hash in self._unread:
            self._fetcher.note_read(block.hash)
        self._memory_hits.add()
        return part_of(plain, skip, length)

    def read(self, block: BlockLocation, skip: int, length: int, wait_guard: WaitGuard = nullcontext) -> Buffer:
        """Read `length` bytes of the block from `skip` on, wherever they are.

        May wait for the disk, and within `wait_guard` for the store.

        Raises:
            BlockMissing: the pack, or that range of it, does not exist.
            BlockCorrupt: the bytes there are not the block.
            StoreError: the store failed.
        """
        part = self.read_now(block, skip, length)
        if part is None and not self._fetcher.is_in_flight(block.hash):
            part = self._from_cache(block, skip, length)
        if part is None:
            self._misses.add()
            with wait_guard():
                part = part_of(self._fetcher.fetch(block), skip, length)
        return part

    def prefetch(self, blocks: Sequence[BlockLocation]) -> None:
        """Hint that these blocks will be needed next, in that order; returns at once.

        They are fetched in parallel, neighbours together, as far as memory allows: the later ones as the earlier ones
        are read. If they are very many, only the first are queued; a hint that no read follows within seconds is
        dropped.
        """
        self._fetcher.hint(blocks)

    def admit(self, block: BlockHash, plain: Buffer) -> None:
        """Put a block that was just written into the caches; returns at once. A mutable buffer is copied.

        It is not put into memory: data that was just written is in the kernel's page cache.
        """
        if self._cache is not None:
            self._fetcher.put_into_caches(block, plain if isinstance(plain, bytes) else bytes(plain), optional=True)

    def free_disk_space(self) -> None:
        """Let the caches free space on the local disk if little is left."""
        if self._cache is not None:
            self._cache.free_disk_space()

    def close(self) -> None:
        """Fail the fetches in flight and end all workers. A second call does nothing."""
        self._fetcher.close()

    def _from_cache(self, block: BlockLocation, skip: int, length: int) -> Buffer | None:
        """The part from the caches; blocks are loaded whole into memory where that is cheap or will be used."""
        if self._cache is None:
            return None
        is_stream = skip == 0 and length >= STREAMED_FROM_BYTES
        if block.plain_length > LOADED_WHOLE_BYTES and not is_stream:
            part = self._cache.get_part(block.hash, skip, length)
        else:
            plain = self._cache.get(block.hash)
            if plain is not None:
                self._memory.put(block.hash, plain)
            part = None if plain is None else part_of(plain, skip, length)
        if part is not None:
            self._cache_hits.add()
        return part
