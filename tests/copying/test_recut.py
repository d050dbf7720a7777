# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever chunks, holes and losses a file has, it has the same bytes when it is cut anew, and no others."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.blocks.chunkers import Chunker, FastCdcChunker, FixedChunker
from cas3fs.copying import recut
from cas3fs.copying.progress import CopyProgress
from cas3fs.copying.recut import FileCutter, parts_of
from cas3fs.copying.source import CopySource
from cas3fs.copying.target import CopyTarget
from cas3fs.errors import BlockMissing
from cas3fs.index import Index, IndexReader
from cas3fs.index.copying import chunks_in_order
from cas3fs.index.ledger import CopyLedger
from cas3fs.values import BlockHash, BlockLocation, Buffer, ChunkSpan, PackedBlock, StoredPack

from .conftest import noise

PART = 32 * 1024
UNIT = 512
PACK = "00000001/" + "a" * 64
CHUNKERS = {"fixed": FixedChunker(4096), "fixed-larger": FixedChunker(16384), "fastcdc": FastCdcChunker(4096)}
PLAIN = {number: noise(number, 60 * UNIT) for number in range(4)}
"""The blocks of the source; the last one is lost."""
LOST = 3
GAPS = st.sampled_from([0, 0, 0, 1, 3, 8, 70])
LONGEST = 8 * (70 + 40) * UNIT


def hash_of(plain: Buffer) -> BlockHash:
    return BlockHash(blake3(plain).digest())


class Reader:
    """Reads the blocks of the source."""

    def __init__(self) -> None:
        self.plain = {hash_of(plain): plain for number, plain in PLAIN.items() if number != LOST}

    def prefetch(self, blocks: Sequence[BlockLocation]) -> None:
        """Nothing is fetched ahead."""

    def read(self, block: BlockLocation, skip: int, length: int) -> bytes:
        if block.hash not in self.plain:
            raise BlockMissing("it is lost")
        return self.plain[block.hash][skip : skip + length]


class Source:
    """A source without a store."""

    is_encrypted = False

    def __init__(self) -> None:
        self.reader = Reader()

    def check_snapshot(self, snapshot_id: str) -> None:
        """It stays."""


class Target:
    """A destination whose packs are in memory."""

    is_encrypted = False

    def __init__(self, folder: Path, chunker: Chunker) -> None:
        self.chunker = chunker
        self.ledger = CopyLedger(folder / "ledger", "pair")
        self.plain: dict[BlockHash, bytes] = {}
        self.adds = 0

    def known(self, hashes: Sequence[BlockHash]) -> set[BlockHash]:
        return set(hashes) & set(self.plain)

    def add(self, plain: Buffer) -> BlockHash:
        block = hash_of(plain)
        self.plain[block] = bytes(plain)
        self.adds += 1
        return block

    def flush(self) -> None:
        """All is stored at once."""

    def lost_hash(self, block: BlockHash, *, same_hashes: bool) -> BlockHash:
        return block

    def pack(self) -> StoredPack:
        blocks = [PackedBlock(block, 32, 5, len(plain)) for block, plain in self.plain.items()]
        return StoredPack(f"00000001/{blake3(repr(sorted(self.plain)).encode()).hexdigest()}", 9, blocks)


@st.composite
def files(draw: st.DrawFn) -> dict[int, list[tuple[int, int, int, int]]]:
    """Chunks (offset, length, block, skip) of files: in units of half a KiB, so that bounds of all kinds coincide."""

    def chunks() -> list[tuple[int, int, int, int]]:
        position, found = 0, []
        for gap, length, block, skip in draw(
            st.lists(
                st.tuples(
                    st.sampled_from([0, 0, 0, 1, 3, 8, 70]),
                    st.integers(1, 40),
                    st.integers(0, LOST),
                    st.integers(0, 20),
                ),
                max_size=8,
            )
        ):
            position += gap * UNIT
            found.append((position, length * UNIT, block, skip * UNIT))
            position += length * UNIT
        return found

    return {inode: chunks() for inode in draw(st.sets(st.integers(2, 5)))}


def make_index(path: Path, held: dict[int, list[tuple[int, int, int, int]]]) -> None:
    Index.open(path, create=True).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO packs (id, name, size, born) VALUES (1, ?, 1, 1)", [PACK])
        for number, plain in PLAIN.items():
            database.execute("INSERT INTO blocks VALUES (?, ?, 1, 0, 5, ?)", [number + 1, hash_of(plain), len(plain)])
        for inode, chunks in held.items():
            row = [inode, sum(length for _, length, _, _ in chunks)]
            database.execute("INSERT INTO inodes VALUES (?, 33188, 0, 0, 1, 0, 0, ?, 1, 2, 3, 4, 5, 0, 0, 0)", row)
            for offset, length, block, skip in chunks:
                database.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", [inode, offset, length, block + 1, skip])


