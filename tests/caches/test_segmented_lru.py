# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks a disk cache keeps, and which go."""

from hypothesis import given
from hypothesis import strategies as st

from cas3fs.caches.segmented_lru import SegmentedLru
from cas3fs.values import BlockHash


def key(number: int) -> BlockHash:
    return BlockHash(number.to_bytes(32, "big"))


def write(ledger: SegmentedLru, number: int, size: int) -> list[BlockHash] | None:
    victims = ledger.book(key(number), size)
    if victims is not None:
        ledger.enter(key(number), size)
    return victims


def test_one_pass_over_many_blocks_leaves_those_that_are_used_again() -> None:
    ledger = SegmentedLru(100, 1000)
    for number in range(50):
        write(ledger, number, 1)
    for number in range(30):
        assert ledger.used(key(number))
    for number in range(1000, 3000):
        write(ledger, number, 1)
    assert all(key(number) in ledger for number in range(30))


def test_repeated_reads_of_a_block_just_written_are_one_use() -> None:
    ledger = SegmentedLru(800, 1000)
    for number in range(2000):
        write(ledger, number, 10)
        for _ in range(8):
            ledger.used(key(number))
    assert key(0) not in ledger
    write(ledger, 5000, 10)
    assert key(1999) in ledger


def test_the_longest_unused_goes_first() -> None:
    ledger = SegmentedLru(10, 1000)
    for number in range(10):
        write(ledger, number, 1)
    assert write(ledger, 100, 2) == [key(0), key(1)]


def test_what_is_being_written_is_never_chosen_to_go() -> None:
    ledger = SegmentedLru(10, 1000)
    assert ledger.book(key(1), 6) == []
    assert ledger.book(key(2), 6) is None
    assert ledger.book(key(3), 4) == []
    ledger.enter(key(3), 4)
    assert ledger.book(key(4), 4) == [key(3)]
    assert key(1) in ledger


def test_files_found_at_start_go_before_what_was_used_since() -> None:
    ledger = SegmentedLru(10, 1000)
    for number in range(4):
        write(ledger, number, 1)
    assert ledger.adopt((key(number), 1) for number in range(100, 108)) == [key(100), key(101)]
    assert ledger.size_bytes == 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "book", "used", "forget", "meet", "release"]),
            st.integers(0, 15),
            st.integers(1, 40),
        ),
        max_size=80,
    )
)
def test_sizes_add_up_and_stay_within_both_limits(steps: list[tuple[str, int, int]]) -> None:
    ledger = SegmentedLru(100, 8)
    held: dict[BlockHash, int] = {}
    for step, number, size in steps:
        victims: list[BlockHash] | None = []
        if step in ("write", "book"):
            victims = ledger.book(key(number), size)
            if victims is not None and step == "write":
                ledger.enter(key(number), size)
                held[key(number)] = size
            elif victims is not None:
                ledger.cancel(key(number))
        elif step == "used":
            assert ledger.used(key(number)) == (key(number) in held)
        elif step == "forget":
            ledger.forget(key(number))
            held.pop(key(number), None)
        elif step == "meet":
            held.setdefault(key(number), size)
            victims = ledger.meet(key(number), size)
        else:
            victims = ledger.release(size)
        for victim in victims or ():
            del held[victim]
        assert ledger.size_bytes == sum(held.values()) <= 100
        assert len(ledger) == len(held) <= 8
