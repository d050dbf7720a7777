# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds of every cache."""

import threading
from collections.abc import Callable

import pytest

from cas3fs.caches import BlockCache, DiskCache, MemoryCache, TieredCache, VerifiedCache
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash
from tests.caches.conftest import make_block


@pytest.fixture(params=["memory", "disk", "tiered", "verified"])
def cache(request: pytest.FixtureRequest, open_disk: Callable[..., DiskCache]) -> BlockCache:
    memory = MemoryCache(1 << 24)
    match request.param:
        case "disk":
            return open_disk()
        case "tiered":
            return TieredCache([memory, open_disk()], metrics=Metrics())
        case "verified":
            return VerifiedCache(memory)
    return memory


@pytest.mark.parametrize("length", [1, 4096, 32768, 32769, 300_000])
def test_what_was_put_is_given_back(cache: BlockCache, length: int) -> None:
    block, plain = make_block(1, length)
    cache.put(block, plain)
    assert cache.get(block) == plain
    assert cache.contains(block)


@pytest.mark.parametrize(
    ("skip", "length"), [(0, 1), (0, 100_000), (32767, 2), (32768, 32768), (99_999, 1), (5, 65536)]
)
def test_any_part_can_be_read(cache: BlockCache, skip: int, length: int) -> None:
    block, plain = make_block(2, 100_000)
    cache.put(block, plain)
    part = cache.get_part(block, skip, length)
    assert part is not None
    assert bytes(part) == plain[skip : skip + length]


def test_what_was_never_put_is_a_miss(cache: BlockCache) -> None:
    block, _ = make_block(3)
    assert cache.get(block) is None
    assert cache.get_part(block, 0, 10) is None
    assert not cache.contains(block)


def test_an_evicted_block_is_a_miss(cache: BlockCache) -> None:
    block, plain = make_block(4)
    cache.put(block, plain)
    cache.evict(block)
    cache.evict(block)
    assert cache.get(block) is None
    assert not cache.contains(block)


def test_a_mutable_buffer_is_copied(cache: BlockCache) -> None:
    block, plain = make_block(5)
    buffer = bytearray(plain)
    cache.put(block, memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert cache.get(block) == plain


def test_the_batch_forms_do_what_the_single_ones_do(cache: BlockCache) -> None:
    blocks: dict[BlockHash, bytes] = dict(make_block(seed) for seed in range(10))
    absent, _ = make_block(99)
    cache.put_many(dict(blocks))
    assert cache.get_many([*blocks, absent]) == blocks
    assert cache.contains_many([*blocks, absent]) == set(blocks)
    cache.evict_many(list(blocks)[:5])
    assert cache.contains_many(blocks) == set(list(blocks)[5:])


def test_size_grows_with_what_is_put_and_falls_with_what_is_evicted(cache: BlockCache) -> None:
    block, plain = make_block(6, 50_000)
    assert cache.size_bytes == 0
    cache.put(block, plain)
    assert cache.size_bytes >= 50_000
    cache.put(block, plain)
    assert cache.size_bytes < 150_000
    cache.evict(block)
    assert cache.size_bytes == 0


def test_closing_twice_is_harmless(cache: BlockCache) -> None:
    cache.close()
    cache.close()
    assert cache.get(make_block(7)[0]) is None


def test_many_threads_see_only_right_bytes(cache: BlockCache) -> None:
    blocks = [make_block(seed, 5000) for seed in range(8)]
    wrong: list[BlockHash] = []
    start = threading.Barrier(8)

    def work(offset: int) -> None:
        start.wait()
        for step in range(60):
            block, plain = blocks[(offset + step * 3) % len(blocks)]
            cache.put(block, plain)
            got = cache.get(block)
            part = cache.get_part(block, 1000, 500)
            if step % 7 == offset % 7:
                cache.evict(block)
            if got not in (None, plain) or (part is not None and bytes(part) != plain[1000:1500]):
                wrong.append(block)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
