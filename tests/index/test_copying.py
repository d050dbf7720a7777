# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever an index held before, it is made to hold the files of another one, over ranges of any length."""

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.index import Index, IndexReader, copying
from cas3fs.index.copying import chunks_in_order, differing_tables, unplaced_chunks
from cas3fs.index.ledger import CopyLedger
from cas3fs.values import BlockHash, PackedBlock, StoredPack

PAIR = "source copy"
PACK = "00000001/" + "a" * 64
NUMBERS = st.integers(2, 12)


def hash_of(number: int) -> BlockHash:
    return BlockHash(bytes([number]) * 32)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """The rows of an index."""
    inodes = draw(st.dictionaries(NUMBERS, st.tuples(st.sampled_from([0o100644, 0o40755]), st.integers(0, 3))))
    names = draw(st.dictionaries(st.tuples(st.integers(1, 3), st.sampled_from([b"a", b"b", b"c", b"\xff"])), NUMBERS))
    ids = draw(st.permutations(range(1, len(names) + 4)))
    return {
        "inodes": inodes,
        "dentries": {ids[place]: (*name, names[name]) for place, name in enumerate(names)},
        "symlinks": draw(st.dictionaries(NUMBERS, st.sampled_from([b"x", b"y"]))),
        "xattrs": draw(
            st.dictionaries(st.tuples(NUMBERS, st.sampled_from([b"user.a", b"user.b"])), st.binary(max_size=2))
        ),
        "chunks": draw(
            st.dictionaries(
                st.tuples(NUMBERS, st.integers(0, 5).map(lambda place: place * 10)),
                st.tuples(st.integers(1, 10), st.integers(1, 6), st.integers(0, 3)),
                max_size=20,
            )
        ),
    }


def make(path: Path, held: dict[str, Any], first_block: int) -> None:
    """An index with these rows, whose blocks have numbers from `first_block` on, in any order."""
    Index.open(path, create=True).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO packs (id, name, size, born) VALUES (1, ?, 1, 1)", [PACK])
        for number in range(1, 7):
            row = [first_block + number * 5 % 7, hash_of(number)]
            database.execute("INSERT INTO blocks VALUES (?, ?, 1, 0, 5, 20)", row)
        for number, (mode, size) in held["inodes"].items():
            database.execute(
                "INSERT INTO inodes VALUES (?, ?, 0, 0, 1, 0, 0, ?, 1, 2, 3, 4, 5, 0, 0, 0)", [number, mode, size]
            )
        for number, row in held["dentries"].items():
            database.execute("INSERT INTO dentries VALUES (?, ?, ?, ?)", [number, *row])
        for number, target in held["symlinks"].items():
            database.execute("INSERT INTO symlinks VALUES (?, ?)", [number, target])
        for key, value in held["xattrs"].items():
            database.execute("INSERT INTO xattrs VALUES (?, ?, ?)", [*key, value])
        for (inode, offset), (length, block, skip) in held["chunks"].items():
            row = [inode, offset, length, first_block + block * 5 % 7, skip]
            database.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", row)


def chunks_of(path: Path) -> list[Any]:
    return [(inode, span.offset, span.length, span.skip, span.block.hash) for inode, span in chunks_in_order(path)]


