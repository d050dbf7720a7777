# SPDX-License-Identifier: GPL-3.0-or-later
"""The memcached cache splits, verifies and distributes blocks, and a server that is down delays no reader for long."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from cas3fs.caches import MemoryCache, TieredCache
from cas3fs.caches.memcached import MemcachedCache, parse_servers
from cas3fs.caches.memcached_servers import HashRing
from cas3fs.metrics import Metrics
from cas3fs.testing.fake_memcached import FakeMemcached, FakeMemcachedServer
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.servers import memcached
from tests.caches.conftest import Block, make_block

VOLUME = "0f5e3fd1-7f2e-4f4e-9f31-6a5d4c3b2a10"
Opener = Callable[..., MemcachedCache]


@pytest.fixture
def open_fake(metrics: Metrics) -> Iterator[Callable[[FakeMemcached], MemcachedCache]]:
    with ExitStack() as stack:

        def open_cache(fake: FakeMemcached, volume: str = VOLUME, **options: Any) -> MemcachedCache:
            cache = MemcachedCache(
                [("127.0.0.1", 1)],
                volume,
                metrics=metrics,
                client_factory=fake.twin,
                **({"slow_s": 1, "timeout_s": 1} | options),
            )
            return stack.enter_context(closing(cache))

        yield open_cache


def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_block_over_the_limit_of_an_item_is_split(open_fake: Opener) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1, 3_000_000)
    cache = open_fake(fake)
    cache.put(block, plain)
    assert len(fake.fake_server.items) == 6
    assert max(map(len, fake.fake_server.items.values())) <= 500 * 1024
    assert cache.get(block) == plain


def test_a_block_that_lacks_an_item_is_a_miss_and_can_be_put_again(open_fake: Opener) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1, 1_200_000)
    cache = open_fake(fake)
    for item in range(3):
        cache.put(block, plain)
        fake.delete(f"c3:{uuid.UUID(VOLUME).hex}:{block.hex()}:{item}", noreply=False)
        assert cache.get(block) is None
    cache.put(block, plain)
    assert cache.get(block) == plain


def test_clients_with_different_item_sizes_read_each_others_blocks(open_fake: Opener) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1, 1_000_000)
    open_fake(fake, item_bytes=100_000).put(block, plain)
    assert open_fake(fake, item_bytes=700_000).get(block) == plain


def test_blocks_of_another_volume_are_not_found(open_fake: Opener) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1)
    open_fake(fake).put(block, plain)
    other = open_fake(fake, volume=str(uuid.uuid4()))
    assert other.get(block) is None
    assert not other.contains(block)
    assert all(uuid.UUID(VOLUME).hex.encode() in key for key in fake.fake_server.items)


@pytest.mark.parametrize("length", [10, 4096, 1_200_000])
def test_changed_bytes_on_a_server_are_never_returned(open_fake: Opener, metrics: Metrics, length: int) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1, length)
    cache = open_fake(fake)
    cache.put(block, plain)
    whole = fake.fake_server.items
    for key, value in whole.items():
        for place in (0, 4, 7, 8, 11, 12, len(value) // 2, len(value) - 1):
            fake.fake_server.corrupt(key, value[:place] + bytes([value[place] ^ 0x41]) + value[place + 1 :])
            assert cache.get(block) in (None, plain)
            for one, content in whole.items():
                fake.set(one, content, noreply=False)
        for corrupt in (b"", value[:5], value[:-1], value + b"x"):
            fake.fake_server.corrupt(key, corrupt)
            assert cache.get(block) in (None, plain)
            for one, content in whole.items():
                fake.set(one, content, noreply=False)
    assert cache.get(block) == plain
    assert metrics.snapshot()["cache.memcached.rotten"] > 0


def test_a_block_that_the_server_finds_too_large_does_not_affect_others(open_fake: Opener, metrics: Metrics) -> None:
    fake = FakeMemcached(FakeMemcachedServer(item_bytes=100_000))
    cache = open_fake(fake)
    large, small = make_block(1, 300_000), make_block(2)
    cache.put(*large)
    cache.put(*small)
    assert cache.get(large[0]) is None
    assert cache.get(small[0]) == small[1]
    assert metrics.snapshot()["cache.memcached.refused_items"] > 0
    assert metrics.snapshot()["cache.servers.outages"] == 0


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.TRUNCATED, FaultKind.APPLIED_THEN_ERROR])
def test_a_broken_connection_is_a_miss_and_the_server_is_used_again(open_fake: Opener, kind: FaultKind) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1)
    cache = open_fake(fake)
    cache.put(block, plain)
    with fake.faults.on(kind, operations=["get"], times=1) as fault:
        assert cache.get(block) is None
        assert fault.times_triggered == 1
    until(lambda: cache.get(block) == plain)


def test_a_server_that_is_out_of_memory_is_a_miss(open_fake: Opener) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1)
    cache = open_fake(fake)
    with fake.faults.on(FaultKind.UNAVAILABLE):
        cache.put(block, plain)
        assert cache.get(block) is None
    cache.put(block, plain)
    assert cache.get(block) == plain


def test_a_slow_server_is_skipped_after_some_responses(open_fake: Opener, metrics: Metrics) -> None:
    fake = FakeMemcached()
    block, plain = make_block(1)
    cache = open_fake(fake, slow_s=0.01, timeout_s=1)
    cache.put(block, plain)
    with fake.faults.on(FaultKind.DELAY, operations=["get"], delay_s=0.02) as fault:
        for _ in range(50):
            cache.get(block)
        assert fault.times_triggered == 8
    until(lambda: cache.get(block) == plain)


def test_the_ring_spreads_blocks_and_moves_only_those_of_a_lost_server() -> None:
    names = [f"host{number}:11211" for number in range(4)]
    ring = HashRing([(name, name) for name in names])
    shuffled = HashRing([(name, name) for name in reversed(names)])
    blocks = [make_block(seed, 8)[0] for seed in range(4000)]
    owners = {block: ring.server_of(block, lambda _: True) for block in blocks}
    shares = [sum(owner == name for owner in owners.values()) for name in names]
    assert min(shares) > 600
    for block in blocks:
        assert shuffled.server_of(block, lambda _: True) == owners[block]
        left = ring.server_of(block, lambda name: name != names[0])
        assert left == owners[block] if owners[block] != names[0] else left != names[0]
    assert ring.server_of(blocks[0], lambda _: False) is None


def test_a_list_of_servers_is_parsed() -> None:
    assert parse_servers("//one,two:1,[::1]:2,[fe80::1]") == [
        ("one", 11211),
        ("two", 1),
        ("::1", 2),
        ("fe80::1", 11211),
    ]


def test_an_unreachable_server_delays_only_the_start(metrics: Metrics) -> None:
    started_s = time.monotonic()
    with closing(MemcachedCache([("nowhere.invalid", 1)], VOLUME, metrics=metrics)) as cache:
        assert time.monotonic() - started_s < 5
        started_s = time.monotonic()
        for seed in range(100):
            block, plain = make_block(seed, 10)
            cache.put(block, plain)
            assert cache.get(block) is None
        assert time.monotonic() - started_s < 0.5


class Readers:
    """Threads that read the same blocks repeatedly through a memcached tier, as a mount does."""

    def __init__(self, cache: MemcachedCache, blocks: list[Block], count: int = 6) -> None:
        self._tiers = TieredCache([MemoryCache(20_000), cache], metrics=Metrics())
        self._blocks = blocks
        self._ends = threading.Event()
        self.errors: list[object] = []
        self.hits = 0
        self.reads = 0
        self.longest_s = 0.0
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in range(count)]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _read(self, step: int) -> None:
        try:
            while not self._ends.is_set():
                step += 7
                block, plain = self._blocks[step % len(self._blocks)]
                started_s = time.monotonic()
                got = self._tiers.get(block)
                self.longest_s = max(self.longest_s, time.monotonic() - started_s)
                self.reads += 1
                if got is None:
                    self._tiers.put(block, plain)
                elif got == plain:
                    self.hits += 1
                else:
                    self.errors.append(block)
                self._ends.wait(0.001)
        except Exception as error:  # noqa: BLE001  (a cache must not raise)
            self.errors.append(error)

    def wait_for(self, hits: int = 0, reads: int = 0) -> None:
        """Wait for so many more hits and reads."""
        hits, reads = hits + self.hits, reads + self.reads
        until(lambda: self.hits >= hits and self.reads >= reads, 30)


def test_outages_of_a_real_server_under_readers(
    metrics: Metrics,
) -> None:
    blocks = [make_block(seed, 20_000 + 300_000 * (seed % 4 == 0)) for seed in range(40)]
    with (
        memcached() as server,
        closing(MemcachedCache([server.address], VOLUME, metrics=metrics, slow_s=0.05)) as cache,
        Readers(cache, blocks) as readers,
    ):
        readers.wait_for(hits=200)
        server.kill()
        readers.wait_for(reads=200)
        server.start()
        readers.wait_for(hits=200)
        server.pause()
        readers.wait_for(reads=300)
        server.resume()
        readers.wait_for(hits=200)
        server.restart()
        readers.wait_for(hits=200)
    assert readers.errors == []
    assert metrics.snapshot()["cache.servers.outages"] >= 3
    assert readers.longest_s < 2


def test_a_hanging_server_costs_a_few_milliseconds_a_read_on_average(metrics: Metrics) -> None:
    with memcached() as server, closing(MemcachedCache([server.address], VOLUME, metrics=metrics)) as cache:
        block, plain = make_block(1)
        until(lambda: cache.put(block, plain) or cache.get(block) == plain)
        server.pause()
        started_s = time.monotonic()
        for _ in range(100):
            assert cache.get(block) is None
        elapsed_s = time.monotonic() - started_s
        server.resume()
        assert elapsed_s / 100 < 0.003
        until(lambda: cache.get(block) == plain)
