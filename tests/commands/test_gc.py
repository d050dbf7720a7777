# SPDX-License-Identifier: GPL-3.0-or-later
"""gc and fsck of whole volumes, without a kernel between."""

import os
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cas3fs.blocks.codec import hash_block
from cas3fs.commands.fsck import check_open_volume, check_unmounted
from cas3fs.commands.gc import collect_unmounted, settings_of
from cas3fs.commands.restore import restore_head
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckReply, FsckRequest, GcPlanRequest, GcRequest
from cas3fs.errors import ControlError, EpochHeld, SnapshotDamaged, SnapshotError, UsageError
from cas3fs.filesystem import Owner
from cas3fs.maintenance.gc import planner
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.maintenance.last_results import load_last_results
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.testing.store_damage import corrupt_object
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume
from tests.volume.conftest import Volume, answer, delete_snapshots, packs, prune_snapshots, write

NOW = GcRequest(grace_s=0)


def text(seed: int) -> str:
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=200_000))


def read(volume: OpenVolume, name: str) -> str:
    filesystem = volume.filesystem
    inode = filesystem.lookup(1, name.encode())
    handle = filesystem.open(inode.number, os.O_RDONLY, Owner())
    data = bytes(filesystem.read(handle, 0, inode.size))
    filesystem.release(handle)
    return data.decode()


def silent(told: Message) -> None:
    pass


def fsck(volume: Volume, host: str = "here", **args: Any) -> tuple[FsckReply, list[str]]:
    found: list[str] = []

    def take(told: Message) -> None:
        if "finding" in told:
            found.append(told["finding"]["code"])

    return check_unmounted(volume.store_settings, volume.folders(host), FsckRequest(**args), take), found


def lose_packs(volume: Volume) -> None:
    for key in packs(volume):
        (volume.root / "v" / key).unlink()


def test_a_volume_that_is_not_open_is_collected_and_released(volume: Volume) -> None:
    volume.use("here", one=text(1), two=text(2))
    opened = volume.open("here")
    opened.filesystem.unlink(1, b"one")
    opened.finish()
    opened.close()
    for snapshot in volume.archive.ids()[:-1]:
        volume.archive.delete([snapshot])
    before = packs(volume)
    plan = collect_unmounted(volume.store_settings, volume.folders("here"), GcPlanRequest(grace_s=0), silent)
    assert plan.dead_blocks == 1
    assert packs(volume) == before
    collect_unmounted(volume.store_settings, volume.folders("here"), NOW, silent)
    assert load_last_results(volume.state("here"))["gc"]["dropped_blocks"] == 1
    elsewhere = volume.open("there")
    assert read(elsewhere, "two") == text(2)


def test_deleted_files_are_freed_by_one_gc_after_pruning(volume: Volume) -> None:
    """The newest snapshot was taken after they were deleted, so it does not hold them, however little they were."""
    volume.use("here", one="1")
    opened = volume.open("here")
    opened.filesystem.unlink(1, b"one")
    opened.finish()
    opened.close()
    prune_snapshots(volume, "here", RetentionPolicy(last=1))
    collect_unmounted(volume.store_settings, volume.folders("here"), NOW, silent)
    assert packs(volume) == set()


@pytest.mark.parametrize("searched", [True, False])
def test_a_newest_snapshot_with_a_large_index_is_searched_where_that_pays(
    volume: Volume, searched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "SMALL_INDEX_BYTES", 0)
    volume.use("here", one=os.urandom(500_000).hex() if searched else "1")
    opened = volume.open("here")
    opened.filesystem.unlink(1, b"one")
    newest = opened.finish()
    opened.close()
    prune_snapshots(volume, "here", RetentionPolicy(last=1))
    collect_unmounted(volume.store_settings, volume.folders("here"), NOW, silent)
    assert (packs(volume) == set()) is searched
    if not searched:
        delete_snapshots(volume, "here", str(newest))
        collect_unmounted(volume.store_settings, volume.folders("here"), NOW, silent)
        assert packs(volume) == set()


def test_a_volume_that_is_open_elsewhere_is_not_collected(volume: Volume) -> None:
    volume.open("there")
    with pytest.raises(EpochHeld):
        collect_unmounted(volume.store_settings, volume.folders("here"), NOW, silent)


@pytest.mark.parametrize("request_", [NOW, GcPlanRequest()], ids=["gc", "plan"])
def test_a_gc_that_refuses_to_go_on_leaves_the_volume_free(volume: Volume, request_: GcRequest | GcPlanRequest) -> None:
    damaged = volume.use("here", one="1")
    volume.use("here", two="2")
    corrupt_object(volume.shelf.store, f"snapshots/{damaged}")
    with pytest.raises(SnapshotError, match=damaged):
        collect_unmounted(volume.store_settings, volume.folders("there"), request_, silent)
    assert read(volume.open("here"), "two") == "2"


@pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
def test_an_older_state_is_restored_collected_and_restored_forward_again(volume: Volume) -> None:
    folders = volume.folders("here")
    first = volume.use("here", one=text(1))
    opened = volume.open("here")
    opened.filesystem.unlink(1, b"one")
    write(opened, "two", text(2))
    second = opened.finish()
    opened.close()
    collect_unmounted(volume.store_settings, folders, NOW, silent)
    restore_head(volume.store_settings, folders, first, silent)
    volume.use("here", three=text(3))
    collect_unmounted(volume.store_settings, folders, NOW, silent)
    assert second is not None
    restore_head(volume.store_settings, folders, second, silent)
    collect_unmounted(volume.store_settings, folders, NOW, silent)
    opened = volume.open("elsewhere")
    assert read(opened, "two") == text(2)
    opened.finish()
    opened.close()
    restore_head(volume.store_settings, volume.folders("elsewhere"), first, silent)
    assert read(volume.open("elsewhere"), "one") == text(1)


@pytest.mark.parametrize("request_", [GcRequest(min_live=2), GcRequest(grace_s=-1), GcPlanRequest(min_live=2)])
def test_settings_that_make_no_sense_are_refused(request_: GcRequest | GcPlanRequest) -> None:
    with pytest.raises(UsageError):
        settings_of(request_)


def test_a_request_with_a_value_of_the_wrong_type_is_refused(volume: Volume) -> None:
    with pytest.raises(ControlError, match="expected float"):
        answer(volume.open("here"), "gc", {"min_live": "much"})


def test_a_view_is_neither_collected_nor_checked(volume: Volume) -> None:
    volume.use("here", one="1")
    view = volume.view()
    with pytest.raises(ControlError, match="read-only"):
        GcScheduler(view).collect(GcSettings(), silent)
    with pytest.raises(ControlError, match="read-only"):
        check_open_volume(view, FsckRequest(), silent)


def test_a_periodic_gc_deletes_garbage(volume: Volume) -> None:
    volume.use("here", one=text(1), two=text(2))
    opened = volume.open("here")
    opened.filesystem.unlink(1, b"one")
    scheduler = GcScheduler(opened)
    scheduler.start(0.05)
    deadline_s = time.monotonic() + 30
    while "gc" not in load_last_results(volume.state("here")) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    scheduler.stop()
    assert load_last_results(volume.state("here"))["gc"]["snapshot"].startswith("00000002-")
    with opened.filesystem.index_transaction() as index:
        assert index.blocks.find([hash_block(text(1).encode())]) == {}
    assert read(opened, "two") == text(2)
    opened.finish()


def test_a_periodic_gc_ends_with_the_volume(volume: Volume) -> None:
    opened = volume.open("here")
    scheduler = GcScheduler(opened)
    scheduler.start(3600)
    assert "gc" in {thread.name for thread in threading.enumerate()}
    scheduler.stop()
    assert "gc" not in {thread.name for thread in threading.enumerate()}
    opened.finish()


