# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunk lists, against a model of the file's bytes."""

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.errors import BlockMissing
from cas3fs.index import Index, InodeRow
from cas3fs.values import ChunkSpan
from tests.index.conftest import add_file, make_pack

LIMIT = 60
BLOCKS = 4

Change = tuple[str, int, int, list[int]]


@pytest.fixture(scope="module")
def shared() -> Iterator[Index]:
    """One index for all examples; each takes an inode of its own."""
    with tempfile.TemporaryDirectory() as folder, Index.open(Path(folder) / "index.sqlite", create=True) as index:
        index.blocks.add_pack(make_pack("00000001/a", BLOCKS), 0)
        yield index


def changes() -> st.SearchStrategy[list[Change]]:
    place = st.integers(0, LIMIT)
    return st.lists(st.tuples(st.sampled_from(["replace", "truncate"]), place, place, st.lists(place, max_size=6)))


def fill(start: int, end: int, cuts: list[int]) -> list[tuple[int, int, int, int]]:
    """Chunks within [start, end), with a hole behind every second one, each of another block and skip."""
    edges = sorted({start, end, *(cut for cut in cuts if start < cut < end)})
    pairs = pairwise(edges)
    return [(a, b - a, 1 + a % BLOCKS, a * 3) for number, (a, b) in enumerate(pairs) if number % 2 == 0]


class Model:
    """For every byte of a file: which byte of which block it is; and where rows begin."""

    def __init__(self) -> None:
        self.bytes: list[tuple[int, int] | None] = [None] * LIMIT
        self.rows: dict[int, int] = {}

    def replace(self, start: int, end: int, new: list[tuple[int, int, int, int]]) -> None:
        for offset, length in list(self.rows.items()):
            if offset < end < offset + length:
                self.rows[end] = offset + length - end
        for offset, length in list(self.rows.items()):
            if start <= offset < end:
                del self.rows[offset]
            elif offset < start < offset + length:
                self.rows[offset] = start - offset
        self.bytes[start:end] = [None] * (end - start)
        for offset, length, block, skip in new:
            self.rows[offset] = length
            self.bytes[offset : offset + length] = [(block, skip + n) for n in range(length)]

    def truncate(self, size: int) -> None:
        self.rows = {offset: length for offset, length in self.rows.items() if offset < size}
        self.bytes[size:] = [None] * (LIMIT - size)
        self._cut_before(size)

    def _cut_before(self, place: int) -> None:
        for offset, length in self.rows.items():
            if offset < place < offset + length:
                self.rows[offset] = place - offset
                self.bytes[place : offset + length] = [None] * (offset + length - place)


def bytes_of(spans: list[ChunkSpan], ids: dict[bytes, int]) -> list[tuple[int, int] | None]:
    content: list[tuple[int, int] | None] = [None] * LIMIT
    for span in spans:
        for n in range(span.length):
            assert content[span.offset + n] is None, "chunks overlap"
            content[span.offset + n] = (ids[span.block.hash], span.skip + n)
    return content


@given(changes())
def test_chunks_are_what_was_put_and_cut(shared: Index, steps: list[Change]) -> None:
    inode, model = add_file(shared), Model()
    for kind, one, other, cuts in steps:
        start, end = sorted((one, other))
        if kind == "truncate":
            shared.chunks.truncate(inode, one)
            model.truncate(one)
        else:
            new = fill(start, end, cuts)
            shared.chunks.replace(inode, start, end, new)
            model.replace(start, end, new)
    spans = shared.chunks.spans(inode, 0, LIMIT)
    ids = shared.blocks.find([span.block.hash for span in spans])
    assert bytes_of(spans, ids) == model.bytes
    assert shared.chunks.bounds(inode, 0, LIMIT) == sorted(model.rows.items())
    for start, end in [(0, 1), (LIMIT // 3, LIMIT // 2), (LIMIT - 1, LIMIT)]:
        expected = [span for span in spans if span.offset < end and span.offset + span.length > start]
        assert shared.chunks.spans(inode, start, end) == expected


def test_a_span_says_where_its_block_lies(index: Index) -> None:
    pack = make_pack("00000007/abc", 2, plain_length=500)
    index.blocks.add_pack(pack, 0)
    number = add_file(index)
    index.chunks.replace(number, 0, 100, [(0, 100, index.blocks.find([pack.blocks[1].hash])[pack.blocks[1].hash], 17)])
    (span,) = index.chunks.spans(number, 50, 51)
    assert (span.offset, span.length, span.skip) == (0, 100, 17)
    assert span.block == (pack.blocks[1].hash, "00000007/abc", 100, 100, 500)


def test_chunks_of_other_files_are_not_touched(index: Index) -> None:
    index.blocks.add_pack(make_pack("00000001/a", 1), 0)
    numbers = [add_file(index) for _ in range(3)]
    for number in numbers:
        index.chunks.replace(number, 0, 100, [(0, 100, 1, 0)])
    index.chunks.replace(numbers[1], 0, 50, [])
    index.chunks.truncate(numbers[1], 0)
    assert [index.chunks.bounds(number, 0, 100) for number in numbers] == [[(0, 100)], [], [(0, 100)]]


def test_a_file_may_reach_to_the_last_offset(index: Index) -> None:
    index.blocks.add_pack(make_pack("00000001/a", 1), 0)
    number, last = add_file(index), 2**63 - 1
    index.chunks.replace(number, last - 10, last, [(last - 10, 10, 1, 0)])
    assert index.chunks.bounds(number, last - 1, last) == [(last - 10, 10)]
    index.chunks.truncate(number, last - 5)
    assert index.chunks.bounds(number, 0, last) == [(last - 10, 5)]


def test_storing_sets_size_times_and_sequence_together(index: Index) -> None:
    number = add_file(index)
    before = InodeRow(*index.namespace.inode(number))
    index.chunks.stored(number, 5, 6, 7, 8)
    assert index.namespace.inode(number) == before._replace(size=5, mtime_ns=6, ctime_ns=7, stored_seq=8)


def test_finding_a_chunk_in_a_long_file_reads_no_others(index: Index) -> None:
    index.blocks.add_pack(make_pack("00000001/a", 1), 0)
    number = add_file(index)
    index.chunks.replace(number, 0, 1 << 40, [(n << 20, 1 << 20, 1, 0) for n in range(20_000)])
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    index._database.connection.set_progress_handler(count, 100)
    assert [span.offset for span in index.chunks.spans(number, 15_000 << 20, (15_000 << 20) + 1)] == [15_000 << 20]
    assert steps < 3, "the statement walked through the chunk list"


def test_missing_blocks_are_an_error_and_no_hole(index: Index) -> None:
    number = add_file(index)
    index.chunks.replace(number, 0, 10, [(0, 10, 999, 0)])
    with pytest.raises(BlockMissing, match=f"inode {number}"):
        index.chunks.spans(number, 0, 10)
    assert (index.chunks.spans(number, 10, 20), index.chunks.bounds(number, 0, 10)) == ([], [(0, 10)])
