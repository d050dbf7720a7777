# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks are fetched together, and when a whole pack is fetched."""

from hypothesis import given
from hypothesis import strategies as st

from cas3fs.blockstore.pack_ranges import coalesce
from cas3fs.blockstore.whole_packs import NEAR_BYTES, SMALL_BLOCK_BYTES, WholePackPolicy
from cas3fs.values import BlockHash, BlockLocation


def location(offset: int, length: int, pack: str = "p", plain_length: int | None = None) -> BlockLocation:
    block = BlockHash(f"{pack}{offset}".encode().ljust(32, b"-"))
    return BlockLocation(block, pack, offset, length, length if plain_length is None else plain_length)


def test_neighbours_are_one_range_in_any_order() -> None:
    blocks = [location(200, 100), location(0, 100), location(100, 100)]
    (each,) = coalesce(blocks)
    assert (each.start, each.length, each.blocks) == (0, 300, (blocks[1], blocks[2], blocks[0]))


def test_a_small_gap_is_fetched_along_and_a_large_one_is_not() -> None:
    blocks = [location(0, 100), location(150, 100), location(1000, 100)]
    ranges = coalesce(blocks, gap_bytes=50)
    assert [(each.start, each.length) for each in ranges] == [(0, 250), (1000, 100)]


def test_the_range_of_the_first_block_comes_first() -> None:
    ranges = coalesce([location(0, 10, "z"), location(0, 10, "a"), location(10, 10, "z")])
    assert [each.pack for each in ranges] == ["z", "a"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=40),
    st.integers(0, 300),
    st.integers(1, 2000),
)
def test_every_block_is_in_one_range_and_none_is_too_long(
    places: list[tuple[str, int]], gap_bytes: int, range_bytes: int
) -> None:
    blocks = [location(place * 100, 20 + 2 * place, pack, 19 + place * (place % 3)) for pack, place in places]
    ranges = coalesce(blocks, gap_bytes=gap_bytes, range_bytes=range_bytes)
    covered = [block for each in ranges for block in each.blocks]
    assert sorted(covered) == sorted(set(blocks))
    for each in ranges:
        assert each.length <= range_bytes or len(each.blocks) == 1
        assert each.start == each.blocks[0].offset
        assert each.start + each.length == max(block.offset + block.stored_length for block in each.blocks)
        assert {block.pack for block in each.blocks} == {each.pack}


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from([-1, 0, 50])), max_size=40))
def test_a_range_is_split_into_blocks_and_gaps(places: list[tuple[int, int]]) -> None:
    blocks = [location(place * 100, 20 + 2 * place, "p", 20 + 2 * place + more) for place, more in places]
    for each in coalesce(blocks, gap_bytes=300):
        position, found = each.start, []
        for length, block in each.pieces():
            position += length
            if block is not None:
                found.append(block)
                is_plain = block.plain_length == block.stored_length - 1
                assert (position, length) == (block.offset + block.stored_length, block.stored_length - is_plain)
        assert position == each.start + each.length
        assert tuple(found) == each.blocks


def test_a_second_small_miss_nearby_selects_the_whole_pack() -> None:
    """After that, counting starts again."""
    policy = WholePackPolicy()
    assert not policy.record_miss(location(0, 4096))
    assert policy.record_miss(location(8192, 4096))
    assert not policy.record_miss(location(20_000, 4096))


def test_scattered_misses_select_the_pack_only_at_the_eighth() -> None:
    policy = WholePackPolicy()
    selected = [policy.record_miss(location(place * 2 * NEAR_BYTES, 4096)) for place in range(8)]
    assert selected == [False] * 7 + [True]


def test_large_blocks_never_select_the_pack() -> None:
    policy = WholePackPolicy()
    assert not any(policy.record_miss(location(place, 500, plain_length=SMALL_BLOCK_BYTES + 1)) for place in range(20))


def test_misses_count_by_pack_and_old_packs_are_dropped() -> None:
    policy = WholePackPolicy()
    assert not any(policy.record_miss(location(0, 100, f"pack{number}")) for number in range(100))
    assert policy.record_miss(location(0, 100, "pack99"))
    assert not policy.record_miss(location(0, 100, "pack0"))
