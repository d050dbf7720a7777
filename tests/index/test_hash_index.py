# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy without the index on hashes is smaller where it matters, and the index can be made again."""

import os
from pathlib import Path

import pytest

from cas3fs.index import Index, IndexReader, migrations
from cas3fs.index.hash_index import drop_hash_index, restore_hash_index
from cas3fs.values import BlockHash, PackedBlock, StoredPack


def make(path: Path, blocks: int) -> list[BlockHash]:
    """An index with one pack of so many blocks; returns their hashes."""
    hashes = [BlockHash(os.urandom(32)) for _ in range(blocks)]
    packed = [PackedBlock(one, number * 10, 10, 20) for number, one in enumerate(hashes)]
    with Index.open(path, create=True) as index:
        with index.operation():
            index.blocks.add_pack(StoredPack("00000001/" + "a" * 64, blocks * 10, packed), 1)
        index.commit()
        index.copy_to(path.with_name("copy"))
    return hashes


def test_each_hash_stands_once_in_a_copy_without_the_index(tmp_path: Path) -> None:
    hashes = make(tmp_path / "index", 500)
    copy = tmp_path / "copy"
    assert all(copy.read_bytes().count(one) >= 2 for one in hashes)  # split pages may keep some once more
    drop_hash_index(copy)
    assert all(copy.read_bytes().count(one) == 1 for one in hashes)


def test_a_copy_without_the_index_can_be_counted_and_restored(tmp_path: Path) -> None:
    make(tmp_path / "index", 500)
    copy = tmp_path / "copy"
    drop_hash_index(copy)
    drop_hash_index(copy)
    with IndexReader(copy) as reader:
        assert reader.counts().blocks == 500
    assert restore_hash_index(copy)
    assert not restore_hash_index(copy)


def named(path: Path, hashes: list[BlockHash]) -> None:
    """Makes a file of these blocks."""
    with Index.open(path) as index:
        numbers = index.blocks.find(hashes)
        with index.operation():
            rows = [(place * 20, 20, numbers[one], 0) for place, one in enumerate(hashes)]
            index.chunks.replace(7, 0, 20 * len(rows), rows)
        index.commit()
        index.copy_to(path.with_name("copy"))


def test_the_first_lookup_restores_the_index_and_no_block_is_entered_twice(tmp_path: Path) -> None:
    hashes = make(tmp_path / "index", 500)
    named(tmp_path / "index", hashes)
    copy = tmp_path / "copy"
    drop_hash_index(copy)
    with Index.open(copy) as index:
        assert len(index.blocks.find(hashes)) == 500
    drop_hash_index(copy)
    with Index.open(copy) as index:
        with index.operation():
            again = StoredPack("00000001/" + "b" * 64, 10, [PackedBlock(hashes[0], 0, 10, 20)])
            index.blocks.add_pack(again, 1)
        index.commit()
    with IndexReader(copy) as reader:
        assert reader.counts().blocks == 500


def test_no_unreferenced_block_is_found_after_a_restore(tmp_path: Path) -> None:
    hashes = make(tmp_path / "index", 10)
    named(tmp_path / "index", hashes[:4])
    copy = tmp_path / "copy"
    drop_hash_index(copy)
    with Index.open(copy) as index:
        assert set(index.blocks.find(hashes)) == set(hashes[:4])


def test_an_undone_group_undoes_a_restore_within_it(tmp_path: Path) -> None:
    hashes = make(tmp_path / "index", 10)
    named(tmp_path / "index", hashes)
    copy = tmp_path / "copy"
    drop_hash_index(copy)
    with Index.open(copy) as index:
        with index.operation():
            index.state.set("key", "value")
        assert len(index.blocks.find(hashes)) == 10  # made within the group
        index.rollback()
        again = StoredPack("00000001/" + "b" * 64, 10, [PackedBlock(hashes[0], 0, 10, 20)])
        with index.operation():
            index.blocks.add_pack(again, 1)
        index.commit()
        assert index.state.get("key") is None
        assert len(index.blocks.find(hashes)) == 10
    with IndexReader(copy) as reader:
        assert reader.counts().blocks == 10


def test_an_index_restored_at_first_use_stays_without_a_commit(tmp_path: Path) -> None:
    hashes = make(tmp_path / "index", 10)
    named(tmp_path / "index", hashes)
    drop_hash_index(tmp_path / "copy")
    with Index.open(tmp_path / "copy") as index:
        index.blocks.find(hashes)
        assert not index.in_group
    assert not migrations.upgrade(tmp_path / "copy")


@pytest.mark.parametrize("has_log", [False, True])
def test_an_upgrade_restores_the_index(tmp_path: Path, has_log: bool) -> None:
    make(tmp_path / "index", 10)
    drop_hash_index(tmp_path / "copy")
    if has_log:
        Index.open(tmp_path / "copy").close()
    assert migrations.upgrade(tmp_path / "copy")
    assert not migrations.upgrade(tmp_path / "copy")


def test_an_upgrade_without_the_index_does_not_restore_it(tmp_path: Path) -> None:
    make(tmp_path / "index", 10)
    drop_hash_index(tmp_path / "copy")
    assert not migrations.upgrade(tmp_path / "copy", with_hash_index=False)
    assert restore_hash_index(tmp_path / "copy")
