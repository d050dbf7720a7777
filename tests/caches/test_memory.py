# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory cache."""

from hypothesis import given
from hypothesis import strategies as st

from cas3fs.caches import MemoryCache
from cas3fs.caches.memory import ENTRY_OVERHEAD_BYTES
from tests.caches.conftest import make_block

ENTRY_BYTES = 1000 + ENTRY_OVERHEAD_BYTES


def test_the_least_recently_used_block_goes_first() -> None:
    cache = MemoryCache(3 * ENTRY_BYTES)
    blocks = [make_block(seed, 1000) for seed in range(4)]
    for block, plain in blocks[:3]:
        cache.put(block, plain)
    assert cache.get(blocks[0][0]) is not None
    cache.put(*blocks[3])
    assert [cache.contains(block) for block, _ in blocks] == [True, False, True, True]


def test_contains_does_not_count_as_a_use() -> None:
    cache = MemoryCache(2 * ENTRY_BYTES)
    blocks = [make_block(seed, 1000) for seed in range(3)]
    cache.put(*blocks[0])
    cache.put(*blocks[1])
    assert cache.contains(blocks[0][0])
    cache.put(*blocks[2])
    assert not cache.contains(blocks[0][0])


def test_a_block_over_the_limit_is_not_stored_and_evicts_nothing() -> None:
    cache = MemoryCache(2 * ENTRY_BYTES)
    small, big = make_block(1, 1000), make_block(2, 3 * ENTRY_BYTES)
    cache.put(*small)
    cache.put(*big)
    assert cache.contains(small[0])
    assert not cache.contains(big[0])


def test_a_hit_copies_nothing() -> None:
    cache = MemoryCache(1 << 20)
    block, plain = make_block(1)
    cache.put(block, plain)
    assert cache.get(block) is plain
    part = cache.get_part(block, 10, 20)
    assert isinstance(part, memoryview)
    assert part.obj is plain


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3000), st.sampled_from(["put", "get", "evict"])), max_size=60)
)
def test_the_size_is_the_sum_of_all_entries_and_within_the_limit(steps: list[tuple[int, int, str]]) -> None:
    cache = MemoryCache(10_000)
    lengths = {}
    for seed, length, step in steps:
        block, plain = make_block(seed, 0)[0][:-1] + bytes([seed]), bytes(length)
        if step == "put":
            cache.put(block, plain)  # type: ignore[arg-type]
            lengths[block] = length if length + ENTRY_OVERHEAD_BYTES <= 10_000 else lengths.get(block, 0)
        elif step == "get":
            cache.get(block)  # type: ignore[arg-type]
        else:
            cache.evict(block)  # type: ignore[arg-type]
        held = [length for block, length in lengths.items() if cache.contains(block)]  # type: ignore[arg-type]
        assert cache.size_bytes == sum(held) + len(held) * ENTRY_OVERHEAD_BYTES <= 10_000