def copied(folder: Path, source: dict[str, Any], before: dict[str, Any]) -> Index:
    """A copy of an index with the rows `source`, made of one with the rows `before`."""
    make(folder / "source", source, 100)
    make(folder / "copy", before, 1)
    with CopyLedger(folder / "ledger", PAIR) as ledger:
        ledger.add_blocks((hash_of(number), hash_of(number)) for number in range(1, 7))
        ledger.commit()
    index = Index.open(folder / "copy")
    tables = index.copying(folder / "source", folder / "ledger")
    tables.copy_names()
    tables.copy_chunks()
    assert (tables.differing_tables(), tables.has_all_chunks()) == ([], True)
    return index


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_a_copy_is_like_its_source_whatever_it_held(rows: int) -> None:
    @settings(max_examples=settings.default.max_examples // 3)
    @given(contents(), contents())
    def holds(source: dict[str, Any], before: dict[str, Any]) -> None:
        with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
            patch.setattr(copying, "RANGE_ROWS", rows)
            folder = Path(name)
            copied(folder, source, before).close()
            assert differing_tables(folder / "copy", folder / "source") == []
            assert chunks_of(folder / "copy") == chunks_of(folder / "source")
            with IndexReader(folder / "copy") as reader:
                assert reader.checksum_mismatches(1) <= len(
                    {inode for inode, _ in source["chunks"]} - set(source["inodes"])
                )

    holds()


EMPTY: dict[str, Any] = {name: {} for name in ("inodes", "dentries", "symlinks", "xattrs", "chunks")}


def test_numbers_of_inodes_and_names_go_on_from_those_of_the_source(tmp_path: Path) -> None:
    make(tmp_path / "source", EMPTY, 100)
    make(tmp_path / "copy", EMPTY, 1)
    with closing(sqlite3.connect(tmp_path / "source")) as database, database:
        database.execute("INSERT INTO inodes VALUES (900, 33188, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0)")
        database.execute("INSERT INTO dentries VALUES (700, 1, x'61', 900)")
        database.execute("DELETE FROM inodes WHERE id = 900")
        database.execute("DELETE FROM dentries")
    CopyLedger(tmp_path / "ledger", PAIR).close()
    with Index.open(tmp_path / "copy") as index:
        index.copying(tmp_path / "source", tmp_path / "ledger").copy_names()
    with closing(sqlite3.connect(tmp_path / "copy")) as database:
        known = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
    assert (known["inodes"], known["dentries"], known["blocks"]) == (900, 700, 7)


def test_texts_about_files_are_copied_and_those_about_the_volume_are_not(tmp_path: Path) -> None:
    for name, texts in (("source", {"has_x": "yes", "claim": "theirs"}), ("copy", {"lineage": "ours"})):
        make(tmp_path / name, EMPTY, 1)
        with Index.open(tmp_path / name) as index:
            for key, value in texts.items():
                index.state.set(key, value)
            index.commit()
    CopyLedger(tmp_path / "ledger", PAIR).close()
    with Index.open(tmp_path / "copy") as index:
        index.copying(tmp_path / "source", tmp_path / "ledger").copy_names()
        assert [index.state.get(key) for key in ("has_x", "claim", "lineage")] == ["yes", None, "ours"]


def test_a_lost_block_is_known_by_its_hash_and_heals(tmp_path: Path) -> None:
    chunk = {**EMPTY, "inodes": {5: (0o100644, 20)}, "chunks": {(5, 0): (20, 1, 0)}}
    make(tmp_path / "source", chunk, 100)
    Index.open(tmp_path / "copy", create=True).close()
    with CopyLedger(tmp_path / "ledger", PAIR) as ledger:
        ledger.add_blocks([(hash_of(1), hash_of(1))])
        ledger.commit()
    with Index.open(tmp_path / "copy") as index:
        tables = index.copying(tmp_path / "source", tmp_path / "ledger")
        tables.copy_names()
        tables.add_lost_block(hash_of(1), 20)
        tables.copy_chunks()
        assert tables.has_all_chunks()
        assert [block.hash for block in index.blocks.lost()] == [hash_of(1)]
        with index.operation():
            index.blocks.add_pack(StoredPack(PACK, 9, [PackedBlock(hash_of(1), 32, 5, 20)]), 1)
        index.commit()
        assert index.blocks.lost() == []
        assert index.chunks.spans(5, 0, 20)[0].block.pack == PACK


def test_a_chunk_without_a_block_is_noticed(tmp_path: Path) -> None:
    make(tmp_path / "index", {**EMPTY, "chunks": {(5, 0): (9, 1, 0)}}, 1)
    assert unplaced_chunks(tmp_path / "index") == 0
    with closing(sqlite3.connect(tmp_path / "index")) as database, database:
        database.execute("DELETE FROM blocks")
    assert unplaced_chunks(tmp_path / "index") == 1


def test_a_ledger_of_another_pair_begins_empty(tmp_path: Path) -> None:
    with CopyLedger(tmp_path / "ledger", PAIR) as ledger:
        ledger.add_part(b"digest", b"chunks")
        ledger.set_published("one")
        assert (ledger.part(b"digest"), ledger.published) == (b"chunks", "one")
    with CopyLedger(tmp_path / "ledger", PAIR) as ledger:
        assert (ledger.part(b"digest"), ledger.published) == (b"chunks", "one")
    with CopyLedger(tmp_path / "ledger", "others") as ledger:
        assert (ledger.part(b"digest"), ledger.published) == (None, None)
