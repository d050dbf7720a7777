# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks and packs, the texts about the volume, and the counts of everything."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.index import Index, PackRow, number_of, ordinal_of
from cas3fs.values import BlockHash, BlockLocation, SnapshotNumber, StoredPack
from tests.index.conftest import FILE_MODE, NOW_NS, add_file, drop_all, make_pack

NUMBERS = st.builds(SnapshotNumber, st.integers(0, 2**23 - 1), st.integers(0, 2**40 - 1))


@given(NUMBERS, NUMBERS)
def test_an_ordinal_keeps_the_order_of_snapshot_numbers(one: SnapshotNumber, other: SnapshotNumber) -> None:
    assert number_of(ordinal_of(one)) == one
    assert 0 <= ordinal_of(one) < 2**63
    assert (one < other) == (ordinal_of(one) < ordinal_of(other))


@pytest.mark.parametrize("number", [SnapshotNumber(2**23, 0), SnapshotNumber(0, 2**40), SnapshotNumber(-1, 0)])
def test_a_snapshot_number_out_of_range_is_refused(number: SnapshotNumber) -> None:
    with pytest.raises(ValueError, match="out of range"):
        ordinal_of(number)


@pytest.mark.parametrize("count", [0, 1, 15, 17, 63, 64, 65, 200])
def test_known_blocks_are_found_and_unknown_ones_are_not(index: Index, count: int) -> None:
    pack = make_pack("00000001/a", count)
    index.blocks.add_pack(pack, 3)
    known = [block.hash for block in pack.blocks]
    unknown = [BlockHash(os.urandom(32)) for _ in range(count)]
    mixed = [block_hash for pair in zip(known, unknown, strict=True) for block_hash in pair]
    assert set(index.blocks.find(mixed)) == set(known)
    assert len(set(index.blocks.find(known).values())) == count
    expected = {block.hash: BlockLocation(block.hash, "00000001/a", *block[1:]) for block in pack.blocks}
    assert index.blocks.locate(mixed) == expected


def test_a_known_block_keeps_its_place(index: Index) -> None:
    first = make_pack("00000001/a", 2)
    second = StoredPack("00000001/b", 300, [first.blocks[0]._replace(offset=77), *make_pack("x", 1).blocks])
    index.blocks.add_pack(first, 1)
    before = index.blocks.find([first.blocks[0].hash])
    index.blocks.add_pack(second, 2)
    assert index.blocks.find([first.blocks[0].hash]) == before
    assert index.blocks.locate([first.blocks[0].hash])[first.blocks[0].hash].pack == "00000001/a"
    assert index.blocks.locate([second.blocks[1].hash])[second.blocks[1].hash].pack == "00000001/b"


def test_entering_a_pack_twice_is_harmless(index: Index) -> None:
    pack = make_pack("00000001/a", 3)
    index.blocks.add_pack(pack, 5)
    located = index.blocks.locate([block.hash for block in pack.blocks])
    index.blocks.add_pack(pack, 6)
    assert index.blocks.packs() == [PackRow("00000001/a", 300, 5, None)]
    assert index.blocks.locate([block.hash for block in pack.blocks]) == located


def test_state_keeps_texts_by_name(index: Index) -> None:
    state = index.state
    assert state.get("claim") is None
    state.set("claim", "one")
    state.set("claim", "tw\u00f6")
    index.commit()
    assert state.get("claim") == "tw\u00f6"
    state.remove("claim")
    assert state.get("claim") is None


