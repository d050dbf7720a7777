# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the store has lost pages of the newest snapshot, the next one is whole, and what is hurt is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cas3fs.errors import SnapshotDamaged
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume

from .conftest import Volume, read_all, write

pytestmark = pytest.mark.encryption("plain", "encrypted")


def lose_the_first_pages(volume: Volume) -> None:
    first = min(info.key for info in volume.shelf.store.list("pages/"))
    volume.stored.delete_many([first])


def publish(opened: OpenVolume) -> str:
    assert opened.publisher is not None
    return opened.publisher.publish()


def changed(opened: OpenVolume) -> str:
    write(opened, "later", "x")
    return publish(opened)


def collected(opened: OpenVolume) -> str:
    return str(GcScheduler(opened).collect(GcSettings(), lambda _: None).snapshot)


@pytest.mark.promise("pages-are-verified-before-the-manifest")
@pytest.mark.parametrize("act", [changed, publish, collected])
def test_a_snapshot_after_lost_pages_can_be_restored(
    volume: Volume, tmp_path: Path, act: Callable[[OpenVolume], str]
) -> None:
    opened = volume.open()
    for number in range(60):
        write(opened, f"file {number}", "x" * number)
    publish(opened)
    write(opened, "another", "x")
    before = publish(opened)
    lose_the_first_pages(volume)
    after = act(opened)
    assert after != before
    volume.archive.restore(after, tmp_path / "restored")
    with pytest.raises(SnapshotDamaged):
        volume.archive.restore(before, tmp_path / "other")
    assert publish(opened) == after


@pytest.mark.promise("pages-are-verified-before-the-manifest")
def test_an_unchanged_mount_stores_again_what_the_store_lost(volume: Volume) -> None:
    before = volume.use("here", a="one")
    lose_the_first_pages(volume)
    after = volume.use("here")
    assert after != before
    assert read_all(volume.open("there")) == {"a": "one"}
    again = volume.archive.newest()
    assert again is not None and again.id >= after


@pytest.mark.promise("pages-are-verified-before-the-manifest")
def test_a_gc_names_the_snapshots_that_cannot_be_restored(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "one")
    first = publish(opened)
    write(opened, "b", "two")
    second = publish(opened)
    lose_the_first_pages(volume)
    told = GcScheduler(opened).collect(GcSettings(), lambda _: None)
    assert told.hurt_snapshots == (first, second)
    assert told.snapshot > second


@pytest.mark.promise("pages-are-verified-before-the-manifest")
def test_the_snapshot_named_beside_a_damaged_head_is_whole(volume: Volume) -> None:
    first = volume.use("here", a="one")
    second = volume.use("here", b="two")
    third = volume.use("here", c="three")
    volume.stored.delete_many([f"pages/{second}", f"pages/{third}"])
    with pytest.raises(SnapshotDamaged, match=f"--snapshot {first}"):
        volume.open("there")
