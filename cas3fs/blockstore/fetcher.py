# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches blocks from the object store into memory and caches: once for all readers, ahead on hints, in whole packs.

A thread that needs a block fetches it itself, unless a fetch is in flight: then it waits and shares the result. Workers
do what no thread waits for: they turn hints into ranges of packs (or into loads from the caches that have the block),
and of a pack that was fetched whole, they unpack everything beside the block that was needed. A thread that needs a
block of such a pack in the meantime is served from it, between two other blocks.

Every job ends the fetches that it claimed, whatever happens, so that every waiting thread gets bytes or an error.

Locks: `_lock` guards the fetches in flight and the table of packs. Under it only the memory cache is accessed, whose
lock is the inner one; there is no I/O and no waiting, and no future is resolved.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain

from cas3fs.blocks.packs import read_contents
from cas3fs.blockstore.cache_filler import CacheFiller
from cas3fs.blockstore.in_flight import BlockFetch, InFlightFetches, RecentFailures
from cas3fs.blockstore.pack_ranges import PackRange, coalesce
from cas3fs.blockstore.pack_store import Decode, PackStore
from cas3fs.blockstore.whole_packs import WholePackPolicy
from cas3fs.caches.base import BlockCache
from cas3fs.caches.memory import MemoryCache
from cas3fs.errors import (
    BlockCorrupt,
    BlockError,
    Cas3fsError,
    PackCorrupt,
    StoreError,
    TransientStoreError,
)
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, BlockLocation, Buffer

Job = Callable[[BlockFetch], None]
OnLost = Callable[[BlockLocation], None]
"""Called with a block that is missing or damaged in the store; without a lock, by any thread."""

WHOLE_PACKS_AT_ONCE = 2
"""At most so many are in memory."""
CACHE_BATCH_BYTES = 1024 * 1024
"""Small blocks are put into the caches together: a cache on the network takes them in one round trip."""


class PackFetch:
    """A pack that is being fetched whole, and the fetches of its blocks that wait for it."""

    def __init__(self, pack: str) -> None:
        self.pack = pack
        self.waiting: list[BlockFetch] = []


