# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks that are known to be lost: nothing is deduplicated onto them, and writing the same bytes again heals them."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from cas3fs.errors import BlockError, StoreError
from cas3fs.filesystem import Owner
from cas3fs.maintenance.fsck.volume_check import lost_blocks_in
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.maintenance.lost_blocks import record_lost_blocks
from cas3fs.values import BlockHash
from tests.maintenance.damaged_volume import DamagedVolume, codes, cut_object, flip_byte, pack_of_f0, remove_a_pack
from tests.maintenance.memory_volume import NOW, MemoryVolume, noise

pytestmark = pytest.mark.encryption("plain", "encrypted")

PHOTO: Final = noise(1000)
OF_SNAPSHOTS: Final = {"known-snapshot-loss", "snapshot-pack-missing", "snapshot-pack-damaged"}


def lose_the_photo(volume: MemoryVolume) -> None:
    """Stores a photo and a copy of it, and deletes the pack of both."""
    volume.write("photo", PHOTO)
    volume.write("twin", PHOTO)
    volume.publish()
    volume.inner.delete_many(volume.packs())


def copy_in_again(volume: MemoryVolume) -> None:
    volume.write("copy", PHOTO)
    volume.publish()


def find_loss_by_reading(volume: MemoryVolume) -> None:
    with pytest.raises(BlockError):
        volume.read("photo")


def find_loss_by_gc(volume: MemoryVolume) -> None:
    with pytest.raises(StoreError, match="does not list 1 packs"):
        volume.gc()


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto", "every-block-is-verified")
@pytest.mark.parametrize("notice", [find_loss_by_reading, find_loss_by_gc])
def test_data_of_a_missing_pack_is_stored_again_and_heals_every_file(
    volume: MemoryVolume, notice: Callable[[MemoryVolume], None]
) -> None:
    lose_the_photo(volume)
    notice(volume)
    if notice is find_loss_by_reading:  # block by block
        for start in range(0, len(PHOTO), 4096):
            read_by_handle(volume, start)
    copy_in_again(volume)
    assert volume.tree() == {"photo": PHOTO, "twin": PHOTO, "copy": PHOTO}
    volume.check_newest({"photo": PHOTO, "twin": PHOTO, "copy": PHOTO})
    volume.gc(NOW)
    assert volume.tree() == {"photo": PHOTO, "twin": PHOTO, "copy": PHOTO}


def read_by_handle(volume: MemoryVolume, start: int) -> None:
    inode = volume.fs.lookup(1, b"photo")
    handle = volume.fs.open(inode.number, 0, Owner(0, 0))
    with pytest.raises(BlockError):
        volume.fs.read(handle, start, 10)
    volume.fs.release(handle)


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
def test_lost_packs_are_known_after_a_crash(volume: MemoryVolume, tmp_path: Path) -> None:
    lose_the_photo(volume)
    find_loss_by_gc(volume)
    volume.fs.commit()
    later = volume.restarted_after_kill(tmp_path / "later")
    copy_in_again(later)
    assert later.read("twin") == PHOTO
    later.close()


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
def test_a_block_lost_before_its_file_is_committed_is_stored_again(
    volume: MemoryVolume,
) -> None:
    volume.write("photo", PHOTO)
    volume.publish()
    volume.write("copy", PHOTO)
    index = volume.index
    find = index.blocks.find

    def lose_after(hashes: list[BlockHash]) -> dict[BlockHash, int]:
        found = find(hashes)
        index.blocks.find = find  # type: ignore[method-assign]
        volume.inner.delete_many(volume.packs())
        for block, place in index.blocks.locate(hashes).items():
            index.blocks.mark_lost(block, place.pack)
        return found

    index.blocks.find = lose_after  # type: ignore[method-assign,assignment]
    volume.publish()
    assert volume.tree() == {"photo": PHOTO, "copy": PHOTO}


def test_a_block_that_a_gc_could_not_move_is_known_to_be_lost(encryption: str, damaged: DamagedVolume) -> None:
    damaged.write("f1", noise(1001))
    damaged.write("f2", noise(1002))
    damaged.publish()
    flip_a_block(damaged)
    damaged.gc(GcSettings(min_live=1, grace_s=0))
    assert damaged.one("SELECT count(*) FROM lost_blocks") == (1 if encryption == "plain" else 5)  # of one piece
    damaged.write("copy", noise(0))
    damaged.publish()
    assert damaged.readable_contents()["f0"] == noise(0)


def flip_a_block(damaged: DamagedVolume) -> None:
    flip_byte(damaged, f"packs/{pack_of_f0(damaged)}", 5000)


def cut_the_pack(damaged: DamagedVolume) -> None:
    cut_object(damaged, f"packs/{pack_of_f0(damaged)}")


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
@pytest.mark.parametrize("damage", [remove_a_pack, flip_a_block, cut_the_pack])
@pytest.mark.parametrize("repair", [False, True], ids=["reported", "repaired"])
def test_copying_files_in_again_heals_what_a_check_found_lost(
    damaged: DamagedVolume, damage: Callable[[DamagedVolume], None], repair: bool
) -> None:
    before = {name: data for name, data in damaged.readable_contents().items() if data is not None}
    damage(damaged)
    if repair:
        damaged.fsck(verify_data=True)
    else:
        record_lost_blocks(damaged.fs, lost_blocks_in(damaged.check(verify_data=True).findings))
    assert damaged.one("SELECT count(*) FROM lost_blocks") > 0
    for name, data in before.items():
        damaged.write(f"copy of {name}", data)
    damaged.publish()
    after = damaged.readable_contents()
    assert {name: after[name] for name in before} == before
    assert codes(damaged.check(verify_data=True)) <= OF_SNAPSHOTS
    assert damaged.one("SELECT count(*) FROM lost_blocks") == 0


def test_a_block_that_could_not_be_read_is_found_by_any_check(encryption: str, damaged: DamagedVolume) -> None:
    flip_a_block(damaged)
    assert damaged.check().status == 0
    assert damaged.readable_contents()["f0"] is None
    found = {(one.code, one.paths) for one in damaged.check().findings}
    hurt = {"f0"} if encryption == "plain" else damaged.sharing_with_f0()
    assert found == {("block-damaged", (f"/{name}",)) for name in hurt}


def test_a_repair_unmarks_a_lost_block_that_can_be_read_again(damaged: DamagedVolume) -> None:
    key = f"packs/{pack_of_f0(damaged)}"
    body = damaged.inner.get(key)
    damaged.inner.delete_many([key])
    assert damaged.readable_contents()["f0"] is None
    damaged.inner.put_if_absent(key, body)
    assert damaged.one("SELECT count(*) FROM lost_blocks") > 0
    assert damaged.fsck().status == 0
    assert damaged.one("SELECT count(*) FROM lost_blocks") == 0
    assert damaged.readable_contents()["f0"] == noise(0)


def test_reading_a_block_at_its_old_location_does_not_mark_it_lost(volume: MemoryVolume) -> None:
    volume.write("photo", PHOTO)
    volume.publish()
    (span, *_) = volume.index.chunks.spans(volume.fs.lookup(1, b"photo").number, 0, 1)
    volume.fs.packs.mark_block_lost(span.block._replace(pack="00000001/" + "ab" * 32))
    assert volume.index.blocks.lost() == []
    volume.fs.packs.mark_block_lost(span.block)
    assert volume.index.blocks.lost() == [span.block]
