# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks out of the object store into memory and caches: one fetch however many ask, ahead on hints, whole packs.

A thread that needs a block fetches it itself, unless it is being fetched: then it waits and shares the outcome.
Workers do what nobody waits for: hints are turned into runs (or into loads from the caches, where those have the
block), and of a pack that was fetched whole, everything beside the block that was asked for is unpacked in the
background. Who asks for a block of that pack meanwhile is served from it, between two others.

Every job ends the flights it claimed, whatever happens: who waits gets bytes or an error.

Locks: `_lock` guards the flights and the table of packs. Under it only the memory cache is asked, whose lock is the
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
from cas3fs.blockstore.filling import Filler
from cas3fs.blockstore.flights import Flight, FlightTable, Refusals
from cas3fs.blockstore.plans import Locality, Run, coalesce
from cas3fs.blockstore.retrieval import Retrieval, Unpack
from cas3fs.caches.base import BlockCache
from cas3fs.caches.memory import MemoryCache
from cas3fs.errors import (
    BlockError,
    BlockMissing,
    Cas3fsError,
    CorruptBlock,
    CorruptPack,
    StoreError,
    TransientStoreError,
)
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, BlockLocation, Buffer

Job = Callable[[Flight], None]
Pause = Callable[[], None]
"""Called between two blocks."""

OnLost = Callable[[BlockLocation], None]
"""Told of a block that the store has not, or not as it should be; called without a lock, by any thread."""

WHOLE_PACKS_AT_ONCE = 2
"""So many are held in memory."""
CACHED_AT_ONCE_BYTES = 1024 * 1024
"""Small blocks go to the caches together: a cache behind a network takes them in one round trip."""


class PackFetch:
    """A pack that is being fetched whole, and who waits for a block of it."""

    def __init__(self, pack: str) -> None:
        self.pack = pack
        self.wanted: list[Flight] = []


