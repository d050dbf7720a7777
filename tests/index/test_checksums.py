# SPDX-License-Identifier: GPL-3.0-or-later
"""The checksum in an inode's row shows a lost write to the table of chunks, whatever page of it is hit."""

import random
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from cas3fs.errors import IndexCorrupt
from cas3fs.index import Index, IndexReader
from cas3fs.index.checks import IndexChecker
from cas3fs.index.checksums import RECOMPUTE_CHECKSUMS, ChunkChecksum, checksum_of, row_checksum
from cas3fs.index.statement import Statement
from cas3fs.index.tables import chunks
from cas3fs.testing.sqlite_pages import checkpointed_bytes, leaf_pages, lose_write
from tests.index.conftest import add_file, make_pack

BLOCKS: Final = 40
CODES: Final = ("chunks-unlike-sums", "content-without-inode")
Numbers = st.integers(0, 2**63 - 1)


@given(st.tuples(Numbers, Numbers, Numbers, Numbers))
def test_sqlite_computes_the_same_row_checksum(row: tuple[int, int, int, int]) -> None:
    query = Statement(lambda: select(row_checksum(chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip)))
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE chunks (offset INTEGER, length INTEGER, block INTEGER, skip INTEGER)")
        database.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", row)
        assert database.execute(query.text).fetchone() == (row_checksum(*row),)
    database.close()


def checksum_in(index: Index, inode: int) -> ChunkChecksum:
    (row,) = index._database.execute(f"SELECT chunk_count, chunk_sum, chunk_bytes FROM inodes WHERE id = {inode}")
    return ChunkChecksum(*row)  # type: ignore[arg-type]


def checksum_of_chunks_in(index: Index, inode: int) -> ChunkChecksum:
    rows = index._database.execute(f"SELECT offset, length, block, skip FROM chunks WHERE inode = {inode}")
    return checksum_of(rows)  # type: ignore[arg-type]


def change(index: Index, dice: random.Random, files: list[int]) -> None:
    """One random change of a file."""
    what = dice.choice(["new", "new", "replace", "replace", "truncate", "empty", "remove"])
    if what == "new" or not files:
        file = add_file(index)
        rows = [(4096 * n, 4096, dice.randint(1, BLOCKS), 0) for n in range(dice.randint(0, 60))]
        index.chunks.all_stored([(file, 4096 * len(rows), 0, 0, 1)], ((file, row) for row in rows))
        files.append(file)
        return
    file, start = dice.choice(files), dice.randrange(60 * 4096)
    if what == "replace":
        end = start + dice.randrange(9000)
        index.chunks.replace(
            file, start, end, [(start, end - start, dice.randint(1, BLOCKS), 3)] if end > start else []
        )
    elif what == "remove":
        files.remove(file)
        index.namespace.remove_inodes([file])
    else:
        index.chunks.truncate(file, start if what == "truncate" else 0)


def index_at(path: Path) -> Index:
    index = Index.open(path, create=True)
    index.blocks.add_pack(make_pack("00000001/a", BLOCKS, plain_length=9000), 0)
    return index


@pytest.mark.promise("files-have-chunk-checksums")
@given(st.integers())
def test_checksums_match_the_chunks_whatever_happens_to_files(seed: int) -> None:
    dice, files = random.Random(seed), list[int]()
    with tempfile.TemporaryDirectory() as folder, index_at(Path(folder) / "index.sqlite") as index:
        for _ in range(30):
            with index.operation():
                change(index, dice, files)
        assert [index.chunks.size_bytes(file) for file in files] == [checksum_in(index, file)[2] for file in files]
        assert [checksum_in(index, file) for file in files] == [checksum_of_chunks_in(index, file) for file in files]
        index.commit()
        with IndexChecker(index.path) as checker:
            assert checker.defects("chunks-unlike-sums") == []
        with IndexReader(index.path) as reader:
            assert reader.checksum_mismatches() == 0


def seen_by_a_check(path: Path) -> bool:
    try:
        with IndexChecker(path) as checker:
            return bool(checker.integrity()) or any(checker.defects(code) for code in CODES)
    except IndexCorrupt:
        return True


def refused_by_a_gc(path: Path) -> bool:
    try:
        with IndexReader(path) as reader:
            return reader.checksum_mismatches() > 0
    except IndexCorrupt:
        return True


def rows_of(path: Path, table: str = "chunks") -> list[tuple[int, ...]] | None:
    database = sqlite3.connect(path)
    try:
        return database.execute(f"SELECT * FROM {table} NOT INDEXED").fetchall()
    except sqlite3.DatabaseError:
        return None
    finally:
        database.close()


