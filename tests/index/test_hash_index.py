# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks are found by their hashes through a database beside the index, made again whenever it may be wrong."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.index import Index, IndexReader
from cas3fs.index.checks import IndexChecker
from cas3fs.index.files import HASHES_OPEN_SUFFIX, HASHES_SUFFIX
from cas3fs.values import BlockHash, PackedBlock, StoredPack


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


def closed(path: Path) -> Path:
    return Path(f"{path}{HASHES_SUFFIX}")


def in_use(path: Path) -> Path:
    return Path(f"{path}{HASHES_OPEN_SUFFIX}")


def pack_of(hashes: list[BlockHash], name: str = "a") -> StoredPack:
    packed = [PackedBlock(one, number * 10, 10, 20) for number, one in enumerate(hashes)]
    return StoredPack("00000001/" + name * 64, len(hashes) * 10, packed)


def name_blocks(index: Index, hashes: list[BlockHash], inode: int = 7) -> None:
    """Makes a file of these blocks."""
    numbers = index.blocks.find(hashes)
    rows = [(place * 20, 20, numbers[one], 0) for place, one in enumerate(hashes)]
    with index.operation():
        index.chunks.replace(inode, 0, 20 * len(rows), rows)


def make(path: Path, blocks: int) -> list[BlockHash]:
    """A closed index with one pack of so many blocks, which a file names; returns their hashes."""
    hashes = [BlockHash(os.urandom(32)) for _ in range(blocks)]
    with Index.open(path, create=True) as index:
        with index.operation():
            index.blocks.add_pack(pack_of(hashes), 1)
        name_blocks(index, hashes)
        index.commit()
    return hashes


