# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks out of the object store into memory and caches: one fetch however many ask, ahead on hints, whole packs.

A thread that needs a block fetches it itself, unless it is being fetched: then it waits and shares the outcome.
Workers do what nobody waits for: hints are turned into runs (or into loads from the caches, where those have the
block), and of a pack that was fetched whole, everything beside the block that was asked for is unpacked in the
background. Who asks for a block of that pack meanwhile is served from it, between two others.

Every job ends the fetches it claimed, whatever happens: who waits gets bytes or an error.

Locks: `_lock` guards the fetches and the table of packs. Under it only the memory cache is asked, whose lock is the
inner one; no I/O is done, nobody waits, and no future is resolved.
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
    BlockMissing,
    Cas3fsError,
    PackCorrupt,
    StoreError,
    TransientStoreError,
)
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, BlockLocation, Buffer

Job = Callable[[BlockFetch], None]
Pause = Callable[[], None]
"""Called between two blocks."""

OnLost = Callable[[BlockLocation], None]
"""Told of a block that the store has not, or not as it should be; called without a lock, by any thread."""

WHOLE_PACKS_AT_ONCE = 2
"""So many are held in memory."""
CACHE_BATCH_BYTES = 1024 * 1024
"""Small blocks go to the caches together: a cache behind a network takes them in one round trip."""


class PackFetch:
    """A pack that is being fetched whole, and who waits for a block of it."""

    def __init__(self, pack: str) -> None:
        self.pack = pack
        self.waiting: list[BlockFetch] = []


