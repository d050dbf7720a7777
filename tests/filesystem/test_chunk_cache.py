# SPDX-License-Identifier: GPL-3.0-or-later
"""What an open file has cached of its chunk list always agrees with the index."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.errors import BlockMissing
from cas3fs.filesystem.reading.chunk_cache import (
    LARGEST_WINDOWS,
    WINDOW_BYTES,
    WINDOW_SPANS,
    ChunkCache,
    NeighbourChunks,
)
from cas3fs.index import Index
from cas3fs.values import BlockHash, ChunkSpan, PackedBlock, StoredPack

FILE = 7
PACK = "00000001/" + "a" * 64


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "index.sqlite", create=True) as index:
        blocks = [PackedBlock(BlockHash(bytes([number] * 32)), number * 100, 100, WINDOW_BYTES) for number in range(9)]
        with index.operation():
            index.blocks.add_pack(StoredPack(PACK, 900, blocks), 1)
        index.commit()
        yield index


class Counted:
    """The spans of the file, and how often the index was asked for them."""

    def __init__(self, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self._ask = index.chunks.spans
        monkeypatch.setattr(index.chunks, "spans", self)

    def __call__(self, *question: int) -> list[ChunkSpan]:
        self.asked += 1
        return self._ask(*question)


def put(index: Index, start: int, *lengths: int, block: int = 1, file: int = FILE) -> None:
    """Puts chunks one behind the other, in place of what is there."""
    rows, place = [], start
    for length in lengths:
        rows.append((place, length, block, 0))
        place += length
    with index.operation():
        index.chunks.replace(file, start, place, rows)


@pytest.mark.parametrize("seed", range(8))
def test_the_cache_agrees_with_the_index_whatever_changes_or_is_undone(index: Index, seed: int) -> None:
    rnd = random.Random(seed)
    known = ChunkCache(index, FILE, NeighbourChunks(index))
    length = rnd.choice([1000, WINDOW_BYTES // 8, WINDOW_BYTES // 2, 2 * WINDOW_BYTES])
    reach = 40 * length
    for _ in range(40):
        for _ in range(rnd.randrange(12)):
            start = rnd.randrange(reach)
            end = start + rnd.randrange(1, 3 * length)
            assert known(start, end) == index.chunks.spans(FILE, start, end)
        match rnd.randrange(5):
            case 0:
                put(index, rnd.randrange(reach), *[length] * rnd.randrange(1, 100), block=rnd.randrange(1, 9))
            case 1:
                with index.operation():
                    index.chunks.truncate(FILE, rnd.randrange(reach))
            case 2:
                index.commit()
            case 3:
                index.rollback()
            case 4:
                with pytest.raises(ZeroDivisionError), index.operation():
                    index.chunks.truncate(FILE, rnd.randrange(reach))
                    known(0, reach)
                    known(0, length)
                    raise ZeroDivisionError


def test_a_random_reader_queries_the_index_once_for_many_places(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    put(index, 0, *[WINDOW_BYTES // 16] * 64)
    counted, known = Counted(index, monkeypatch), ChunkCache(index, FILE, NeighbourChunks(index))
    for number in range(1000):
        place = number * 7919 * 4096 % (4 * WINDOW_BYTES)
        (span,) = known(place, place + 4096)
        assert span.offset <= place < span.offset + span.length
    assert counted.asked <= 1 + 4


def test_the_same_question_twice_is_one(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    put(index, 0, 4096)
    counted, known = Counted(index, monkeypatch), ChunkCache(index, FILE, NeighbourChunks(index))
    assert known(0, 4096) == known(0, 4096)
    assert counted.asked == 1


def test_only_the_first_chunks_of_a_crowded_window_are_cached(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    put(index, 0, *[4096] * (2 * WINDOW_SPANS))
    counted, known = Counted(index, monkeypatch), ChunkCache(index, FILE, NeighbourChunks(index))
    known(0, 1)
    for number in range(WINDOW_SPANS):
        assert len(known(number * 4096, number * 4096 + 4096)) == 1
    assert counted.asked == 2
    assert len(known(WINDOW_SPANS * 4096, WINDOW_SPANS * 4096 + 4096)) == 1
    assert counted.asked == 3


def test_what_is_remembered_is_bounded(index: Index) -> None:
    known = ChunkCache(index, FILE, NeighbourChunks(index))
    for number in range(3 * LARGEST_WINDOWS):
        known(number * WINDOW_BYTES, number * WINDOW_BYTES + 1)
    assert len(known._windows) <= LARGEST_WINDOWS


def test_a_lost_block_is_an_error_of_its_range_only(index: Index) -> None:
    put(index, 0, 4096)
    put(index, 4096, 4096, block=5000)
    known = ChunkCache(index, FILE, NeighbourChunks(index))
    for _ in range(3):
        assert [span.offset for span in known(0, 4096)] == [0]
        assert [span.offset for span in known(0, 100)] == [0]
        with pytest.raises(BlockMissing):
            known(4000, 4097)


@pytest.mark.parametrize("seed", range(8))
def test_neighbours_agree_with_the_index_whatever_changes(index: Index, seed: int) -> None:
    rnd = random.Random(seed)
    neighbours = NeighbourChunks(index)
    files = range(FILE, FILE + 300)
    for _ in range(60):
        if rnd.randrange(3) == 0:
            first = rnd.choice(files)
            for file in range(first, min(first + 80, files.stop)):
                put(index, 0, *[1000] * rnd.choice([0, 1, 1, 1, 3, 200]), block=rnd.choice([1, 2, 5000]), file=file)
        first = rnd.choice(files)
        for file in range(first, min(first + rnd.randrange(1, 80), files.stop), rnd.choice([1, 1, 3])):
            known = ChunkCache(index, file, neighbours)
            start = rnd.randrange(1500)
            try:
                expected = index.chunks.spans(file, start, start + 2000)
            except BlockMissing:
                with pytest.raises(BlockMissing):
                    known(start, start + 2000)
            else:
                assert known(start, start + 2000) == known(start, start + 2000) == expected


def test_files_read_in_order_ask_the_index_for_many(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in range(FILE, FILE + 1000):
        put(index, 0, 4096, file=file)
    counted, neighbours = Counted(index, monkeypatch), NeighbourChunks(index)
    for file in range(FILE, FILE + 1000):
        (span,) = ChunkCache(index, file, neighbours)(0, 4096)
        assert span.length == 4096
    assert counted.asked <= 2