def content_of(spans: Sequence[ChunkSpan], plain: dict[BlockHash, bytes]) -> tuple[bytes, bytes]:
    """The bytes of a file, and a byte for each of them that says whether it is lost; without zeros at the end."""
    content, lost = bytearray(LONGEST), bytearray(LONGEST)
    for span in spans:
        piece = plain.get(span.block.hash)
        if piece is None:
            lost[span.offset : span.offset + span.length] = b"1" * span.length
        else:
            content[span.offset : span.offset + span.length] = piece[span.skip : span.skip + span.length]
    assert len(content) == len(lost) == LONGEST
    return bytes(content), bytes(lost)


def spans_by_inode(path: Path) -> dict[int, list[ChunkSpan]]:
    found: dict[int, list[ChunkSpan]] = {}
    for inode, span in chunks_in_order(path):
        found.setdefault(inode, []).append(span)
    return found


def cut(folder: Path, target: Target, source_index: Path) -> int:
    """Cuts the files of a snapshot into the copy in that folder; returns how many blocks are lost."""
    cutter = FileCutter(cast(CopySource, Source()), cast(CopyTarget, target), CopyProgress(lambda message: None))
    lost = cutter.store(source_index, "snapshot")
    target.ledger.commit()
    with Index.open(folder / "copy", create=True) as index:
        with index.operation():
            index.blocks.add_pack(target.pack(), 1)
        index.commit()
        tables = index.copying(source_index, folder / "ledger")
        tables.copy_names()
        cutter.set_chunks(tables, source_index)
    return lost


@pytest.mark.promise("a-copy-has-no-content-of-its-own")
@pytest.mark.parametrize("kind", CHUNKERS)
def test_files_that_are_cut_anew_have_the_same_bytes(kind: str) -> None:
    chunker = CHUNKERS[kind]

    @settings(max_examples=settings.default.max_examples // 2)
    @given(st.lists(files(), min_size=1, max_size=2))
    def holds(snapshots: list[dict[int, list[tuple[int, int, int, int]]]]) -> None:
        with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
            patch.setattr(recut, "PART_BYTES", PART)
            folder = Path(name)
            target = Target(folder, chunker)
            for number, held in enumerate(snapshots):
                make_index(folder / f"source-{number}", held)
                lost = cut(folder, target, folder / f"source-{number}")
                assert lost == any(block == LOST for chunks in held.values() for _, _, block, _ in chunks)
                check(folder, target, folder / f"source-{number}")
            target.ledger.close()

    def check(folder: Path, target: Target, source: Path) -> None:
        originals, copies = spans_by_inode(source), spans_by_inode(folder / "copy")
        assert originals.keys() == copies.keys()
        for inode, spans in originals.items():
            plain = {hash_of(one): one for number, one in PLAIN.items() if number != LOST}
            assert content_of(copies[inode], target.plain) == content_of(spans, plain)
            for span in copies[inode]:
                follows_loss = any(
                    other.offset + other.length == span.offset and other.block.hash == hash_of(PLAIN[LOST])
                    for other in copies[inode]
                )
                is_lost = span.block.hash == hash_of(PLAIN[LOST])
                assert is_lost or follows_loss or span.offset % chunker.alignment == 0
                assert is_lost or any(target.plain[span.block.hash]) or chunker.alignment > 1
        with IndexReader(folder / "copy") as reader:
            assert reader.checksum_mismatches() == 0

    holds()


def test_a_part_that_is_known_is_not_read_again(tmp_path: Path) -> None:
    make_index(tmp_path / "one", {5: [(0, 30 * UNIT, 0, 0), (30 * UNIT, 40 * UNIT, 1, 0)], 6: [(0, 30 * UNIT, 2, 5)]})
    make_index(
        tmp_path / "two", {7: [(0, 30 * UNIT, 0, 0), (30 * UNIT, 40 * UNIT, 1, 0)], 8: [(0, 30 * UNIT, 2, 6 * UNIT)]}
    )
    target = Target(tmp_path, CHUNKERS["fastcdc"])
    cut(tmp_path, target, tmp_path / "one")
    before = target.adds
    cut(tmp_path, target, tmp_path / "two")
    assert 0 < target.adds - before < before  # the renamed file is known, the other one has changed
    target.ledger.close()


def test_parts_end_at_multiples_of_a_gibibyte() -> None:
    place = BlockLocation(hash_of(b""), PACK, 0, 5, 1 << 24)
    spans = [ChunkSpan((1 << 30) - 100, 1000, 7, place), ChunkSpan((5 << 30) + 3, 10, 0, place)]
    parts = list(parts_of((9, span) for span in spans))
    assert [(part.inode, part.start) for part in parts] == [(9, 0), (9, 1 << 30), (9, 5 << 30)]
    pieces = [(span.offset, span.length, span.skip) for part in parts for span in part.spans]
    assert pieces == [((1 << 30) - 100, 100, 7), (1 << 30, 900, 107), ((5 << 30) + 3, 10, 0)]
