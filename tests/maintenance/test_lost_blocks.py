# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks that are known to be lost: nothing is deduplicated onto them, and the same bytes written again heal them."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from cas3fs.errors import BlockError, StoreError
from cas3fs.filesystem import Owner
from cas3fs.maintenance.noting import losses_in, note
from cas3fs.maintenance.plans import GcSettings
from cas3fs.values import BlockHash
from tests.maintenance.rig import NOW, Rig, noise
from tests.maintenance.ward import Ward, codes, cut, flip, pack_of_f0, remove_a_pack

PHOTO: Final = noise(1000)
OF_SNAPSHOTS: Final = {"known-snapshot-loss", "snapshot-pack-missing", "snapshot-pack-damaged"}


def lose_the_photo(rig: Rig) -> None:
    """A photo and its twin are stored, and then the pack of both is gone."""
    rig.write("photo", PHOTO)
    rig.write("twin", PHOTO)
    rig.publish()
    rig.inner.delete_many(rig.packs())


def copy_in_again(rig: Rig) -> None:
    rig.write("copy", PHOTO)
    rig.publish()


def by_a_read(rig: Rig) -> None:
    with pytest.raises(BlockError):
        rig.read("photo")


def by_a_gc(rig: Rig) -> None:
    with pytest.raises(StoreError, match="not listed"):
        rig.gc()


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto", "every-block-is-verified")
@pytest.mark.parametrize("notice", [by_a_read, by_a_gc])
def test_bytes_of_a_pack_that_was_found_gone_are_stored_again_and_heal_every_file(
    rig: Rig, notice: Callable[[Rig], None]
) -> None:
    lose_the_photo(rig)
    notice(rig)
    if notice is by_a_read:  # block by block
        for start in range(0, len(PHOTO), 4096):
            handle_read(rig, start)
    copy_in_again(rig)
    assert rig.tree() == {"photo": PHOTO, "twin": PHOTO, "copy": PHOTO}
    rig.check_newest({"photo": PHOTO, "twin": PHOTO, "copy": PHOTO})
    rig.gc(NOW)
    assert rig.tree() == {"photo": PHOTO, "twin": PHOTO, "copy": PHOTO}


def handle_read(rig: Rig, start: int) -> None:
    inode = rig.fs.lookup(1, b"photo")
    handle = rig.fs.open(inode.number, 0, Owner(0, 0))
    with pytest.raises(BlockError):
        rig.fs.read(handle, start, 10)
    rig.fs.release(handle)


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
def test_what_was_found_gone_is_known_after_a_crash(rig: Rig, tmp_path: Path) -> None:
    lose_the_photo(rig)
    by_a_gc(rig)
    rig.fs.commit()
    later = rig.killed(tmp_path / "later")
    copy_in_again(later)
    assert later.read("twin") == PHOTO
    later.close()


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
def test_a_block_that_was_stored_and_is_found_gone_before_its_file_is_entered_is_stored_again(rig: Rig) -> None:
    rig.write("photo", PHOTO)
    rig.publish()
    rig.write("copy", PHOTO)
    find = rig.fs.index.blocks.find

    def lose_after(hashes: list[BlockHash]) -> dict[BlockHash, int]:
        found = find(hashes)
        rig.fs.index.blocks.find = find  # type: ignore[method-assign]
        rig.inner.delete_many(rig.packs())
        for block, place in rig.fs.index.blocks.locate(hashes).items():
            rig.fs.index.blocks.mark_lost(block, place.pack)
        return found

    rig.fs.index.blocks.find = lose_after  # type: ignore[method-assign,assignment]
    rig.publish()
    assert rig.tree() == {"photo": PHOTO, "copy": PHOTO}


def test_a_block_that_a_gc_could_not_move_is_known_to_be_lost(ward: Ward) -> None:
    ward.write("f1", noise(1001))
    ward.write("f2", noise(1002))
    ward.publish()
    flip_a_block(ward)
    ward.gc(GcSettings(min_live=1, grace_s=0))
    assert ward.one("SELECT count(*) FROM lost_blocks") == 1
    ward.write("copy", noise(0))
    ward.publish()
    assert ward.found()["f0"] == noise(0)


def flip_a_block(ward: Ward) -> None:
    flip(ward, f"packs/{pack_of_f0(ward)}", 5000)


def cut_the_pack(ward: Ward) -> None:
    cut(ward, f"packs/{pack_of_f0(ward)}")


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
@pytest.mark.parametrize("damage", [remove_a_pack, flip_a_block, cut_the_pack])
@pytest.mark.parametrize("repair", [False, True], ids=["told", "repaired"])
def test_what_a_check_found_lost_is_healed_by_copying_the_files_in_again(
    ward: Ward, damage: Callable[[Ward], None], repair: bool
) -> None:
    before = {name: data for name, data in ward.found().items() if data is not None}
    damage(ward)
    if repair:
        ward.fsck(verify_data=True)
    else:
        note(ward.fs, losses_in(ward.check(verify_data=True).findings))
    assert ward.one("SELECT count(*) FROM lost_blocks") > 0
    for name, data in before.items():
        ward.write(f"copy of {name}", data)
    ward.publish()
    after = ward.found()
    assert {name: after[name] for name in before} == before
    assert codes(ward.check(verify_data=True)) <= OF_SNAPSHOTS
    assert ward.one("SELECT count(*) FROM lost_blocks") == 0


def test_a_block_that_was_read_in_vain_is_found_by_a_check_that_reads_nothing_else(ward: Ward) -> None:
    flip_a_block(ward)
    assert ward.check().status == 0
    assert ward.found()["f0"] is None
    (finding,) = ward.check().findings
    assert (finding.code, finding.paths) == ("block-damaged", ("/f0",))


def test_a_block_that_can_be_read_again_is_believed_again_by_a_repair(ward: Ward) -> None:
    key = f"packs/{pack_of_f0(ward)}"
    body = ward.inner.get(key)
    ward.inner.delete_many([key])
    assert ward.found()["f0"] is None
    ward.inner.put_if_absent(key, body)
    assert ward.one("SELECT count(*) FROM lost_blocks") > 0
    assert ward.fsck().status == 0
    assert ward.one("SELECT count(*) FROM lost_blocks") == 0
    assert ward.found()["f0"] == noise(0)


def test_a_read_from_where_a_block_lay_before_does_not_make_it_lost(rig: Rig) -> None:
    rig.write("photo", PHOTO)
    rig.publish()
    (span, *_) = rig.fs.index.chunks.spans(rig.fs.lookup(1, b"photo").number, 0, 1)
    rig.fs.mark_block_lost(span.block._replace(pack="00000001/" + "ab" * 32))
    assert rig.fs.index.blocks.lost() == []
    rig.fs.mark_block_lost(span.block)
    assert rig.fs.index.blocks.lost() == [span.block]
