# SPDX-License-Identifier: GPL-3.0-or-later
"""gc of whole volumes, without a kernel between."""

import os
import random
import threading
import time

import pytest

from cas3fs.commands.fsck import check_open_volume
from cas3fs.commands.gc import collect_unmounted, settings_of
from cas3fs.commands.restore import restore_head
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest, GcPlanRequest, GcRequest
from cas3fs.errors import ControlError, EpochHeld, SnapshotError, UsageError
from cas3fs.filesystem import Owner
from cas3fs.maintenance.gc import planner
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.maintenance.last_results import load_last_results
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.testing.store_damage import corrupt_object
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume
from tests.contracts.blocks import hash_block
from tests.volume.conftest import Volume, answer, delete_snapshots, packs, prune_snapshots, write

pytestmark = pytest.mark.encryption("plain", "encrypted")

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
def test_a_head_with_a_large_index_is_searched_where_that_pays(
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
    corrupt_object(volume.stored, f"snapshots/{damaged}")
    with pytest.raises(SnapshotError, match=damaged):
        collect_unmounted(volume.store_settings, volume.folders("there"), request_, silent)
    assert read(volume.open("here"), "two") == "2"


@pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
def test_a_head_is_restored_back_and_forward_around_a_gc(volume: Volume) -> None:
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


@pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
def test_a_publication_waits_for_gc_and_pruning(volume: Volume) -> None:
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