@pytest.mark.promise("files-have-chunk-checksums", "a-damaged-index-page-is-noticed")
@settings(suppress_health_check=list(HealthCheck), max_examples=settings.default.max_examples // 2)
@given(st.integers(), st.booleans())
def test_a_check_and_a_gc_notice_a_lost_write_to_any_page_of_chunks(seed: int, is_empty: bool) -> None:
    dice, files = random.Random(seed), list[int]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        with index_at(path) as index:
            for _ in range(40):
                change(index, dice, files)
            index.commit()
        before = checkpointed_bytes(path)
        with Index.open(path) as index:
            for _ in range(dice.randint(1, 40)):
                change(index, dice, files)
            index.commit()
        rows = rows_of(path)
        assert (seen_by_a_check(path), refused_by_a_gc(path)) == (False, False)
        lose_write(path, dice.choice(leaf_pages(path, "chunks")), b"" if is_empty else before)
        is_hurt = rows_of(path) != rows
        assert (seen_by_a_check(path), refused_by_a_gc(path)) == (is_hurt, is_hurt)


def test_an_outdated_page_is_noticed_though_sqlite_finds_nothing(path: Path) -> None:
    with index_at(path) as index:
        files = [add_file(index) for _ in range(20)]
        for file in files:
            index.chunks.replace(file, 0, 60 * 4096, [(4096 * n, 4096, 1, 0) for n in range(60)])
        index.commit()
    before = checkpointed_bytes(path)
    with Index.open(path) as index:
        index.chunks.replace(files[10], 4096, 8192, [(4096, 4096, 2, 0)])  # the same place, other bytes
        index.commit()
    assert [lose_write(path, page, before) for page in leaf_pages(path, "chunks")].count(True) == 1
    with IndexChecker(path) as checker:
        assert checker.integrity(thorough=True) == []
    assert seen_by_a_check(path)
    assert refused_by_a_gc(path)


@pytest.mark.promise("files-have-chunk-checksums")
@settings(suppress_health_check=list(HealthCheck), max_examples=settings.default.max_examples // 4)
@given(st.integers(), st.booleans())
def test_a_check_notices_a_lost_write_to_any_page_of_names(seed: int, is_empty: bool) -> None:
    dice = random.Random(seed)

    def change_names(index: Index, count: int) -> None:
        for number in range(count):
            name = b"%d" % dice.randrange(300)
            if index.namespace.child(1, name) is None:
                index.namespace.add_entry(1, name, add_file(index))
            elif index.namespace.child(1, b"new %d" % number) is None:
                index.namespace.rename_entry(1, name, b"new %d" % number)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        with index_at(path) as index:
            change_names(index, 300)
            index.commit()
        before = checkpointed_bytes(path)
        with Index.open(path) as index:
            change_names(index, dice.randint(1, 20))
            index.commit()
        rows = rows_of(path, "dentries")
        with IndexChecker(path) as checker:
            assert checker.integrity() == []
        lose_write(path, dice.choice(leaf_pages(path, "dentries")), b"" if is_empty else before)
        if rows_of(path, "dentries") != rows:
            assert seen_by_a_check(path)


def test_a_file_cut_to_nothing_has_the_checksum_of_no_chunks(path: Path) -> None:
    with index_at(path) as index:
        file = add_file(index)
        index.chunks.replace(file, 0, 100, [(0, 100, 1, 0)])
        index._database.begin()
        index._database.execute("DELETE FROM chunks")
        index.chunks.truncate(file, 0)
        index.chunks.replace(file, 0, 50, [(0, 50, 2, 0)])
        assert checksum_in(index, file) == checksum_of_chunks_in(index, file)


@pytest.mark.parametrize("column", ["chunk_count", "chunk_sum", "chunk_bytes"])
@pytest.mark.parametrize("rows", [0, 2])
def test_a_wrong_number_in_any_column_is_noticed(path: Path, column: str, rows: int) -> None:
    with index_at(path) as index:
        file = add_file(index)
        index.chunks.replace(file, 0, 200, [(100 * n, 100, 1, 0) for n in range(rows)])
        index.commit()
    assert not seen_by_a_check(path)
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE inodes SET {column} = {column} + 1 WHERE id = {file}")
    database.close()
    assert seen_by_a_check(path)
    assert refused_by_a_gc(path)


@pytest.mark.parametrize("files", [0, 3])
def test_recomputed_checksums_match_the_chunks(path: Path, files: int) -> None:
    with index_at(path) as index:
        for file in [add_file(index) for _ in range(files)]:
            index.chunks.replace(file, 0, 200, [(0, 100, 1, 0), (100, 100, file, 7)])
        index._database.begin()
        index._database.execute("UPDATE inodes SET chunk_count = 9, chunk_sum = 9, chunk_bytes = 9")
        index._database.execute(RECOMPUTE_CHECKSUMS.text)
        index.commit()
        with IndexReader(path) as reader:
            assert reader.checksum_mismatches() == 0
