# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading blocks: verified, fetched once, with errors that affect one block only."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cas3fs.blockstore import BlockReader
from cas3fs.blockstore.pack_store import pack_key
from cas3fs.caches import DiskCache, MemoryCache
from cas3fs.errors import BlockCorrupt, BlockMissing, StoreError, StoreUnreachable
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, BlockLocation, Buffer
from tests.blockstore.conftest import WAIT_S, Block, Blocker, TestStore, make_block
from tests.contracts.blocks import hash_block

OpenReader = Callable[..., BlockReader]
PutPack = Callable[[Iterable[Block]], list[BlockLocation]]
LARGE = 200_000


def test_read_now_returns_only_blocks_in_memory(open_reader: OpenReader, put_pack: PutPack, store: TestStore) -> None:
    block, plain = make_block(1)
    (location,) = put_pack([(block, plain)])
    reader = open_reader()
    assert reader.read_now(location, 0, 10) is None
    assert store.requests == []
    assert bytes(reader.read(location, 100, 50)) == plain[100:150]
    part = reader.read_now(location, 4000, 96)
    assert part is not None
    assert bytes(part) == plain[4000:]
    assert reader.read_now(location, 0, 4096) == plain
    assert len(store.requests) == 1


def test_a_compressed_block_is_fetched_by_its_own_range(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    text = b"text " * LARGE
    blocks = [make_block(1, LARGE), (hash_block(text), text), make_block(2, LARGE)]
    locations = put_pack(blocks)
    assert open_reader().read(locations[1], 0, len(text)) == text
    assert store.requests == [(pack_key(locations[1].pack), locations[1].offset, locations[1].stored_length)]


def test_an_uncompressed_block_is_fetched_without_its_codec_byte(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(3)]
    locations = put_pack(blocks)
    assert open_reader().read(locations[1], 0, LARGE) == blocks[1][1]
    assert store.requests == [(pack_key(locations[1].pack), locations[1].offset + 1, LARGE)]


def test_concurrent_readers_share_one_fetch(open_reader: OpenReader, put_pack: PutPack, store: TestStore) -> None:
    block, plain = make_block(1, LARGE)
    (location,) = put_pack([(block, plain)])
    reader = open_reader()
    store.gets.block()
    with ThreadPoolExecutor(16) as pool:
        parts = [pool.submit(reader.read, location, place * 1000, 1000) for place in range(16)]
        store.gets.wait_for(1)
        store.gets.unblock()
        read = [bytes(part.result(WAIT_S)) for part in parts]
    assert read == [plain[place * 1000 : place * 1000 + 1000] for place in range(16)]
    assert len(store.requests) == 1


def test_a_failed_fetch_fails_all_waiters_and_later_reads_retry(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    (location,) = put_pack([make_block(1, LARGE)])
    reader = open_reader()
    store.get_error = StoreUnreachable("no connection")
    store.gets.block()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(reader.read, location, 0, 1)
        store.gets.wait_for(1)
        others = [pool.submit(reader.read, location, 0, 1) for _ in range(3)]
        store.gets.unblock()
        assert all(isinstance(each.exception(WAIT_S), StoreUnreachable) for each in [first, *others])
    store.get_error = None
    assert len(reader.read(location, 0, LARGE)) == LARGE


def test_the_error_of_a_missing_pack_names_it(open_reader: OpenReader, put_pack: PutPack, store: TestStore) -> None:
    (location,) = put_pack([make_block(1)])
    store.delete_many([pack_key(location.pack)])
    with pytest.raises(BlockMissing, match=location.pack):
        open_reader().read(location, 0, 1)


def test_a_truncated_pack_loses_only_the_blocks_at_its_end(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(3)]
    locations = put_pack(blocks)
    body = store.get(pack_key(locations[0].pack))
    store.replace(pack_key(locations[0].pack), body[: locations[2].offset])
    reader = open_reader()
    reader.prefetch(locations)
    assert reader.read(locations[0], 0, LARGE) == blocks[0][1]
    assert reader.read(locations[1], 0, LARGE) == blocks[1][1]
    with pytest.raises(BlockMissing):
        reader.read(locations[2], 0, 1)


@pytest.mark.parametrize("length", [1000, LARGE])
def test_a_damaged_block_does_not_affect_other_blocks(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, length: int, metrics: Metrics
) -> None:
    blocks = [make_block(seed, length) for seed in range(5)]
    locations = put_pack(blocks)
    body = bytearray(store.get(pack_key(locations[0].pack)))
    body[locations[2].offset + 500] ^= 1
    store.replace(pack_key(locations[0].pack), bytes(body))
    reader = open_reader()
    for number in (0, 1, 3, 4):
        assert reader.read(locations[number], 0, length) == blocks[number][1]
    with pytest.raises(BlockCorrupt, match=blocks[2][0].hex()):
        reader.read(locations[2], 0, 1)
    assert metrics.snapshot()["reader.corrupt_blocks"] >= 1


def test_an_admitted_block_is_read_from_the_cache(open_reader: OpenReader, put_pack: PutPack, store: TestStore) -> None:
    block, plain = make_block(1)
    (location,) = put_pack([(block, plain)])
    cache = MemoryCache(1 << 20)
    reader = open_reader(cache=cache)
    buffer = bytearray(plain)
    reader.admit(block, memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    reader.close()  # completes the puts that are running
    assert cache.get(block) == plain
    assert reader.read(location, 0, len(plain)) == plain
    assert store.requests == []


class SlowCache(MemoryCache):
    """Accepts blocks only while its blocker lets them through."""

    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.blocker = Blocker()

    def put(self, block: BlockHash, plain: Buffer) -> None:
        self.blocker.pass_through()
        super().put(block, plain)


class WatchedCache(MemoryCache):
    """A cache that notifies when a block was put."""

    name = "watched"

    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.changed = threading.Condition()

    def put(self, block: BlockHash, plain: Buffer) -> None:
        with self.changed:
            super().put(block, plain)
            self.changed.notify_all()

    def wait_for(self, locations: Iterable[BlockLocation]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: all(self.contains(each.hash) for each in locations), WAIT_S)


@pytest.mark.parametrize("length", [4096, LARGE])
def test_a_fetched_block_is_read_from_the_cache_after_eviction(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, length: int
) -> None:
    block, plain = make_block(1, length)
    (location,) = put_pack([(block, plain)])
    cache = WatchedCache()
    open_reader(cache=cache).read(location, 0, 1)
    cache.wait_for([location])
    other = open_reader(cache=cache)
    assert bytes(other.read(location, 100, 1000)) == plain[100:1100]
    assert len(store.requests) == 1


def test_a_large_read_at_a_blocks_start_loads_it_whole(open_reader: OpenReader, put_pack: PutPack) -> None:
    block, plain = make_block(1, 400_000)
    (location,) = put_pack([(block, plain)])
    cache = WatchedCache()
    cache.put(block, plain)
    random_reader, stream_reader = open_reader(cache=cache), open_reader(cache=cache)
    random_reader.read(location, 131_072, 131_072)
    stream_reader.read(location, 0, 131_072)
    assert random_reader.read_now(location, 0, 1) is None
    assert stream_reader.read_now(location, 300_000, 5) == plain[300_000:300_005]


def test_a_corrupt_cache_file_is_fetched_again(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, cache_directory: Path, metrics: Metrics
) -> None:
    block, plain = make_block(1, LARGE)
    (location,) = put_pack([(block, plain)])
    cache = DiskCache(cache_directory, 1 << 30, metrics=metrics, keep_free_bytes=0)
    cache.put(block, plain)
    path = cache_directory / block.hex()[:2] / block.hex()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert bytes(open_reader(cache=cache).read(location, LARGE - 10, 10)) == plain[-10:]
    assert len(store.requests) == 1
    cache.close()


def test_close_fails_waiting_reads_and_later_reads_work(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    one, other = put_pack([make_block(1, LARGE), make_block(2, LARGE)])
    reader = open_reader()
    store.gets.block()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reader.read, one, 0, 1)
        store.gets.wait_for(1)
        reader.close()
        store.gets.unblock()
        assert isinstance(waiting.exception(WAIT_S), StoreError)
    reader.close()
    reader.prefetch([other])
    assert len(reader.read(other, 0, LARGE)) == LARGE


# Whole packs


def test_a_second_small_miss_nearby_fetches_the_whole_pack(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, 1000) for seed in range(200)]
    locations = put_pack(blocks)
    cache = WatchedCache()
    reader = open_reader(cache=cache)
    for location, (_, plain) in zip(locations, blocks, strict=True):
        assert reader.read(location, 0, 1000) == plain
    assert [start for _, start, _ in store.requests] == [locations[0].offset + 1, -1]
    cache.wait_for(locations)


def test_without_a_cache_half_the_memory_is_filled_from_the_pack(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, 10_000) for seed in range(100)]
    locations = put_pack(blocks)
    reader = open_reader(memory_bytes=500_000)
    reader.read(locations[10], 0, 1)
    reader.read(locations[11], 0, 1)
    for number in range(12, 36):
        assert reader.read(locations[number], 0, 10_000) == blocks[number][1]
    reader.close()
    assert len(store.requests) == 2
    assert reader.read_now(locations[50], 0, 1) is None


def test_a_read_waits_for_the_pack_that_is_being_fetched(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, 1000) for seed in range(50)]
    locations = put_pack(blocks)
    reader = open_reader()
    reader.read(locations[0], 0, 1)
    store.gets.block()
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(reader.read, locations[1], 0, 1000)
        store.gets.wait_for(2)
        others = [pool.submit(reader.read, locations[number], 0, 1000) for number in range(40, 49)]
        while not all(reader._fetcher.is_in_flight(locations[number].hash) for number in range(40, 49)):
            threading.Event().wait(0.001)
        store.gets.unblock()
        assert first.result(WAIT_S) == blocks[1][1]
        assert [other.result(WAIT_S) for other in others] == [plain for _, plain in blocks[40:49]]
    assert len(store.requests) == 2


