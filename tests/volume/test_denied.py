# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot that nobody deleted, and of which the store says that it is not there: what it needs is kept, and told."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest, GcRequest
from cas3fs.errors import SnapshotMissing
from cas3fs.filesystem import ROOT
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.objectstores.base import ObjectStore
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStores
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume
from tests.volume.conftest import delete_snapshots

from .conftest import Volume, publish, read_all, view_of, write


@pytest.fixture
def volume(encryption: str, faulty_stores: FaultyStores, tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bare(volume: Volume, faulty_stores: FaultyStores) -> ObjectStore:
    """The store without a fault."""
    return faulty_stores.without_faults(volume.store_settings.url)


def silent(_: Message) -> None:
    """Takes what is told on the way."""


def removed(opened: OpenVolume, name: str) -> None:
    opened.filesystem.unlink(ROOT, name.encode())


def made(volume: Volume, host: str = "A") -> tuple[str, dict[str, str]]:
    """A snapshot that alone needs packs and pages, with its files; the volume is released."""
    files = {"big": os.urandom(30_000).hex(), **{f"f{number}": "x" for number in range(50)}}
    first = volume.use(host, **files)
    opened = volume.open(host)
    for name in files:
        removed(opened, name)
    GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert opened.publisher is not None
    with opened.publisher.exclusively():
        going = [one for one in opened.archive.ids() if one not in (first, opened.archive.newest_id())]
        opened.publisher.pruner.delete(going)
    opened.finish()
    opened.close()
    return first, files


def gc(volume: Volume, host: str) -> Any:
    return collect_unmounted(volume.store_settings, volume.folders(host), GcRequest(grace_s=0), silent)


@pytest.mark.promise("a-denied-snapshot-is-kept")
@pytest.mark.parametrize("host", ["A", "B"])
def test_what_a_denied_snapshot_needs_outlives_gc_and_pruning(
    volume: Volume, faulty_stores: FaultyStores, host: str
) -> None:
    first, files = made(volume)
    with faulty_stores.faults.on(FaultKind.HIDDEN, keys=[f"snapshots/{first}"]):
        for number in range(2):
            told = gc(volume, host)
            (problem,) = told.problems
            assert first in problem and "fsck --repair" in problem and "snapshot delete" in problem
            opened = volume.open(host)
            write(opened, f"later{number}", "x")
            publish(opened)
            assert opened.publisher is not None
            with opened.publisher.exclusively():
                opened.publisher.pruner.prune(RetentionPolicy(last=1))
            opened.finish()
            opened.close()
    assert read_all(view_of(volume, first)) == files
    assert gc(volume, host).problems == ()


@pytest.mark.promise("a-denied-snapshot-is-kept")
@pytest.mark.parametrize("by", ["delete", "repair"])
def test_a_person_gives_a_denied_snapshot_up(volume: Volume, bare: ObjectStore, by: str) -> None:
    first, _ = made(volume)
    bare.delete_many([f"snapshots/{first}"])
    before = {info.key for info in bare.list("packs/")}
    found: list[Message] = []
    check_unmounted(volume.store_settings, volume.folders("B"), FsckRequest(), found.append)
    told = [one["finding"] for one in found if "finding" in one]
    assert [(one["code"], one["touches"]) for one in told] == [("snapshot-missing", {"snapshot": first})]
    assert gc(volume, "A").problems
    assert {info.key for info in bare.list("packs/")} >= before
    if by == "delete":
        delete_snapshots(volume, "A", first)
        with pytest.raises(SnapshotMissing):
            delete_snapshots(volume, "A", first)
    else:
        assert check_unmounted(volume.store_settings, volume.folders("A"), FsckRequest(repair=True), silent).status == 1
    assert check_unmounted(volume.store_settings, volume.folders("B"), FsckRequest(), silent).status == 0
    assert gc(volume, "A").problems == ()
    assert not {info.key for info in bare.list("packs/")} & before


@pytest.mark.promise("a-denied-snapshot-is-kept")
def test_a_writer_after_a_crash_misses_what_it_had_published(volume: Volume, faulty_stores: FaultyStores) -> None:
    opened = volume.open("A")
    write(opened, "a", os.urandom(30_000).hex())
    first = publish(opened)
    removed(opened, "a")
    publish(opened)
    opened.close()
    with faulty_stores.faults.on(FaultKind.HIDDEN, keys=[f"snapshots/{first}"]):
        (problem,) = gc(volume, "A").problems
    assert first in problem


@pytest.mark.promise("a-denied-snapshot-is-kept")
def test_who_dies_while_deleting_snapshots_does_not_miss_them(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = made(volume)
    opened = volume.open("A")
    write(opened, "more", "x")
    publish(opened)
    assert opened.publisher is not None
    delete = opened.archive.delete

    def die(ids: list[str]) -> None:
        delete(ids)
        raise KeyboardInterrupt

    monkeypatch.setattr(opened.archive, "delete", die)
    with pytest.raises(KeyboardInterrupt):
        opened.publisher.pruner.delete([first])
    opened.close()
    assert gc(volume, "A").problems == ()


@pytest.mark.promise("a-denied-snapshot-is-kept")
def test_what_another_writer_deleted_is_not_missed(volume: Volume) -> None:
    first, _ = made(volume, "A")
    volume.use("B", b="x")
    delete_snapshots(volume, "B", first)
    assert gc(volume, "A").problems == ()
    held = volume.open("B")
    assert held.publisher is not None
    other = publish(held)
    write(held, "c", "x")
    publish(held)
    held.publisher.pruner.delete([other])
    held.close()
    opened = volume.open("A", take_over=True)
    opened.finish()
    opened.close()
    assert gc(volume, "A").problems == ()
