# SPDX-License-Identifier: GPL-3.0-or-later
"""Several caches as one, and caches whose blocks are checked."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cas3fs.caches import MemoryCache, TieredCache, VerifyingCache, ensure_verified
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash
from tests.caches.conftest import make_block


class Unverified(MemoryCache):
    """Does not verify its blocks."""

    name = "unverified"
    verifies = False


class Slow(MemoryCache):
    """Blocks until it may answer; counts its reads."""

    name = "slow"

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.reads = 0
        self.was_read = threading.Event()
        self.may_answer = threading.Event()

    def get(self, block: BlockHash) -> bytes | None:
        self.reads += 1
        self.was_read.set()
        assert self.may_answer.wait(30)
        return super().get(block)


def test_a_block_found_in_a_slower_tier_fills_the_faster_ones(metrics: Metrics) -> None:
    tiers = [MemoryCache(1 << 20) for _ in range(3)]
    block, plain = make_block(1)
    tiers[2].put(block, plain)
    part = TieredCache(tiers, metrics=metrics).get_part(block, 10, 5)
    assert part is not None
    assert bytes(part) == plain[10:15]
    assert [tier.contains(block) for tier in tiers] == [True, True, True]


def test_hits_and_misses_are_counted_by_tier(metrics: Metrics) -> None:
    fast, slow = MemoryCache(1 << 20), Unverified(1 << 20)
    cache = TieredCache([fast, slow], metrics=metrics)
    block, plain = make_block(1)
    slow.put(block, plain)
    cache.get(block)
    cache.get(block)
    cache.get(make_block(2)[0])
    counted = metrics.snapshot()
    assert (counted["cache.memory.hits"], counted["cache.memory.misses"]) == (1, 2)
    assert (counted["cache.unverified.hits"], counted["cache.unverified.misses"]) == (1, 1)


@pytest.mark.parametrize("there", [True, False])
def test_concurrent_reads_of_a_block_read_a_slower_tier_once(metrics: Metrics, there: bool) -> None:
    fast, slow = MemoryCache(1 << 20), Slow()
    cache = TieredCache([fast, slow], metrics=metrics)
    block, plain = make_block(1)
    if there:
        slow.put(block, plain)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.get, block)
        assert slow.was_read.wait(30)
        others = [pool.submit(cache.get, block) for _ in range(7)]
        while metrics.snapshot()["cache.memory.misses"] < 8:
            threading.Event().wait(0.001)
        slow.may_answer.set()
        answers = [answer.result(30) for answer in [first, *others]]
    assert answers == [plain if there else None] * 8
    assert slow.reads == 1 if there else slow.reads >= 1


def test_corrupt_bytes_of_an_unverified_cache_are_a_miss_and_are_evicted(metrics: Metrics) -> None:
    unverified = Unverified(1 << 20)
    block, plain = make_block(1)
    unverified.put(block, plain[:-1] + bytes([plain[-1] ^ 1]))
    cache = TieredCache([unverified], metrics=metrics)
    assert cache.get_part(block, 0, 10) is None
    assert not unverified.contains(block)


def test_only_unverified_caches_are_wrapped() -> None:
    assert isinstance(ensure_verified(Unverified(1000)), VerifyingCache)
    assert isinstance(ensure_verified(MemoryCache(1000)), MemoryCache)


def test_a_batch_of_an_unverified_cache_is_checked_too() -> None:
    unverified = Unverified(1 << 20)
    good, bad = make_block(1), make_block(2)
    unverified.put_many({good[0]: good[1], bad[0]: good[1]})
    assert ensure_verified(unverified).get_many([good[0], bad[0]]) == {good[0]: good[1]}
