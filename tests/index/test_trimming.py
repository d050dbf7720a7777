# SPDX-License-Identifier: GPL-3.0-or-later
"""A trimmed copy is smaller where it matters, and completing it brings everything back."""

import os
from pathlib import Path

from cas3fs.index import Index, IndexReader, migrations
from cas3fs.index.trimming import complete, trim
from cas3fs.values import BlockHash, PackedBlock, StoredPack


def make(path: Path, blocks: int) -> list[BlockHash]:
    """An index with one pack of so many blocks; gives their hashes."""
    hashes = [BlockHash(os.urandom(32)) for _ in range(blocks)]
    packed = [PackedBlock(one, number * 10, 10, 20) for number, one in enumerate(hashes)]
    with Index.open(path, create=True) as index:
        with index.operation():
            index.blocks.add_pack(StoredPack("00000001/" + "a" * 64, blocks * 10, packed), 1)
        index.commit()
        index.copy_to(path.with_name("copy"))
    return hashes


def test_no_hash_of_a_block_is_twice_in_a_trimmed_copy(tmp_path: Path) -> None:
    hashes = make(tmp_path / "index", 500)
    copy = tmp_path / "copy"
    assert all(copy.read_bytes().count(one) >= 2 for one in hashes)  # split pages may keep some once more
    trim(copy)
    assert all(copy.read_bytes().count(one) == 1 for one in hashes)


def test_a_trimmed_copy_can_be_counted_and_completed(tmp_path: Path) -> None:
    hashes = make(tmp_path / "index", 500)
    copy = tmp_path / "copy"
    trim(copy)
    trim(copy)
    with IndexReader(copy) as reader:
        assert reader.counts().blocks == 500
    assert complete(copy)
    assert not complete(copy)
    with Index.open(copy) as index:
        assert len(index.blocks.find(hashes)) == 500
        with index.operation():  # a block that is known already is not entered twice
            again = StoredPack("00000001/" + "b" * 64, 10, [PackedBlock(hashes[0], 0, 10, 20)])
            index.blocks.add_pack(again, 1)
        index.commit()
    with IndexReader(copy) as reader:
        assert reader.counts().blocks == 500


def test_upgrading_completes(tmp_path: Path) -> None:
    make(tmp_path / "index", 10)
    trim(tmp_path / "copy")
    assert migrations.upgrade(tmp_path / "copy")
    assert not migrations.upgrade(tmp_path / "copy")


def test_what_is_only_read_needs_no_completing(tmp_path: Path) -> None:
    make(tmp_path / "index", 10)
    trim(tmp_path / "copy")
    assert not migrations.upgrade(tmp_path / "copy", for_reading=True)
    assert complete(tmp_path / "copy")
