# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching ahead: together, in parallel, within limits, and without delaying readers."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cas3fs.blockstore import BlockReader
from cas3fs.blockstore.in_flight import STALE_AFTER_S, InFlightFetches
from cas3fs.caches import MemoryCache
from cas3fs.errors import BlockCorrupt, StoreUnreachable
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.values import BlockHash, BlockLocation
from tests.blockstore.conftest import WAIT_S, Block, TestStore, make_block
from tests.contracts.blocks import hash_block

OpenReader = Callable[..., BlockReader]
PutPack = Callable[[Iterable[Block]], list[BlockLocation]]
LARGE = 200_000


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that another thread does without a notification."""
    pause = threading.Event()
    for _ in range(WAIT_S * 1000):
        if is_so():
            return
        pause.wait(0.001)
    pytest.fail("it did not happen")


def arrived(reader: BlockReader, locations: Iterable[BlockLocation]) -> bool:
    return all(reader._memory.contains(location.hash) for location in locations)


def test_neighbours_are_fetched_ahead_by_one_request(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(10)]
    locations = put_pack(blocks)
    reader = open_reader()
    reader.prefetch(locations)
    until(lambda: arrived(reader, locations))
    assert [reader.read_now(location, 0, LARGE) for location in locations] == [plain for _, plain in blocks]
    assert len(store.requests) == 1


def test_ranges_are_fetched_in_parallel(open_reader: OpenReader, put_pack: PutPack, store: TestStore) -> None:
    locations = [put_pack([make_block(seed, LARGE)])[0] for seed in range(6)]
    reader = open_reader(fetch_workers=6)
    store.gets.block()
    reader.prefetch(locations)
    store.gets.wait_for(6)
    store.gets.unblock()
    until(lambda: arrived(reader, locations))
    assert len(store.requests) == 6


def test_prefetch_is_bounded_and_continues_as_blocks_are_read(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, metrics: Metrics
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(30)]
    locations = put_pack(blocks)
    reader = open_reader(ahead_bytes=4 * LARGE)
    reader.prefetch(locations)
    until(lambda: arrived(reader, locations[:4]))
    assert metrics.snapshot()["reader.ahead_bytes"] == 4 * LARGE
    assert not arrived(reader, locations[4:5])
    for number, (location, (_, plain)) in enumerate(zip(locations, blocks, strict=True)):
        until(lambda location=location: arrived(reader, [location]))  # type: ignore[misc]
        assert reader.read_now(location, 0, LARGE) == plain
        assert metrics.snapshot()["reader.ahead_bytes"] <= 4 * LARGE, number
    assert metrics.snapshot()["reader.blocks_ahead"] == 30
    assert metrics.snapshot()["reader.ahead_bytes"] == 0


def test_prefetch_uses_at_most_half_of_the_memory(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, metrics: Metrics
) -> None:
    locations = put_pack(make_block(seed, LARGE) for seed in range(10))
    store.gets.block()
    reader = open_reader(memory_bytes=5 * LARGE)
    reader.prefetch(locations)
    store.gets.wait_for(1)
    assert metrics.snapshot()["reader.ahead_bytes"] == 2 * LARGE


def test_a_reader_does_not_wait_for_the_prefetch_queue(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    locations = [put_pack([make_block(seed, LARGE)])[0] for seed in range(4)]
    reader = open_reader(fetch_workers=1)
    store.gets.block()
    reader.prefetch(locations)
    store.gets.wait_for(1)
    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(reader.read, locations[3], 0, LARGE)
        store.gets.wait_for(2)
        store.gets.unblock()
        assert wanted.result(WAIT_S) == make_block(3, LARGE)[1]
    until(lambda: arrived(reader, locations))
    assert len(store.requests) == 4


def test_a_reader_shares_a_fetch_that_a_hint_started(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    locations = put_pack(make_block(seed, LARGE) for seed in range(3))
    reader = open_reader()
    store.gets.block()
    reader.prefetch(locations)
    store.gets.wait_for(1)
    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(reader.read, locations[2], 0, LARGE)
        store.gets.unblock()
        assert wanted.result(WAIT_S) == make_block(2, LARGE)[1]
    assert len(store.requests) == 1


@pytest.mark.parametrize("compressible", [False, True])
def test_a_block_is_readable_before_its_range_has_arrived(
    open_reader: OpenReader,
    put_pack: PutPack,
    store: TestStore,
    monkeypatch: pytest.MonkeyPatch,
    compressible: bool,
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(3)]
    if compressible:
        blocks = [(hash_block(plain), plain) for plain in (bytes([seed]) * LARGE for seed in range(3))]
    locations = put_pack(blocks)
    first_came, go_on = threading.Event(), threading.Event()

    def get_pieces(key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        def take_slowly(piece: bytes) -> None:
            take(piece)
            if len(piece) > 1:
                first_came.set()
                go_on.wait(WAIT_S)

        ObjectStore.get_pieces(store, key, start, lengths, take_slowly)

    monkeypatch.setattr(store, "get_pieces", get_pieces)
    reader = open_reader()
    try:
        reader.prefetch(locations)
        assert first_came.wait(WAIT_S)
        assert reader.read_now(locations[0], 0, LARGE) == blocks[0][1]
        assert not arrived(reader, locations[1:2])
    finally:
        go_on.set()
    until(lambda: arrived(reader, locations))
    assert [reader.read_now(location, 0, LARGE) for location in locations] == [plain for _, plain in blocks]


def test_a_damaged_block_among_neighbours_fails_alone(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, metrics: Metrics
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(3)]
    locations = put_pack(blocks)
    key = f"packs/{locations[1].pack}"
    body = bytearray(store.get(key))
    body[locations[1].offset + 99] ^= 1
    store.replace(key, bytes(body))
    reader = open_reader()
    reader.prefetch(locations)
    until(lambda: arrived(reader, [locations[0], locations[2]]))
    until(lambda: metrics.snapshot()["reader.corrupt_blocks"] == 1)
    with pytest.raises(BlockCorrupt, match=locations[1].hash.hex()):
        reader.read(locations[1], 0, LARGE)


def test_prefetch_loads_cached_blocks_from_the_cache(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(4)]
    locations = put_pack(blocks)
    cache = MemoryCache(1 << 30)
    cache.put_many(dict(blocks[:3]))
    reader = open_reader(cache=cache)
    reader.prefetch(locations)
    until(lambda: arrived(reader, locations))
    assert [(start, length) for _, start, length in store.requests] == [
        (locations[3].offset, locations[3].stored_length)
    ]


def test_after_a_failed_prefetch_the_reader_tries_again(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, metrics: Metrics
) -> None:
    locations = put_pack(make_block(seed, LARGE) for seed in range(3))
    reader = open_reader()
    store.get_error = StoreUnreachable("no connection")
    reader.prefetch(locations)
    until(lambda: metrics.snapshot()["reader.failed_blocks"] == 3)
    assert metrics.snapshot()["reader.ahead_bytes"] == 0
    store.get_error = None
    assert reader.read(locations[1], 0, LARGE) == make_block(1, LARGE)[1]


def test_repeated_hints_fetch_once(open_reader: OpenReader, put_pack: PutPack, store: TestStore) -> None:
    locations = put_pack(make_block(seed, LARGE) for seed in range(3))
    reader = open_reader()
    store.gets.block()
    reader.prefetch(locations)
    reader.prefetch(locations)
    store.gets.wait_for(1)
    store.gets.unblock()
    until(lambda: arrived(reader, locations))
    reader.prefetch(locations)
    reader.close()
    assert len(store.requests) == 1


def block_at(number: int, length: int = 10) -> BlockLocation:
    return BlockLocation(BlockHash(number.to_bytes(32, "big")), "pack", number * length, length, length)


def test_unread_prefetched_blocks_stop_counting_after_a_while() -> None:
    now_s = [0.0]
    table = InFlightFetches(40, lambda: now_s[0])
    table.hint(block_at(number) for number in range(4))
    fetches = table.start(lambda block: False)
    for fetch in fetches:
        assert table.end(fetch, arrived=True)
    table.hint([block_at(10)])
    assert table.start(lambda block: block != block_at(10).hash) == []
    now_s[0] = STALE_AFTER_S / 2 + 1
    table.hint([block_at(11)])
    now_s[0] = STALE_AFTER_S + 1
    (fetch,) = table.start(lambda block: block not in (block_at(10).hash, block_at(11).hash))
    assert fetch.block == block_at(11), "the hint for block 10 is too old by now"
    assert table.ahead_bytes == 10


def test_blocks_evicted_from_memory_stop_counting_at_once() -> None:
    table = InFlightFetches(40, lambda: 0.0)
    table.hint(block_at(number) for number in range(4))
    for fetch in table.start(lambda block: False):
        table.end(fetch, arrived=True)
    table.hint([block_at(10)])
    assert [fetch.block for fetch in table.start(lambda block: False)] == [block_at(10)]


def test_hints_start_in_batches() -> None:
    table = InFlightFetches(80, lambda: 0.0)
    table.hint(block_at(number) for number in range(20))
    first = table.start(lambda block: False)
    assert len(first) == 8
    started = []
    for fetch in first[:4]:
        table.end(fetch, arrived=True)
        table.note_read(fetch.block.hash)
        started.append(len(table.start(lambda block: False)))
    assert started == [0, 2, 0, 2]


def test_a_block_larger_than_the_limit_is_skipped() -> None:
    table = InFlightFetches(40, lambda: 0.0)
    table.hint([block_at(0, 41), block_at(1)])
    assert [fetch.block for fetch in table.start(lambda block: False)] == [block_at(1)]


def test_prefetched_blocks_of_a_near_store_are_not_cached(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(6)]
    locations = put_pack(blocks)
    cache = MemoryCache(1 << 30)
    reader = open_reader(cache=cache, near_store=True)
    reader.prefetch(locations[1:])
    assert reader.read(locations[0], 0, LARGE) == blocks[0][1]
    until(lambda: arrived(reader, locations))
    assert [reader.read_now(location, 0, LARGE) for location in locations] == [plain for _, plain in blocks]
    assert len(store.requests) == len(blocks)  # requests cost nothing there, and bytes of a run would have to be copied
    reader.close()  # what was on its way into the cache is there, or never will be
    assert not any(cache.contains(location.hash) for location in locations[1:])


def test_packs_of_a_near_store_are_unpacked_into_memory_only(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, 1000) for seed in range(100)]
    locations = put_pack(blocks)
    cache = MemoryCache(1 << 30)
    reader = open_reader(cache=cache, near_store=True)
    for location, (_, plain) in zip(locations, blocks, strict=True):
        assert reader.read(location, 0, 1000) == plain
    until(lambda: arrived(reader, locations))
    reader.close()
    assert len(store.requests) == 2
    assert sum(cache.contains(location.hash) for location in locations) <= 2