def rows(path: Path) -> list[tuple[bytes, int]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT prefix, block FROM block_hashes ORDER BY block").fetchall()


def test_each_hash_stands_once_in_the_index(path: Path) -> None:
    hashes = make(path, 500)
    assert all(path.read_bytes().count(one) == 1 for one in hashes)


def test_a_database_that_was_closed_well_is_used_again(path: Path) -> None:
    hashes = make(path, 50)
    before = closed(path).stat()
    with Index.open(path) as index:
        assert len(index.blocks.find(hashes)) == 50
        assert not closed(path).exists()
        assert in_use(path).stat().st_ino == before.st_ino
    assert closed(path).stat().st_ino == before.st_ino
    assert rows(closed(path)) == [(one[:8], number) for number, one in enumerate(hashes, 1)]


@pytest.mark.promise("what-finds-blocks-by-hash-is-checked")
def test_what_is_in_use_is_not_used_again_after_a_crash(path: Path) -> None:
    hashes = make(path, 50)
    shutil.copy(closed(path), in_use(path))
    closed(path).unlink()
    with closing(sqlite3.connect(in_use(path))) as database, database:
        database.execute("DELETE FROM block_hashes")
    with Index.open(path) as index:
        assert len(index.blocks.find(hashes)) == 50


@pytest.mark.promise("what-finds-blocks-by-hash-is-checked")
@pytest.mark.parametrize("damage", ["bytes", "index is ahead", "of another index"])
def test_a_database_that_does_not_fit_is_made_again(path: Path, tmp_path: Path, damage: str) -> None:
    hashes = make(path, 50)
    if damage == "bytes":
        with open(closed(path), "r+b") as file:
            file.seek(5000)
            file.write(b"x")
    elif damage == "of another index":
        make(tmp_path / "other", 50)
        closed(tmp_path / "other").replace(closed(path))
    else:
        hashes.append(BlockHash(os.urandom(32)))
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("INSERT INTO blocks SELECT 51, ?, pack, 0, 10, 20 FROM blocks LIMIT 1", (hashes[-1],))
            database.execute("INSERT INTO chunks VALUES (7, 1000, 20, 51, 0)")
    (tmp_path / "old").hardlink_to(closed(path))
    with Index.open(path) as index:
        assert len(index.blocks.find(hashes)) == len(hashes)
        assert not in_use(path).samefile(tmp_path / "old")
    assert len(rows(closed(path))) == len(hashes)


@pytest.mark.promise("what-finds-blocks-by-hash-is-checked")
def test_a_row_that_is_wrong_is_not_believed(path: Path) -> None:
    hashes = make(path, 3)
    wanted = BlockHash(os.urandom(32))
    with Index.open(path) as index:
        index.blocks.find(hashes)
        execute = index._database.execute
        execute(f"INSERT INTO block_hashes VALUES (x'{wanted[:8].hex()}', 2)")
        execute(f"INSERT INTO block_hashes VALUES (x'{hashes[0][:8].hex()}', 3)")
        assert index.blocks.find([wanted]) == {}
        assert index.blocks.find([wanted, *hashes] * 20) == dict(zip(hashes, (1, 2, 3), strict=True))


def test_blocks_with_the_same_beginning_of_their_hashes_are_told_apart(path: Path) -> None:
    hashes = [BlockHash(bytes(8) + os.urandom(24)) for _ in range(40)]
    with Index.open(path, create=True) as index:
        with index.operation():
            index.blocks.add_pack(pack_of(hashes[:30]), 1)
        assert set(index.blocks.find(hashes)) == set(hashes[:30])
        assert {one: place.offset for one, place in index.blocks.locate(hashes).items()} == {
            one: 10 * number for number, one in enumerate(hashes[:30])
        }


def test_no_block_is_entered_twice(path: Path) -> None:
    hashes = make(path, 10)
    for remove in (False, True):
        if remove:
            closed(path).unlink()
        with Index.open(path) as index:
            with index.operation():
                index.blocks.add_pack(pack_of(hashes[:1], "b"), 1)
            index.commit()
            with IndexReader(path) as reader:
                assert reader.counts().blocks == 10


def test_no_unreferenced_block_is_found_in_an_index_from_a_snapshot(path: Path) -> None:
    hashes = [BlockHash(os.urandom(32)) for _ in range(10)]
    with Index.open(path, create=True) as index:
        with index.operation():
            index.blocks.add_pack(pack_of(hashes), 1)
        name_blocks(index, hashes[:4])
        index.commit()
        index.copy_to(path.with_name("copy"))
    with Index.open(path.with_name("copy"), scratch=True) as index:
        index.mark_restored()
        index.commit()
    with Index.open(path.with_name("copy")) as index:
        assert set(index.blocks.find(hashes)) == set(hashes[:4])
        assert not index.in_group
        with index.operation():
            index.blocks.add_pack(pack_of(hashes[4:], "b"), 1)
        index.rollback()
        with index.operation():
            index.blocks.add_pack(pack_of(hashes[4:7], "b"), 1)
        assert set(index.blocks.find(hashes)) == set(hashes[:7])


def test_unreferenced_blocks_are_found_after_a_crash(path: Path) -> None:
    hashes = [BlockHash(os.urandom(32)) for _ in range(10)]
    with Index.open(path, create=True) as index:
        with index.operation():
            index.blocks.add_pack(pack_of(hashes), 1)
        index.commit()
    closed(path).unlink()
    with Index.open(path) as index:
        assert set(index.blocks.find(hashes)) == set(hashes)


def test_unreferenced_blocks_stay_when_an_operation_is_undone_later(path: Path) -> None:
    hashes = [BlockHash(os.urandom(32)) for _ in range(10)]
    with Index.open(path, create=True) as index:
        with index.operation():
            index.blocks.add_pack(pack_of(hashes), 1)  # on their way into chunks
        index.commit()
        with pytest.raises(ZeroDivisionError), index.operation():
            index.state.set("key", "value")
            raise ZeroDivisionError
        assert set(index.blocks.find(hashes)) == set(hashes)


def test_an_undone_group_undoes_what_was_entered(path: Path) -> None:
    hashes = make(path, 10)
    closed(path).unlink()
    new = [BlockHash(os.urandom(32)) for _ in range(10)]
    with Index.open(path) as index:
        with index.operation():
            index.state.set("key", "value")
        assert len(index.blocks.find(hashes)) == 10  # made within the group
        with index.operation():
            index.blocks.add_pack(pack_of(new, "b"), 1)
        index.rollback()
        assert index.blocks.find(hashes + new) == dict(zip(hashes, range(1, 11), strict=True))
        with index.operation():
            index.blocks.add_pack(pack_of([*new[5:], hashes[0]], "b"), 1)
        index.commit()
        assert set(index.blocks.find(hashes + new)) == {*hashes, *new[5:]}
        assert len(rows_of(index)) == 15


def rows_of(index: Index) -> list[tuple[object, ...]]:
    return index._database.execute("SELECT * FROM block_hashes")


def test_blocks_of_the_open_group_are_found_when_it_is_made_within(path: Path) -> None:
    hashes = make(path, 10)
    new = BlockHash(os.urandom(32))
    with Index.open(path) as index:
        with index.operation():
            index._database.execute(f"INSERT INTO blocks VALUES (11, x'{new.hex()}', 1, 0, 10, 20)")
            index.chunks.replace(8, 0, 20, [(0, 20, 11, 0)])
        assert set(index.blocks.find([new, hashes[0]])) == {new, hashes[0]}
        index.commit()


def test_deleted_blocks_leave_the_database(path: Path) -> None:
    hashes = make(path, 10)
    with Index.open(path) as index:
        index.blocks.find(hashes)
        with index.operation():
            index.garbage.watch()
        index.commit()
        with index.operation():
            assert index.garbage.delete_blocks([1, 2, 3, 99], 2**62) == 3
        index.commit()
        assert len(rows_of(index)) == 7


def test_an_index_with_an_open_group_is_not_closed_well(path: Path) -> None:
    hashes = make(path, 5)
    index = Index.open(path)
    index.blocks.find(hashes)
    with index.operation():
        index.state.set("key", "value")
    index.close()
    assert not closed(path).exists()


@pytest.mark.parametrize("mode", ["read", "scratch", "checker"])
def test_other_connections_find_hashes_by_themselves(path: Path, mode: str) -> None:
    hashes = make(path, 100)
    before = closed(path).stat().st_mtime_ns
    if mode == "checker":
        with IndexChecker(path) as checker:
            assert checker.users_of_block(hashes[3]) == [(7, 60, 20)]
            row = checker.locate(hashes[4])
            assert row is not None and row[2] == 40
            assert checker.locate(b"x" * 32) is None
    else:
        with Index.open(path, read_only=mode == "read", scratch=mode == "scratch") as index:
            assert set(index.blocks.find(hashes)) == set(hashes)
    assert closed(path).stat().st_mtime_ns == before


def test_a_look_up_reads_no_whole_table(path: Path) -> None:
    hashes = make(path, 3)
    with Index.open(path) as index:
        index.blocks.find(hashes)
        for statement in (index.blocks._find_one, index.blocks._find_batch, index.blocks._locate_batch):
            plan = index._database.connection.execute(
                f"EXPLAIN QUERY PLAN {statement._text}", [hashes[0]] * statement._text.count("?")
            ).fetchall()
            assert not [line for line in plan if "SCAN" in line[3]]