def test_counts_of_types_bytes_blocks_and_packs(index: Index) -> None:
    pack = make_pack("00000001/a", 4, plain_length=1000)
    index.blocks.add_pack(pack, 0)
    big, _small = add_file(index, b"big"), add_file(index, b"small")
    index.chunks.replace(big, 0, 2000, [(0, 1000, 1, 0), (1000, 1000, 1, 0)])
    index.chunks.stored(big, 5000, 0, 0, 1)
    for mode in (stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        add_file(index, b"%d" % mode, mode=mode | 0o644)
    index.commit()
    with index.reader() as reader:
        counts = reader.counts()
    assert (counts.files, counts.directories, counts.symlinks, counts.others) == (2, 2, 1, 2)
    assert (counts.logical_bytes, counts.chunks, counts.chunk_bytes) == (5000, 2, 2000)
    assert (counts.blocks, counts.unique_bytes, counts.stored_bytes) == (4, 4000, 400)
    assert (counts.packs, counts.pack_bytes, counts.dead_packs, counts.dead_pack_bytes) == (1, 400, 0, 0)
    index.chunks.truncate(big, 0)
    drop_all(index, 5)
    with index.reader() as reader:
        counts = reader.counts()
    assert (counts.packs, counts.pack_bytes, counts.dead_packs, counts.dead_pack_bytes) == (0, 400, 1, 400)


def test_a_reader_sees_only_what_is_committed(index: Index) -> None:
    with index.reader() as reader:
        add_file(index, mode=FILE_MODE)
        assert reader.counts().files == 0
        index.commit()
        assert reader.counts().files == 1


def test_sizes_of_sparse_files_add_up_beyond_64_bits(index: Index) -> None:
    for size in (2**63 - 1, 2**63 - 1, 5):
        index.chunks.stored(add_file(index), size, NOW_NS, NOW_NS, 1)
    index.commit()
    with index.reader() as reader:
        assert reader.counts().logical_bytes == 2**64 + 3


class TestLostBlocks:
    """Blocks that are known to be lost."""

    PACK = make_pack("00000001/a", 30)

    def hashes(self, index: Index) -> list[BlockHash]:
        index.blocks.add_pack(self.PACK, 1)
        return [block.hash for block in self.PACK.blocks]

    def test_are_not_found_and_the_others_are(self, index: Index) -> None:
        hashes = self.hashes(index)
        assert index.blocks.mark_lost(hashes[3], "00000001/a")
        assert not index.blocks.mark_lost(hashes[3], "00000001/a")
        assert not index.blocks.mark_lost(hashes[4], "00000001/b")
        rest = {*hashes} - {hashes[3]}
        assert set(index.blocks.find(hashes)) == set(index.blocks.locate(hashes)) == rest
        assert index.blocks.find(hashes[3:4]) == index.blocks.locate(hashes[3:4]) == {}
        assert index.blocks.mark_pack_lost("00000001/a") == 29
        assert index.blocks.find(hashes) == {}

    def test_stored_again_have_a_new_place_and_the_same_number(self, index: Index) -> None:
        hashes = self.hashes(index)
        before = index.blocks.find(hashes)
        index.blocks.mark_pack_lost("00000001/a")
        again = StoredPack("00000001/b", 999, [self.PACK.blocks[3]._replace(offset=7, stored_length=55)])
        index.blocks.add_pack(again, 2)
        assert index.blocks.find(hashes) == {hashes[3]: before[hashes[3]]}
        assert index.blocks.locate(hashes) == {hashes[3]: BlockLocation(hashes[3], "00000001/b", 7, 55, 4096)}
        assert [one.hash for one in index.blocks.lost()] == hashes[:3] + hashes[4:]

    def test_are_as_before_when_the_change_is_undone(self, index: Index) -> None:
        hashes = self.hashes(index)
        index.commit()
        index.blocks.mark_pack_lost("00000001/a")
        assert index.blocks.find(hashes) == {}
        index.rollback()
        assert set(index.blocks.find(hashes)) == set(hashes)

    def test_are_deleted_with_their_rows(self, index: Index) -> None:
        self.hashes(index)
        index.blocks.mark_pack_lost("00000001/a")
        drop_all(index, 9)
        index.garbage.delete_stale_lost_marks()
        assert index._database.execute("SELECT count(*) FROM lost_blocks") == [(0,)]

    def test_that_are_found_are_no_longer_lost(self, index: Index) -> None:
        hashes = self.hashes(index)
        index.blocks.mark_pack_lost("00000001/a")
        index.blocks.mark_found(hashes[0], "00000001/b")
        index.blocks.mark_found(hashes[1], "00000001/a")
        assert set(index.blocks.find(hashes)) == {hashes[1]}
