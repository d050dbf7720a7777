# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunkers."""

import random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.blocks.chunkers import CHUNKERS, Chunker, make_chunker
from cas3fs.cli.mkfs import mkfs
from cas3fs.errors import UsageError

SMALL = 4096
NOISE = random.Random(7).randbytes(300_000)


def cut_in_pieces(chunker: Chunker, data: bytes, sizes: list[int]) -> list[int]:
    """Cut `data` in pieces of `sizes` (repeated), each with the rest of the previous one."""
    lengths: list[int] = []
    start = end = turn = 0
    while end < len(data):
        end = min(end + sizes[turn % len(sizes)], len(data))
        turn += 1
        certain = chunker.cut(memoryview(data)[start:end], final=False)
        lengths += certain
        start += sum(certain)
    return lengths + chunker.cut(memoryview(data)[start:], final=True)


@pytest.mark.parametrize("name", CHUNKERS)
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(0, 90_000),
    sizes=st.lists(st.integers(1, 50_000), min_size=1, max_size=6),
    zeros=st.booleans(),
)
@settings(max_examples=settings.default.max_examples // 2)
def test_cutting_in_pieces_equals_cutting_at_once(
    name: str, seed: int, length: int, sizes: list[int], zeros: bool
) -> None:
    data = bytes(length) if zeros else random.Random(seed).randbytes(length)
    sizes = [max(size, length // 50) for size in sizes]
    chunker = make_chunker(name, SMALL)
    assert cut_in_pieces(chunker, data, sizes or [1]) == chunker.cut(data, final=True)


@pytest.mark.parametrize("name", CHUNKERS)
@given(length=st.integers(0, 100_000), more=st.integers(0, 30_000))
@settings(max_examples=settings.default.max_examples // 2)
def test_certain_cuts_do_not_depend_on_what_follows(name: str, length: int, more: int) -> None:
    chunker = make_chunker(name, SMALL)
    certain = chunker.cut(NOISE[:length], final=False)
    assert chunker.cut(NOISE[: length + more], final=True)[: len(certain)] == certain


@pytest.mark.parametrize("name", CHUNKERS)
@given(length=st.integers(0, 120_000))
@settings(max_examples=settings.default.max_examples // 2)
def test_lengths_are_within_bounds_and_sum_up(name: str, length: int) -> None:
    chunker = make_chunker(name, SMALL)
    lengths = chunker.cut(NOISE[:length], final=True)
    assert sum(lengths) == length
    assert all(chunker.min_size <= one <= chunker.max_size for one in lengths[:-1])
    assert all(0 < one <= chunker.max_size for one in lengths[-1:])
    assert sum(chunker.cut(NOISE[:length], final=False)) <= length


@pytest.mark.parametrize("name", CHUNKERS)
def test_cutting_again_from_an_old_chunks_start_finds_the_old_cuts(name: str) -> None:
    chunker = make_chunker(name, SMALL)
    lengths = chunker.cut(NOISE, final=True)
    start = sum(lengths[:5])
    assert chunker.cut(NOISE[start:], final=True) == lengths[5:]


@pytest.mark.parametrize("name", CHUNKERS)
def test_zeros_of_exactly_the_longest_chunk_are_certain(name: str) -> None:
    chunker = make_chunker(name, SMALL)
    assert chunker.cut(bytes(chunker.max_size), final=False) == [chunker.max_size]
    assert chunker.cut(bytes(chunker.max_size - 1), final=False) == []


def test_an_inserted_byte_changes_only_the_first_chunks() -> None:
    chunker = make_chunker("fastcdc", SMALL)

    def blocks(data: bytes) -> set[bytes]:
        start, found = 0, set()
        for length in chunker.cut(data, final=True):
            found.add(blake3(data[start : start + length]).digest())
            start += length
        return found

    assert len(blocks(b"x" + NOISE) - blocks(NOISE)) <= 2


def test_the_cuts_of_fastcdc_never_change() -> None:
    """With another version of the library that cuts elsewhere nothing would be deduplicated."""
    sample = b"".join(blake3(number.to_bytes(4, "big")).digest(length=4096) for number in range(20))
    lengths = make_chunker("fastcdc", SMALL).cut(sample, final=True)
    assert lengths == [4420, 7592, 4888, 4692, 6257, 3945, 6322, 11663, 1499, 3081, 3534, 5645, 7320, 3761, 6355, 946]


def test_fixed_cuts_at_multiples_of_the_block_size() -> None:
    chunker = make_chunker("fixed", SMALL)
    assert chunker.cut(bytes(10_000), final=True) == [4096, 4096, 1808]
    assert chunker.cut(bytes(10_000), final=False) == [4096, 4096]
    assert (chunker.alignment, chunker.min_size, chunker.max_size) == (4096, 4096, 4096)


def test_the_command_that_makes_a_volume_offers_every_chunker() -> None:
    (option,) = (one for one in mkfs.params if one.name == "chunker")
    assert tuple(option.type.choices) == tuple(CHUNKERS)  # type: ignore[attr-defined]


def test_fastcdc_cuts_between_a_quarter_and_four_times_the_average() -> None:
    chunker = make_chunker("fastcdc", 1024 * 1024)
    assert (chunker.alignment, chunker.min_size, chunker.max_size) == (1, 256 * 1024, 4 * 1024 * 1024)


@pytest.mark.parametrize(
    ("name", "size"), [("rabin", SMALL), ("fastcdc", 2048), ("fastcdc", 5000), ("fastcdc", 2**23), ("fixed", 2**25)]
)
def test_an_unknown_chunker_or_invalid_size_is_refused(name: str, size: int) -> None:
    with pytest.raises(UsageError):
        make_chunker(name, size)