def test_a_pack_with_a_damaged_table_still_serves_its_blocks(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, 1000) for seed in range(5)]
    locations = put_pack(blocks)
    body = store.get(pack_key(locations[0].pack))
    store.replace(pack_key(locations[0].pack), body[:-1] + b"?")
    reader = open_reader()
    assert [reader.read(location, 0, 1000) for location in locations] == [plain for _, plain in blocks]


def test_if_a_whole_pack_fails_its_blocks_are_fetched_singly(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [make_block(seed, 1000) for seed in range(4)]
    locations = put_pack(blocks)

    def fail(key: str) -> bytes:
        raise StoreUnreachable("the connection broke")

    monkeypatch.setattr(store, "get", fail)
    reader = open_reader()
    assert [reader.read(location, 0, 1000) for location in locations] == [plain for _, plain in blocks]


def test_very_large_packs_are_not_fetched_whole(open_reader: OpenReader, put_pack: PutPack, store: TestStore) -> None:
    locations = put_pack(make_block(seed, 1000) for seed in range(10))
    reader = open_reader(pack_size_bytes=1 << 30)
    for location in locations:
        reader.read(location, 0, 1)
    assert [start for _, start, _ in store.requests] == [location.offset + 1 for location in locations]


def test_a_slow_cache_does_not_delay_reads_from_an_unpacked_pack(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    blocks = [make_block(seed, 1000) for seed in range(50)]
    locations = put_pack(blocks)
    cache = SlowCache()
    cache.blocker.block()
    reader = open_reader(cache=cache)
    assert [reader.read(location, 0, 1000) for location in locations] == [plain for _, plain in blocks]
    cache.blocker.unblock()
    assert len(store.requests) == 2


def test_a_third_pack_waits_until_one_of_two_is_unpacked(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, metrics: Metrics
) -> None:
    packs = [put_pack(make_block(10 * pack + seed, 1000) for seed in range(10)) for pack in range(3)]
    cache = SlowCache()
    reader = open_reader(cache=cache)
    for locations in packs:
        reader.read(locations[0], 0, 1)
    cache.blocker.block()
    for locations in packs[:2]:
        reader.read(locations[1], 0, 1)
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(reader.read, packs[2][1], 0, 1000)
        while not reader._fetcher.is_in_flight(packs[2][1].hash):
            threading.Event().wait(0.001)
        assert metrics.snapshot()["reader.whole_packs"] == 2
        cache.blocker.unblock()
        assert third.result(WAIT_S) == make_block(21, 1000)[1]
    assert metrics.snapshot()["reader.whole_packs"] == 3


def test_only_reads_from_the_store_use_the_wait_guard(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore
) -> None:
    block, plain = make_block(1, LARGE)
    (location,) = put_pack([(block, plain)])
    cache = MemoryCache(1 << 30)
    cache.put(block, plain)

    def refuse() -> AbstractContextManager[None]:
        raise StoreUnreachable("no slot is free")

    assert bytes(open_reader(cache=cache).read(location, 5, 10, refuse)) == plain[5:15]
    with pytest.raises(StoreUnreachable, match="no slot"):
        open_reader().read(location, 5, 10, refuse)
    assert store.requests == []


def test_an_empty_block_can_be_read(open_reader: OpenReader, put_pack: PutPack) -> None:
    (location,) = put_pack([(hash_block(b""), b"")])
    assert open_reader().read(location, 0, 0) == b""