class TestFsck:
    """Through the process of a mount, without a claim, and with one."""

    def test_an_open_volume_is_clean_while_files_wait_to_be_stored(self, volume: Volume) -> None:
        opened = volume.open("here")
        write(opened, "one", text(1))
        told = check_open_volume(opened, FsckRequest(verify_data=True), silent)
        assert told.status == 0
        with pytest.raises(ControlError, match="unmount it"):
            check_open_volume(opened, FsckRequest(repair=True), silent)

    @pytest.mark.parametrize("host", ["here", "there"])
    def test_a_closed_volume_is_clean_here_and_elsewhere_and_is_not_claimed(self, volume: Volume, host: str) -> None:
        volume.use("here", one=text(1))
        before = {info.key for info in volume.shelf.store.list()}
        assert fsck(volume, host, verify_data=True)[0].status == 0
        assert {info.key for info in volume.shelf.store.list()} == before

    def test_an_index_that_others_have_gone_on_from_is_not_the_one_that_is_checked(self, volume: Volume) -> None:
        volume.use("here", one=text(1))
        before = packs(volume)
        newest = volume.use("there", two=text(2))
        (pack,) = packs(volume) - before
        volume.shelf.store.delete_many([pack])
        told, found = fsck(volume, "here")
        assert (told.status, found) == (4, ["pack-missing"])
        assert newest in told.checked["index"]

    def test_staged_bytes_that_are_gone_are_found_without_a_claim(self, volume: Volume) -> None:
        killed = volume.open("here")
        write(killed, "big", text(1) * 5)
        killed.filesystem.commit()
        killed.close()
        for path in (volume.state("here") / "staging").iterdir():
            path.unlink()
        told, found = fsck(volume)
        assert (told.status, found) == (4, ["staging-bytes-missing"])

    def test_damage_in_the_store_is_found_and_mended_and_told_in_lost_and_found(self, volume: Volume) -> None:
        volume.use("here", one=text(1), two="2")
        corrupt_object(volume.shelf.store, min(packs(volume)))
        told, found = fsck(volume, verify_data=True)
        assert (told.status, told.codes, found) == (4, {"block-damaged": 1}, ["block-damaged"])
        told, _ = fsck(volume, verify_data=True, repair=True)
        assert (told.status, told.lost) == (1, 1)
        assert fsck(volume, verify_data=True)[0].status == 0
        opened = volume.open("there")
        lost = opened.filesystem.lookup(1, b"lost+found")
        assert lost.is_directory

    @pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
    @pytest.mark.parametrize("repair", [False, True], ids=["told", "repaired"])
    def test_files_of_a_lost_pack_are_healed_by_a_copy_after_a_check(self, volume: Volume, repair: bool) -> None:
        volume.use("here", photo=text(1), twin=text(1))
        lose_packs(volume)
        assert fsck(volume, repair=repair)[1] == (["pack-missing", "known-loss"] if repair else ["pack-missing"])
        volume.use("here", copy=text(1))
        assert not (volume.state("here") / "lost.json").exists()
        opened = volume.open("there")
        assert [read(opened, name) for name in ("photo", "twin", "copy")] == [text(1)] * 3

    @pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
    def test_a_check_of_an_open_volume_makes_what_is_lost_known_to_it(self, volume: Volume) -> None:
        volume.use("here", photo=text(1))
        lose_packs(volume)
        opened = volume.open("here")
        assert check_open_volume(opened, FsckRequest(), silent).codes == {"pack-missing": 1}
        write(opened, "copy", text(1))
        opened.filesystem.store_all()
        assert read(opened, "photo") == text(1)
        assert check_open_volume(opened, FsckRequest(), silent).codes == {"snapshot-pack-missing": 1}

    def test_a_note_of_losses_that_cannot_be_read_keeps_nobody_from_mounting(self, volume: Volume) -> None:
        volume.use("here", photo="1")
        note = volume.state("here") / "lost.json"
        note.write_text('{"packs": 3}')
        assert read(volume.open("here"), "photo") == "1"
        assert not note.exists()

    def test_a_damaged_index_is_set_aside_and_the_newest_snapshot_restored(self, volume: Volume) -> None:
        volume.use("here", one=text(1))
        index = volume.state("here") / "index.sqlite"
        data = bytearray(index.read_bytes())
        data[4096 * 2 :] = b"\xff" * (len(data) - 4096 * 2)
        index.write_bytes(bytes(data))
        told, found = fsck(volume)
        assert (told.status, found[0]) == (4, "index-damaged")
        told, found = fsck(volume, repair=True)
        assert (told.status, found) == (1, ["index-damaged"])
        assert read(volume.open("here"), "one") == text(1)

    def test_the_newest_snapshot_that_is_whole_is_checked_where_there_is_no_index(self, volume: Volume) -> None:
        older = volume.use("here", one=text(1))
        newest = volume.use("here", two="2")
        shutil.rmtree(volume.state("here"))
        Path(volume.root / "v" / "pages" / newest).unlink()
        told, found = fsck(volume)
        assert (told.status, found) == (4, ["pages-missing"])
        assert older in told.checked["index"]

    @pytest.mark.parametrize("folder", ["pages", "snapshots"])
    def test_a_repair_without_an_index_begins_from_the_newest_snapshot_that_is_whole(
        self, volume: Volume, folder: str
    ) -> None:
        older = volume.use("here", one=text(1))
        newest = volume.use("here", two=text(2))
        shutil.rmtree(volume.state("here"))
        corrupt_object(volume.shelf.store, f"{folder}/{newest}")
        before = packs(volume)
        told, found = fsck(volume)
        code = "snapshot-unreadable" if folder == "pages" else "snapshot-damaged"
        assert (told.status, found) == (4, [code])
        assert older in told.checked["index"]
        told, found = fsck(volume, repair=True)
        assert (told.status, found) == (1, [code, "snapshot-put-aside"])
        assert volume.shelf.store.head(f"damaged/snapshots/{newest}").size
        told, found = fsck(volume, verify_data=True)
        assert (told.status, found) == (0, ["snapshot-put-aside"])
        collect_unmounted(volume.store_settings, volume.folders("here"), NOW, silent)
        assert before <= packs(volume)  # what only the snapshot that was quarantined names
        assert read(volume.open("there"), "one") == text(1)

    def test_a_repair_of_a_volume_of_which_no_snapshot_is_whole_changes_nothing(self, volume: Volume) -> None:
        only = volume.use("here", one=text(1))
        shutil.rmtree(volume.state("here"))
        corrupt_object(volume.shelf.store, f"pages/{only}")
        before = {info.key for info in volume.shelf.store.list("snapshots/")}
        with pytest.raises(SnapshotDamaged, match="no snapshot is intact"):
            fsck(volume, repair=True)
        assert {info.key for info in volume.shelf.store.list("snapshots/")} == before


@pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
def test_who_publishes_waits_while_something_is_collected_or_pruned(volume: Volume) -> None:
    opened = volume.open()
    publisher = opened.publisher
    assert publisher is not None
    write(opened, "a", "1")
    with publisher.exclusively():
        thread = threading.Thread(target=publisher.publish)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert volume.archive.ids() == []
    thread.join(30)
    assert len(volume.archive.ids()) == 1