class Fetcher:
    """See the module.

    `ahead_bytes` bounds what is fetched ahead and not yet read; `whole_packs` permits packs. `near_store` says that the
    store is as near as the caches: then requests cost nothing, and only blocks that a reader waited for one by one go
    to the caches.
    """

    def __init__(
        self,
        retrieval: Retrieval,
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
        self._retrieval = retrieval
        self._memory = memory
        self._cache = cache
        self._filler = None if cache is None else Filler(cache)
        self._whole_packs = whole_packs
        self._near_store = near_store
        self._lock = threading.Lock()
        self._closed = False
        self._flights = FlightTable(ahead_bytes, clock)
        self._refusals = Refusals(clock)
        self._locality = Locality()
        self._packs: dict[str, PackFetch] = {}
        self._pack_slots = threading.Semaphore(WHOLE_PACKS_AT_ONCE)
        self._workers = ThreadPoolExecutor(workers, "cas3fs-ahead")
        self._unpackers = ThreadPoolExecutor(WHOLE_PACKS_AT_ONCE, "cas3fs-unpack")
        self._blocks_ahead = metrics.counter("reader.blocks_ahead")
        self._packs_fetched = metrics.counter("reader.whole_packs")
        self._failed = metrics.counter("reader.failed_blocks")
        metrics.watch("reader.ahead_bytes", lambda: self._flights.ahead_bytes)
        self.on_lost: OnLost = lambda block: None
        self.unread = self._flights.unread
        """Blocks fetched ahead and not read yet; only to be looked at: `note_read` is to be called for those."""

    def is_under_way(self, block: BlockHash) -> bool:
        """Whether the block is being fetched just now."""
        return block in self._flights

    def fetch(self, block: BlockLocation) -> bytes:
        """The block, from the store or from whoever is fetching it.

        Raises:
            BlockMissing, CorruptBlock, StoreError: as it came to whoever fetched it.
        """
        with self._lock:
            plain = self._memory.get(block.hash)
            if plain is not None:  # it has just landed
                self._flights.note_read(block.hash)
                return plain
            self._refusals.check(block.hash)
            flight, is_mine = self._flights.demand(block)
            job = self._job_for(flight) if is_mine else None
            next_flights = self._flights.take_off(self._memory.contains)
        self._launch(next_flights)
        if job is not None:
            job(flight)
        return flight.future.result()

    def hint(self, blocks: Sequence[BlockLocation]) -> None:
        """Blocks that will be wanted next, in that order."""
        with self._lock:
            if self._closed:
                return
            self._flights.hint(block for block in blocks if not self._memory.contains(block.hash))
            flights = self._flights.take_off(self._memory.contains)
        self._launch(flights)

    def note_read(self, block: BlockHash) -> None:
        """A block fetched ahead was read: others may be fetched in its place."""
        with self._lock:
            self._flights.note_read(block)
            flights = self._flights.take_off(self._memory.contains)
        self._launch(flights)

    def fill(self, block: BlockHash, plain: bytes, *, dispensable: bool = False) -> None:
        """Put a block into the caches in the background."""
        if self._filler is not None:
            self._filler.fill(block, plain, dispensable=dispensable)

    def close(self) -> None:
        """Fail all who wait, end the workers. Later fetches still work, one by one."""
        with self._lock:
            self._closed = True
            self._packs.clear()
            left = self._flights.take_all()
        for flight in left:
            flight.future.set_exception(_closed())
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._unpackers.shutdown(wait=True, cancel_futures=True)
        if self._filler is not None:
            self._filler.close()

    # Flights

    def _land(self, flight: Flight, plain: bytes, *, fill: bool) -> None:
        with self._lock:
            self._refusals.clear()
            is_open = self._flights.end(flight, arrived=True)
            self._memory.put(flight.block.hash, plain)
        if is_open:
            flight.future.set_result(plain)
        if fill:
            self.fill(flight.block.hash, plain)

    def _fail(self, flights: Iterable[Flight], error: BaseException) -> None:
        with self._lock:
            still_open = [flight for flight in flights if self._flights.end(flight, arrived=False)]
            if isinstance(error, TransientStoreError):
                self._refusals.note(still_open, error)
        self._failed.add(len(still_open))
        for flight in still_open:
            if isinstance(error, BlockError):
                self.on_lost(flight.block)  # before the reader hears of it: what he writes then is stored
            flight.future.set_exception(error)

    def _run_job(self, flights: Sequence[Flight], job: Callable[[Flight], None]) -> None:
        """Do `job` for each that is still under way; whatever happens, all of `flights` end."""
        try:
            for flight in flights:
                if not flight.future.done():
                    job(flight)
        finally:
            self._fail(flights, StoreError("the block could not be fetched: its fetch broke off"))

    def _job_for(self, flight: Flight) -> Job | None:
        """How to fetch a block that is missed; None if its pack is under way anyway. The lock is held."""
        fetch = self._packs.get(flight.block.pack)
        if fetch is not None:
            fetch.wanted.append(flight)
            return None
        if self._locality.missed(flight.block) and self._whole_packs and not self._closed:
            fetch = self._packs[flight.block.pack] = PackFetch(flight.block.pack)
            return partial(self._fetch_pack, fetch)
        return lambda flight: self._run_job([flight], self._fetch_alone)

    def _fetch_alone(self, flight: Flight) -> None:
        """Fetch one block by a request of its own; of a hint's, the caches were not asked yet."""
        if flight.hinted and self._load(flight):
            return
        try:
            plain = self._retrieval.block(flight.block)
        except Cas3fsError as error:
            self._fail([flight], error)
        else:
            self._land(flight, plain, fill=not (flight.hinted and self._near_store))

    def _load(self, flight: Flight) -> bool:
        """Land a flight from the caches, if they have the block."""
        plain = None if self._cache is None else self._cache.get(flight.block.hash)
        if plain is not None:
            self._land(flight, plain, fill=False)
        return plain is not None

    def _decode(self, flight: Flight, body: bytes, start: int) -> None:
        """Land a flight from bytes of its pack, or fail it alone."""
        self._unpack_one(flight, lambda: self._retrieval.decode(body, start, flight.block))

    def _unpack_one(self, flight: Flight, unpack: Unpack) -> None:
        try:
            plain = unpack()
        except Cas3fsError as error:
            self._fail([flight], error)
        else:
            self._land(flight, plain, fill=not self._near_store)

    # Ahead

    def _launch(self, flights: list[Flight]) -> None:
        if flights:
            self._blocks_ahead.add(len(flights))
            self._submit(self._plan, flights)

    def _submit(self, job: Callable[[list[Flight]], None], flights: list[Flight]) -> None:
        try:
            self._workers.submit(job, flights)
        except RuntimeError:  # closed meanwhile
            self._fail(flights, _closed())

    def _plan(self, flights: list[Flight]) -> None:
        """Share new flights out among the workers: loads from the caches, and runs of neighbours."""
        if self._near_store:
            for flight in flights:
                self._submit(self._load_ahead, [flight])
            return
        try:
            held = self._held(flight.block.hash for flight in flights)
            by_block = {flight.block: flight for flight in flights if flight.block.hash not in held}
            for flight in flights:
                if flight.block.hash in held:
                    self._submit(self._load_ahead, [flight])
            for run in coalesce(list(by_block)):
                self._submit(self._fetch_ahead, [by_block[block] for block in run.blocks])
        except BaseException as error:
            self._fail(self._claim(flights), error)
            raise

    def _load_ahead(self, flights: list[Flight]) -> None:
        self._run_job(self._claim(flights), self._fetch_alone)

    def _fetch_ahead(self, flights: list[Flight]) -> None:
        """Fetch neighbours of one pack together, but for those that a reader has claimed meanwhile."""
        by_block = {flight.block: flight for flight in self._claim(flights)}
        try:
            for run in coalesce(list(by_block)):
                self._fetch_run(run, {block: by_block[block] for block in run.blocks})
        finally:
            self._run_job(list(by_block.values()), self._fetch_alone)

    def _fetch_run(self, run: Run, flights: dict[BlockLocation, Flight]) -> None:
        """Fetch a run; each of its blocks lands as soon as it has arrived, and none waits for those behind it."""
        try:
            self._retrieval.blocks(run, lambda block, unpack: self._unpack_one(flights[block], unpack))
        except BlockMissing:
            self._run_job(list(flights.values()), self._fetch_alone)  # perhaps not all of them are lost
        except Cas3fsError as error:
            self._fail(flights.values(), error)

    def _claim(self, flights: list[Flight]) -> list[Flight]:
        with self._lock:
            return [flight for flight in flights if flight.claim()]

    def _held(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        return set() if self._cache is None else self._cache.contains_many(blocks)

    # Whole packs

    def _fetch_pack(self, fetch: PackFetch, flight: Flight) -> None:
        """Fetch a whole pack, serve `flight` from it, and leave the rest to a worker.

        While two other packs are being unpacked this waits: they bring blocks faster than requests for each would.
        """
        self._pack_slots.acquire()
        unpacking = None
        try:
            body = self._retrieval.pack(fetch.pack)
            self._packs_fetched.add()
            self._decode(flight, body, 0)
            unpacking = self._unpackers.submit(self._unpack, fetch, body, flight.block.offset)
        except (Cas3fsError, RuntimeError):  # too much at once, perhaps; or closed meanwhile
            self._run_job([flight, *self._end_pack(fetch)], self._fetch_alone)
        except BaseException as error:
            self._fail([flight, *self._end_pack(fetch)], error)
            raise
        finally:
            if unpacking is None:
                self._pack_slots.release()
            else:
                unpacking.add_done_callback(lambda _: self._pack_slots.release())

    def _unpack(self, fetch: PackFetch, body: bytes, first_offset: int) -> None:
        """Keep what else is in a pack, from `first_offset` on, then before it; who waits for some of it comes first.

        Memory is filled before any cache is, which takes longer: who reads on finds the next blocks there.
        """

        def serve(flight: Flight) -> None:
            self._decode(flight, body, 0)

        def serve_wanted() -> None:
            if fetch.wanted:
                self._run_job(self._take_wanted(fetch), serve)

        try:
            blocks = deque(self._worth_keeping(fetch.pack, body, first_offset))
            kept = self._keep_in_memory(blocks, body, serve_wanted)
            if self._cache is not None and not self._near_store:
                self._keep_in_cache(self._cache, chain(kept, self._decoded(blocks, body)), serve_wanted)
        finally:
            self._run_job(self._end_pack(fetch), serve)

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
            if size_bytes >= CACHED_AT_ONCE_BYTES:
                cache.put_many(batch)
                batch, size_bytes = {}, 0
        cache.put_many(batch)

    def _decoded(self, blocks: Iterable[BlockLocation], body: bytes) -> Iterator[tuple[BlockHash, bytes]]:
        """Those blocks that are whole, and not in memory since a reader was served with them."""
        for block in blocks:
            if not self._memory.contains(block.hash):
                with suppress(CorruptBlock):  # whoever reads it will be told
                    yield block.hash, self._retrieval.decode(body, 0, block)

    def _worth_keeping(self, pack: str, body: bytes, first_offset: int) -> list[BlockLocation]:
        """What a pack contains and no cache has; nothing where its table of contents is damaged."""
        try:
            contents = read_contents(body, len(body))
        except CorruptPack:
            return []
        held = self._held(line.hash for line in contents)
        missing = [line for line in contents if line.hash not in held and not self._memory.contains(line.hash)]
        missing.sort(key=lambda line: (line.offset < first_offset, line.offset))
        return [BlockLocation(line.hash, pack, line.offset, line.stored_length, line.plain_length) for line in missing]

    def _take_wanted(self, fetch: PackFetch) -> list[Flight]:
        with self._lock:
            wanted, fetch.wanted = fetch.wanted, []
            return wanted

    def _end_pack(self, fetch: PackFetch) -> list[Flight]:
        """No block of the pack waits for this fetch any more but those that are returned."""
        with self._lock:
            self._packs.pop(fetch.pack, None)
            return fetch.wanted


def _closed() -> StoreError:
    return StoreError("the block was not fetched: the block reader was closed")
