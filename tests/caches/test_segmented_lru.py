# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks the segmented LRU keeps, and which it evicts."""

from hypothesis import given
from hypothesis import strategies as st

from cas3fs.caches.segmented_lru import SegmentedLru
from cas3fs.values import BlockHash


def key(number: int) -> BlockHash:
    return BlockHash(number.to_bytes(32, "big"))


def write(lru: SegmentedLru, number: int, size: int) -> list[BlockHash] | None:
    evicted = lru.reserve(key(number), size)
    if evicted is not None:
        lru.commit(key(number), size)
    return evicted


def test_one_pass_over_many_blocks_does_not_evict_blocks_with_hits() -> None:
    lru = SegmentedLru(100, 1000)
    for number in range(50):
        write(lru, number, 1)
    for number in range(30):
        assert lru.record_hit(key(number))
    for number in range(1000, 3000):
        write(lru, number, 1)
    assert all(key(number) in lru for number in range(30))


def test_hits_in_the_window_do_not_protect() -> None:
    lru = SegmentedLru(800, 1000)
    for number in range(2000):
        write(lru, number, 10)
        for _ in range(8):
            lru.record_hit(key(number))
    assert key(0) not in lru
    write(lru, 5000, 10)
    assert key(1999) in lru


def test_the_least_recently_used_block_is_evicted_first() -> None:
    lru = SegmentedLru(10, 1000)
    for number in range(10):
        write(lru, number, 1)
    assert write(lru, 100, 2) == [key(0), key(1)]


def test_a_reserved_block_is_not_evicted() -> None:
    lru = SegmentedLru(10, 1000)
    assert lru.reserve(key(1), 6) == []
    assert lru.reserve(key(2), 6) is None
    assert lru.reserve(key(3), 4) == []
    lru.commit(key(3), 4)
    assert lru.reserve(key(4), 4) == [key(3)]
    assert key(1) in lru


def test_files_of_an_earlier_run_are_evicted_before_blocks_of_this_run() -> None:
    lru = SegmentedLru(10, 1000)
    for number in range(4):
        write(lru, number, 1)
    assert lru.add_existing((key(number), 1) for number in range(100, 108)) == [key(100), key(101)]
    assert lru.size_bytes == 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "reserve", "hit", "discard", "found", "shrink"]),
            st.integers(0, 15),
            st.integers(1, 40),
        ),
        max_size=80,
    )
)
def test_sizes_add_up_and_stay_within_both_limits(steps: list[tuple[str, int, int]]) -> None:
    lru = SegmentedLru(100, 8)
    held: dict[BlockHash, int] = {}
    for step, number, size in steps:
        evicted: list[BlockHash] | None = []
        if step in ("write", "reserve"):
            evicted = lru.reserve(key(number), size)
            if evicted is not None and step == "write":
                lru.commit(key(number), size)
                held[key(number)] = size
            elif evicted is not None:
                lru.cancel(key(number))
        elif step == "hit":
            assert lru.record_hit(key(number)) == (key(number) in held)
        elif step == "discard":
            lru.discard(key(number))
            held.pop(key(number), None)
        elif step == "found":
            held.setdefault(key(number), size)
            evicted = lru.add_found(key(number), size)
        else:
            evicted = lru.shrink_by(size)
        for block in evicted or ():
            del held[block]
        assert lru.size_bytes == sum(held.values()) <= 100
        assert len(lru) == len(held) <= 8
