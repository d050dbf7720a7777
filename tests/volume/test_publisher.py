# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens while a snapshot is published is in that one, or in the next one, and never in none."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cas3fs.commands.restore import restore_head
from cas3fs.control import Message
from cas3fs.errors import Fenced, PinLost, StoreUnreachable
from cas3fs.filesystem import ROOT
from cas3fs.index.index_file import PinnedFile
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.removal import RemovalPlan
from cas3fs.volume import pruner
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume
from cas3fs.volume.publisher import Publisher
from tests.volume.conftest import answer

from .conftest import Volume, read_all, write


def publisher_of(opened: OpenVolume) -> Publisher:
    assert opened.publisher is not None
    return opened.publisher


def once_while_a_snapshot_is_put(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Has `work` done after the index was copied, and before the first snapshot from now on is in the store."""
    create = SnapshotArchive.create

    def meanwhile(*args: Any, **kwargs: Any) -> object:
        monkeypatch.undo()
        work()
        return create(*args, **kwargs)

    monkeypatch.setattr(SnapshotArchive, "create", meanwhile)


@pytest.mark.promise("snapshots-follow-an-interval")
def test_what_changes_while_a_snapshot_is_put_is_in_the_next_one(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = volume.open()
    write(opened, "file", "x")
    once_while_a_snapshot_is_put(monkeypatch, lambda: opened.filesystem.rename(ROOT, b"file", ROOT, b"renamed"))
    first = publisher_of(opened).publish()
    assert publisher_of(opened).publish() != first
    assert read_all(volume.view()) == {"renamed": "x"}


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
@pytest.mark.parametrize("when", ["read", "checked"])
def test_a_snapshot_is_made_of_a_copy_if_the_index_is_lost_meanwhile(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    opened = volume.open()
    write(opened, "file", "x")
    first = publisher_of(opened).publish()
    write(opened, "later", "y")
    lost = []

    def lose(pinned: PinnedFile, *_: object) -> None:
        lost.append(pinned)
        raise PinLost("the index was lost")

    monkeypatch.setattr(PinnedFile, "read_into" if when == "read" else "check", lose)
    second = publisher_of(opened).publish()
    assert len(lost) == 1
    assert second.endswith("3")  # the attempt that was given up has used up a number
    assert volume.archive.ids() == [first, second]
    assert read_all(volume.view()) == {"file": "x", "later": "y"}
    assert opened.metrics.snapshot()["snapshots.pins_lost"] == 1


@pytest.mark.promise("snapshots-follow-an-interval")
def test_a_snapshot_is_made_of_the_index_itself(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = volume.open()
    write(opened, "file", "x")
    copies: list[object] = []
    once_while_a_snapshot_is_put(monkeypatch, lambda: copies.extend(opened.state.path.glob("publish.sqlite*")))
    publisher_of(opened).publish()
    assert copies == []
    assert opened.metrics.snapshot()["checkpoint.in_place"] == 1
    assert read_all(volume.view()) == {"file": "x"}


@pytest.mark.promise("a-flush-reaches-the-store")
def test_a_wait_during_a_publication_ends_with_the_next_one(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = volume.open()
    publisher = publisher_of(opened)
    write(opened, "early", "x")
    late = threading.Thread(target=publisher.publish_shared)

    def come_late() -> None:
        write(opened, "late", "x")
        late.start()
        while publisher._requested < 2:
            pass

    once_while_a_snapshot_is_put(monkeypatch, come_late)
    publisher.publish_shared()
    late.join()
    assert read_all(volume.view()).keys() == {"early", "late"}


@pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
def test_a_gc_keeps_what_was_stored_while_a_snapshot_was_taken(volume: Volume) -> None:
    opened = volume.open()
    filesystem = opened.filesystem
    write(opened, "file", "old")

    def replace(told: Message) -> None:
        if told.get("what") == "publishing":  # all is stored, and the index is not copied yet
            write(opened, "new", "renamed over another, so the snapshot has it")
            filesystem.rename(ROOT, b"new", ROOT, b"file")

    kept = publisher_of(opened).publish(replace)
    view = volume.view()
    filesystem.unlink(ROOT, b"file")
    scheduler = GcScheduler(opened)
    for number in range(3):
        write(opened, f"other {number}", "so that there is something to publish")
        scheduler.collect(GcSettings(grace_s=0), lambda _: None)
        with publisher_of(opened).exclusively():
            publisher_of(opened).pruner.delete([one for one in volume.archive.ids()[:-1] if one != kept])
    assert read_all(view) == {"file": "renamed over another, so the snapshot has it"}


@pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
@pytest.mark.parametrize("request_", ["snapshot-delete", "snapshot-prune"])
def test_nothing_is_published_while_snapshots_are_deleted(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    first = volume.use("here", a="one")
    opened = volume.open()
    write(opened, "b", "two")
    publisher = publisher_of(opened)
    publisher.publish()
    excluded: list[bool] = []
    plan_removal = pruner.plan_removal

    def looking(*args: Any) -> RemovalPlan:
        excluded.append(publisher._mutex.locked())
        return plan_removal(*args)

    monkeypatch.setattr(pruner, "plan_removal", looking)
    told = answer(opened, request_, {"ids": [first], "policy": {"last": 1}})
    assert told["removed"] == [first]
    assert excluded == [True]


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing")
def test_an_overtaken_restored_head_is_not_acknowledged(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    once_while_a_snapshot_is_put(monkeypatch, lambda: volume.take_over("there"))
    with pytest.raises(Fenced):
        restore_head(volume.store_settings, volume.folders("here"), first, lambda _: None)


@pytest.mark.promise("numbers-are-never-reused")
def test_a_publication_that_seemed_to_fail_gets_another_number(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = volume.open()
    write(opened, "a", "one")
    create = SnapshotArchive.create

    def without_answer(*args: Any, **kwargs: Any) -> object:
        create(*args, **kwargs)
        raise StoreUnreachable("no route")

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotArchive, "create", without_answer)
        with pytest.raises(StoreUnreachable):
            publisher_of(opened).publish()
    (first,) = volume.archive.ids()
    assert publisher_of(opened).publish() > first