class Fetcher:
    """Fetches blocks on demand and ahead; thread-safe."""

    def __init__(
        self,
        packs: PackStore,
        memory: MemoryCache,
        cache: BlockCache | None,
        *,
        metrics: Metrics,
        workers: int,
        ahead_bytes: int,
        whole_packs: bool,
        near_store: bool,
        clock: Callable[[], float],
    ) -> None:
        """Start the workers.

        Args:
            packs: the volume's packs.
            memory: receives every block that is fetched.
            cache: receives blocks that cost a request; may be None.
            metrics: where fetches are counted.
            workers: threads that fetch ahead.
            ahead_bytes: limit of what is fetched ahead and not read yet.
            whole_packs: whether whole packs may be fetched.
            near_store: the store is as near as the caches, so requests cost nothing, and only blocks that a reader
                waited for one by one are put into the caches.
            clock: the time in seconds.
        """
        self._pack_store = packs
        self._memory = memory
        self._cache = cache
        self._filler = None if cache is None else CacheFiller(cache)
        self._whole_packs = whole_packs
        self._near_store = near_store
        self._lock = threading.Lock()
        self._closed = False
        self._in_flight = InFlightFetches(ahead_bytes, clock)
        self._recent_failures = RecentFailures(clock)
        self._whole_pack_policy = WholePackPolicy()
        self._packs: dict[str, PackFetch] = {}
        self._pack_slots = threading.Semaphore(WHOLE_PACKS_AT_ONCE)
        self._workers = ThreadPoolExecutor(workers, "cas3fs-ahead")
        self._unpackers = ThreadPoolExecutor(WHOLE_PACKS_AT_ONCE, "cas3fs-unpack")
        self._blocks_ahead = metrics.counter("reader.blocks_ahead")
        self._packs_fetched = metrics.counter("reader.whole_packs")
        self._failed = metrics.counter("reader.failed_blocks")
        metrics.watch("reader.ahead_bytes", lambda: self._in_flight.ahead_bytes)
        self.on_lost: OnLost = lambda block: None
        self.unread = self._in_flight.unread
        """Blocks fetched ahead and not read yet; read-only, the caller calls `note_read` for one that it reads."""

    def is_in_flight(self, block: BlockHash) -> bool:
        """Whether the block is being fetched now."""
        return block in self._in_flight

    def fetch(self, block: BlockLocation) -> bytes:
        """The block, from the store or from a fetch that is in flight.

        Raises:
            BlockMissing, BlockCorrupt, StoreError: the fetch failed.
        """
        with self._lock:
            plain = self._memory.get(block.hash)
            if plain is not None:  # its fetch has just completed
                self._in_flight.note_read(block.hash)
                return plain
            self._recent_failures.raise_if_recent(block.hash)
            fetch, is_mine = self._in_flight.join_or_start(block)
            job = self._job_for(fetch) if is_mine else None
            started = self._in_flight.start(self._memory.contains)
        self._start_ahead(started)
        if job is not None:
            job(fetch)
        return fetch.future.result()

    def hint(self, blocks: Sequence[BlockLocation]) -> None:
        """Blocks that will be needed next, in that order."""
        with self._lock:
            if self._closed:
                return
            self._in_flight.hint(block for block in blocks if not self._memory.contains(block.hash))
            fetches = self._in_flight.start(self._memory.contains)
        self._start_ahead(fetches)

    def note_read(self, block: BlockHash) -> None:
        """A block fetched ahead was read, so others may be fetched in its place."""
        with self._lock:
            self._in_flight.note_read(block)
            fetches = self._in_flight.start(self._memory.contains)
        self._start_ahead(fetches)

    def put_into_caches(self, block: BlockHash, plain: bytes, *, optional: bool = False) -> None:
        """Put a block into the caches in the background; under load an `optional` one is dropped."""
        if self._filler is not None:
            self._filler.put(block, plain, optional=optional)

    def close(self) -> None:
        """Fail all waiting readers and end the workers. Later fetches still work, one by one."""
        with self._lock:
            self._closed = True
            self._packs.clear()
            left = self._in_flight.end_all()
        for fetch in left:
            fetch.future.set_exception(_closed())
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._unpackers.shutdown(wait=True, cancel_futures=True)
        if self._filler is not None:
            self._filler.close()

    # Fetches

    def _complete(self, fetch: BlockFetch, plain: bytes, *, fill: bool) -> None:
        with self._lock:
            self._recent_failures.clear()
            is_open = self._in_flight.end(fetch, arrived=True)
            self._memory.put(fetch.block.hash, plain)
        if is_open:
            fetch.future.set_result(plain)
        if fill:
            self.put_into_caches(fetch.block.hash, plain)

    def _fail(self, fetches: Iterable[BlockFetch], error: BaseException) -> None:
        with self._lock:
            still_open = [fetch for fetch in fetches if self._in_flight.end(fetch, arrived=False)]
            if isinstance(error, TransientStoreError):
                self._recent_failures.add(still_open, error)
        self._failed.add(len(still_open))
        for fetch in still_open:
            if isinstance(error, BlockError):
                self.on_lost(fetch.block)  # before the reader gets the error: data that it then writes is stored
            fetch.future.set_exception(error)

    def _run_job(self, fetches: Sequence[BlockFetch], job: Callable[[BlockFetch], None]) -> None:
        """Run `job` for each fetch that has not ended; whatever happens, all of `fetches` end."""
        try:
            for fetch in fetches:
                if not fetch.future.done():
                    job(fetch)
        finally:
            self._fail(fetches, StoreError("the block could not be fetched: its fetch was interrupted"))

    def _job_for(self, fetch: BlockFetch) -> Job | None:
        """How to fetch a block that is not in memory; None if its pack is being fetched. The lock is held."""
        pack_fetch = self._packs.get(fetch.block.pack)
        if pack_fetch is not None:
            pack_fetch.waiting.append(fetch)
            return None
        if self._whole_pack_policy.record_miss(fetch.block) and self._whole_packs and not self._closed:
            pack_fetch = self._packs[fetch.block.pack] = PackFetch(fetch.block.pack)
            return partial(self._fetch_pack, pack_fetch)
        return lambda fetch: self._run_job([fetch], self._fetch_alone)

    def _fetch_alone(self, fetch: BlockFetch) -> None:
        """Fetch one block by a request of its own; the caches were not checked yet if a hint started the fetch."""
        if fetch.hinted and self._complete_from_cache(fetch):
            return
        try:
            plain = self._pack_store.get_block(fetch.block)
        except Cas3fsError as error:
            self._fail([fetch], error)
        else:
            self._complete(fetch, plain, fill=not (fetch.hinted and self._near_store))

    def _complete_from_cache(self, fetch: BlockFetch) -> bool:
        """Complete a fetch from the caches, if they have the block."""
        plain = None if self._cache is None else self._cache.get(fetch.block.hash)
        if plain is not None:
            self._complete(fetch, plain, fill=False)
        return plain is not None

    def _complete_from_pack(self, fetch: BlockFetch, body: bytes, start: int) -> None:
        """Complete a fetch from bytes of its pack, or fail it alone."""
        self._complete_or_fail(fetch, lambda: self._pack_store.decode(body, start, fetch.block))

    def _complete_or_fail(self, fetch: BlockFetch, decode: Decode) -> None:
        try:
            plain = decode()
        except Cas3fsError as error:
            self._fail([fetch], error)
        else:
            self._complete(fetch, plain, fill=not self._near_store)

    # Ahead

    def _start_ahead(self, fetches: list[BlockFetch]) -> None:
        if fetches:
            self._blocks_ahead.add(len(fetches))
            self._submit(self._distribute, fetches)

    def _submit(self, job: Callable[[list[BlockFetch]], None], fetches: list[BlockFetch]) -> None:
        try:
            self._workers.submit(job, fetches)
        except RuntimeError:  # closed in the meantime
            self._fail(fetches, _closed())

    def _distribute(self, fetches: list[BlockFetch]) -> None:
        """Distribute new fetches among the workers: loads from the caches, and ranges of neighbours."""
        if self._near_store:
            for fetch in fetches:
                self._submit(self._load_ahead, [fetch])
            return
        try:
            cached = self._cached(fetch.block.hash for fetch in fetches)
            by_block = {fetch.block: fetch for fetch in fetches if fetch.block.hash not in cached}
            for fetch in fetches:
                if fetch.block.hash in cached:
                    self._submit(self._load_ahead, [fetch])
            for each in coalesce(list(by_block)):
                self._submit(self._fetch_ahead, [by_block[block] for block in each.blocks])
        except BaseException as error:
            self._fail(self._claim(fetches), error)
            raise

    def _load_ahead(self, fetches: list[BlockFetch]) -> None:
        self._run_job(self._claim(fetches), self._fetch_alone)

    def _fetch_ahead(self, fetches: list[BlockFetch]) -> None:
        """Fetch neighbours of one pack together, except those that a reader has claimed in the meantime."""
        by_block = {fetch.block: fetch for fetch in self._claim(fetches)}
        try:
            for each in coalesce(list(by_block)):
                self._fetch_range(each, {block: by_block[block] for block in each.blocks})
        finally:
            self._run_job(list(by_block.values()), self._fetch_alone)

    def _fetch_range(self, wanted: PackRange, fetches: dict[BlockLocation, BlockFetch]) -> None:
        """Fetch a range; the fetch of each block completes as soon as the block has arrived."""
        try:
            self._pack_store.get_blocks(wanted, lambda block, decode: self._complete_or_fail(fetches[block], decode))
        except BlockError:
            self._run_job(list(fetches.values()), self._fetch_alone)  # perhaps not all of them are lost or damaged
        except Cas3fsError as error:
            self._fail(fetches.values(), error)

    def _claim(self, fetches: list[BlockFetch]) -> list[BlockFetch]:
        with self._lock:
            return [fetch for fetch in fetches if fetch.claim()]

    def _cached(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        return set() if self._cache is None else self._cache.contains_many(blocks)

    # Whole packs

    def _fetch_pack(self, pack_fetch: PackFetch, fetch: BlockFetch) -> None:
        """Fetch a whole pack, serve `fetch` from it, and leave the rest to a worker.

        This waits while two other packs are being unpacked: that is faster than a request for each block.
        """
        self._pack_slots.acquire()
        unpacking = None
        try:
            body = self._pack_store.get_pack(pack_fetch.pack)
            self._packs_fetched.add()
            self._complete_from_pack(fetch, body, 0)
            unpacking = self._unpackers.submit(self._unpack, pack_fetch, body, fetch.block.offset)
        except (Cas3fsError, RuntimeError):  # perhaps too large for one request; or closed in the meantime
            self._run_job([fetch, *self._end_pack(pack_fetch)], self._fetch_alone)
        except BaseException as error:
            self._fail([fetch, *self._end_pack(pack_fetch)], error)
            raise
        finally:
            if unpacking is None:
                self._pack_slots.release()
            else:
                unpacking.add_done_callback(lambda _: self._pack_slots.release())

    def _unpack(self, pack_fetch: PackFetch, body: bytes, first_offset: int) -> None:
        """Keep the other blocks of a pack, from `first_offset` on, then those before it; waiting readers come first.

        Memory is filled before any cache, which takes longer: a reader that goes on finds the next blocks there.
        """

        def serve(fetch: BlockFetch) -> None:
            self._complete_from_pack(fetch, body, 0)

        def serve_waiting() -> None:
            if pack_fetch.waiting:
                self._run_job(self._take_waiting(pack_fetch), serve)

        try:
            blocks = deque(self._not_cached(pack_fetch.pack, body, first_offset))
            kept = self._keep_in_memory(blocks, body, serve_waiting)
            if self._cache is not None and not self._near_store:
                self._keep_in_cache(self._cache, chain(kept, self._decoded(blocks, body)), serve_waiting)
        finally:
            self._run_job(self._end_pack(pack_fetch), serve)

    def _keep_in_memory(
        self, blocks: deque[BlockLocation], body: bytes, serve_waiting: Callable[[], None]
    ) -> deque[tuple[BlockHash, bytes]]:
        """Move blocks into memory until they fill half of it; returns them, to be put into the caches."""
        share_bytes = self._memory.limit_bytes // 2
        kept: deque[tuple[BlockHash, bytes]] = deque()
        while blocks and share_bytes >= blocks[0].plain_length:
            serve_waiting()
            share_bytes -= blocks[0].plain_length
            for block, plain in self._decoded([blocks.popleft()], body):
                self._memory.put(block, plain)
                kept.append((block, plain))
        return kept

    def _keep_in_cache(
        self, cache: BlockCache, blocks: Iterable[tuple[BlockHash, bytes]], serve_waiting: Callable[[], None]
    ) -> None:
        batch: dict[BlockHash, Buffer] = {}
        size_bytes = 0
        for block, plain in blocks:
            serve_waiting()
            batch[block] = plain
            size_bytes += len(plain)
            if size_bytes >= CACHE_BATCH_BYTES:
                cache.put_many(batch)
                batch, size_bytes = {}, 0
        cache.put_many(batch)

    def _decoded(self, blocks: Iterable[BlockLocation], body: bytes) -> Iterator[tuple[BlockHash, bytes]]:
        """The blocks that are intact, and not in memory because a reader was served with them."""
        for block in blocks:
            if not self._memory.contains(block.hash):
                with suppress(BlockCorrupt):  # a reader of it gets the error
                    yield block.hash, self._pack_store.decode(body, 0, block)

    def _not_cached(self, pack: str, body: bytes, first_offset: int) -> list[BlockLocation]:
        """The blocks of a pack that no cache has; none if its table of contents is damaged."""
        try:
            contents = read_contents(body, len(body))
        except PackCorrupt:
            return []
        cached = self._cached(line.hash for line in contents)
        missing = [line for line in contents if line.hash not in cached and not self._memory.contains(line.hash)]
        missing.sort(key=lambda line: (line.offset < first_offset, line.offset))
        return [BlockLocation(line.hash, pack, line.offset, line.stored_length, line.plain_length) for line in missing]

    def _take_waiting(self, pack_fetch: PackFetch) -> list[BlockFetch]:
        with self._lock:
            waiting, pack_fetch.waiting = pack_fetch.waiting, []
            return waiting

    def _end_pack(self, pack_fetch: PackFetch) -> list[BlockFetch]:
        """End the fetch of a pack; returns the fetches of blocks that still wait for it."""
        with self._lock:
            self._packs.pop(pack_fetch.pack, None)
            return pack_fetch.waiting


def _closed() -> StoreError:
    return StoreError("the block was not fetched: the block reader is closed")