class Fetcher:
    """See the module.

    `ahead_bytes` bounds what is fetched ahead and not yet read; `whole_packs` permits packs. `near_store` says that the
    store is as near as the caches: then requests cost nothing, and only blocks that a reader waited for one by one go
    to the caches.
    """

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
        """Blocks fetched ahead and not read yet; only to be looked at: `note_read` is to be called for those."""

    def is_in_flight(self, block: BlockHash) -> bool:
        """Whether the block is being fetched just now."""
        return block in self._in_flight

    def fetch(self, block: BlockLocation) -> bytes:
        """The block, from the store or from whoever is fetching it.

        Raises:
            BlockMissing, BlockCorrupt, StoreError: as it came to whoever fetched it.
        """
        with self._lock:
            plain = self._memory.get(block.hash)
            if plain is not None:  # it has just landed
                self._in_flight.note_read(block.hash)
                return plain
            self._recent_failures.check(block.hash)
            fetch, is_mine = self._in_flight.join_or_start(block)
            job = self._job_for(fetch) if is_mine else None
            started = self._in_flight.start(self._memory.contains)
        self._launch(started)
        if job is not None:
            job(fetch)
        return fetch.future.result()

    def hint(self, blocks: Sequence[BlockLocation]) -> None:
        """Blocks that will be wanted next, in that order."""
        with self._lock:
            if self._closed:
                return
            self._in_flight.hint(block for block in blocks if not self._memory.contains(block.hash))
            fetches = self._in_flight.start(self._memory.contains)
        self._launch(fetches)

    def note_read(self, block: BlockHash) -> None:
        """A block fetched ahead was read: others may be fetched in its place."""
        with self._lock:
            self._in_flight.note_read(block)
            fetches = self._in_flight.start(self._memory.contains)
        self._launch(fetches)

    def fill(self, block: BlockHash, plain: bytes, *, dispensable: bool = False) -> None:
        """Put a block into the caches in the background."""
        if self._filler is not None:
            self._filler.fill(block, plain, dispensable=dispensable)

    def close(self) -> None:
        """Fail all who wait, end the workers. Later fetches still work, one by one."""
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

    # Flights

    def _complete(self, fetch: BlockFetch, plain: bytes, *, fill: bool) -> None:
        with self._lock:
            self._recent_failures.clear()
            is_open = self._in_flight.end(fetch, arrived=True)
            self._memory.put(fetch.block.hash, plain)
        if is_open:
            fetch.future.set_result(plain)
        if fill:
            self.fill(fetch.block.hash, plain)

    def _fail(self, fetches: Iterable[BlockFetch], error: BaseException) -> None:
        with self._lock:
            still_open = [fetch for fetch in fetches if self._in_flight.end(fetch, arrived=False)]
            if isinstance(error, TransientStoreError):
                self._recent_failures.note(still_open, error)
        self._failed.add(len(still_open))
        for fetch in still_open:
            if isinstance(error, BlockError):
                self.on_lost(fetch.block)  # before the reader hears of it: what he writes then is stored
            fetch.future.set_exception(error)

    def _run_job(self, fetches: Sequence[BlockFetch], job: Callable[[BlockFetch], None]) -> None:
        """Do `job` for each that is still under way; whatever happens, all of `fetches` end."""
        try:
            for fetch in fetches:
                if not fetch.future.done():
                    job(fetch)
        finally:
            self._fail(fetches, StoreError("the block could not be fetched: its fetch broke off"))

    def _job_for(self, fetch: BlockFetch) -> Job | None:
        """How to fetch a block that is missed; None if its pack is under way anyway. The lock is held."""
        pack_fetch = self._packs.get(fetch.block.pack)
        if pack_fetch is not None:
            pack_fetch.waiting.append(fetch)
            return None
        if self._whole_pack_policy.record_miss(fetch.block) and self._whole_packs and not self._closed:
            pack_fetch = self._packs[fetch.block.pack] = PackFetch(fetch.block.pack)
            return partial(self._fetch_pack, pack_fetch)
        return lambda fetch: self._run_job([fetch], self._fetch_alone)

    def _fetch_alone(self, fetch: BlockFetch) -> None:
        """Fetch one block by a request of its own; of a hint's, the caches were not asked yet."""
        if fetch.hinted and self._load(fetch):
            return
        try:
            plain = self._pack_store.get_block(fetch.block)
        except Cas3fsError as error:
            self._fail([fetch], error)
        else:
            self._complete(fetch, plain, fill=not (fetch.hinted and self._near_store))

    def _load(self, fetch: BlockFetch) -> bool:
        """Land a fetch from the caches, if they have the block."""
        plain = None if self._cache is None else self._cache.get(fetch.block.hash)
        if plain is not None:
            self._complete(fetch, plain, fill=False)
        return plain is not None

    def _decode(self, fetch: BlockFetch, body: bytes, start: int) -> None:
        """Land a fetch from bytes of its pack, or fail it alone."""
        self._unpack_one(fetch, lambda: self._pack_store.decode(body, start, fetch.block))

    def _unpack_one(self, fetch: BlockFetch, decode: Decode) -> None:
        try:
            plain = decode()
        except Cas3fsError as error:
            self._fail([fetch], error)
        else:
            self._complete(fetch, plain, fill=not self._near_store)

    # Ahead

    def _launch(self, fetches: list[BlockFetch]) -> None:
        if fetches:
            self._blocks_ahead.add(len(fetches))
            self._submit(self._plan, fetches)

    def _submit(self, job: Callable[[list[BlockFetch]], None], fetches: list[BlockFetch]) -> None:
        try:
            self._workers.submit(job, fetches)
        except RuntimeError:  # closed meanwhile
            self._fail(fetches, _closed())

    def _plan(self, fetches: list[BlockFetch]) -> None:
        """Share new fetches out among the workers: loads from the caches, and ranges of neighbours."""
        if self._near_store:
            for fetch in fetches:
                self._submit(self._load_ahead, [fetch])
            return
        try:
            held = self._held(fetch.block.hash for fetch in fetches)
            by_block = {fetch.block: fetch for fetch in fetches if fetch.block.hash not in held}
            for fetch in fetches:
                if fetch.block.hash in held:
                    self._submit(self._load_ahead, [fetch])
            for each in coalesce(list(by_block)):
                self._submit(self._fetch_ahead, [by_block[block] for block in each.blocks])
        except BaseException as error:
            self._fail(self._claim(fetches), error)
            raise

    def _load_ahead(self, fetches: list[BlockFetch]) -> None:
        self._run_job(self._claim(fetches), self._fetch_alone)

    def _fetch_ahead(self, fetches: list[BlockFetch]) -> None:
        """Fetch neighbours of one pack together, but for those that a reader has claimed meanwhile."""
        by_block = {fetch.block: fetch for fetch in self._claim(fetches)}
        try:
            for each in coalesce(list(by_block)):
                self._fetch_range(each, {block: by_block[block] for block in each.blocks})
        finally:
            self._run_job(list(by_block.values()), self._fetch_alone)

    def _fetch_range(self, wanted: PackRange, fetches: dict[BlockLocation, BlockFetch]) -> None:
        """Fetch a range; each of its blocks lands as soon as it has arrived, and none waits for those behind it."""
        try:
            self._pack_store.get_blocks(wanted, lambda block, decode: self._unpack_one(fetches[block], decode))
        except BlockMissing:
            self._run_job(list(fetches.values()), self._fetch_alone)  # perhaps not all of them are lost
        except Cas3fsError as error:
            self._fail(fetches.values(), error)

    def _claim(self, fetches: list[BlockFetch]) -> list[BlockFetch]:
        with self._lock:
            return [fetch for fetch in fetches if fetch.claim()]

    def _held(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        return set() if self._cache is None else self._cache.contains_many(blocks)

    # Whole packs

    def _fetch_pack(self, pack_fetch: PackFetch, fetch: BlockFetch) -> None:
        """Fetch a whole pack, serve `fetch` from it, and leave the rest to a worker.

        While two other packs are being unpacked this waits: they bring blocks faster than requests for each would.
        """
        self._pack_slots.acquire()
        unpacking = None
        try:
            body = self._pack_store.get_pack(pack_fetch.pack)
            self._packs_fetched.add()
            self._decode(fetch, body, 0)
            unpacking = self._unpackers.submit(self._unpack, pack_fetch, body, fetch.block.offset)
        except (Cas3fsError, RuntimeError):  # too much at once, perhaps; or closed meanwhile
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
        """Keep what else is in a pack, from `first_offset` on, then before it; who waits for some of it comes first.

        Memory is filled before any cache is, which takes longer: who reads on finds the next blocks there.
        """

        def serve(fetch: BlockFetch) -> None:
            self._decode(fetch, body, 0)

        def serve_waiting() -> None:
            if pack_fetch.waiting:
                self._run_job(self._take_waiting(pack_fetch), serve)

        try:
            blocks = deque(self._worth_keeping(pack_fetch.pack, body, first_offset))
            kept = self._keep_in_memory(blocks, body, serve_waiting)
            if self._cache is not None and not self._near_store:
                self._keep_in_cache(self._cache, chain(kept, self._decoded(blocks, body)), serve_waiting)
        finally:
            self._run_job(self._end_pack(pack_fetch), serve)

    def _keep_in_memory(
        self, blocks: deque[BlockLocation], body: bytes, between: Pause
    ) -> deque[tuple[BlockHash, bytes]]:
        """Take blocks off the line until half of the memory is filled with them; those that no cache has yet."""
        share_bytes = self._memory.limit_bytes // 2
        kept: deque[tuple[BlockHash, bytes]] = deque()
        while blocks and share_bytes >= blocks[0].plain_length:
            between()
            share_bytes -= blocks[0].plain_length
            for block, plain in self._decoded([blocks.popleft()], body):
                self._memory.put(block, plain)
                kept.append((block, plain))
        return kept

    def _keep_in_cache(self, cache: BlockCache, blocks: Iterable[tuple[BlockHash, bytes]], between: Pause) -> None:
        batch: dict[BlockHash, Buffer] = {}
        size_bytes = 0
        for block, plain in blocks:
            between()
            batch[block] = plain
            size_bytes += len(plain)
            if size_bytes >= CACHE_BATCH_BYTES:
                cache.put_many(batch)
                batch, size_bytes = {}, 0
        cache.put_many(batch)

    def _decoded(self, blocks: Iterable[BlockLocation], body: bytes) -> Iterator[tuple[BlockHash, bytes]]:
        """Those blocks that are whole, and not in memory since a reader was served with them."""
        for block in blocks:
            if not self._memory.contains(block.hash):
                with suppress(BlockCorrupt):  # whoever reads it will be told
                    yield block.hash, self._pack_store.decode(body, 0, block)

    def _worth_keeping(self, pack: str, body: bytes, first_offset: int) -> list[BlockLocation]:
        """What a pack contains and no cache has; nothing where its table of contents is damaged."""
        try:
            contents = read_contents(body, len(body))
        except PackCorrupt:
            return []
        held = self._held(line.hash for line in contents)
        missing = [line for line in contents if line.hash not in held and not self._memory.contains(line.hash)]
        missing.sort(key=lambda line: (line.offset < first_offset, line.offset))
        return [BlockLocation(line.hash, pack, line.offset, line.stored_length, line.plain_length) for line in missing]

    def _take_waiting(self, pack_fetch: PackFetch) -> list[BlockFetch]:
        with self._lock:
            waiting, pack_fetch.waiting = pack_fetch.waiting, []
            return waiting

    def _end_pack(self, pack_fetch: PackFetch) -> list[BlockFetch]:
        """No block of the pack waits for this fetch any more but those that are returned."""
        with self._lock:
            self._packs.pop(pack_fetch.pack, None)
            return pack_fetch.waiting


def _closed() -> StoreError:
    return StoreError("the block was not fetched: the block reader was closed")
