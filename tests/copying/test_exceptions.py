# SPDX-License-Identifier: GPL-3.0-or-later
"""What a copy does with losses, snapshots that go away, and destinations that are none."""

import errno
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cas3fs.commands.copy import CopyRequest, CopyResult, copy_volume
from cas3fs.control import Message
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import SnapshotDamaged, SnapshotMissing, UsageError, VolumeExists
from cas3fs.filesystem import ROOT
from cas3fs.index import Index
from cas3fs.metrics import Metrics
from cas3fs.objectstores import open_store
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import current_policy, set_policy
from cas3fs.testing.store_damage import corrupt_object
from cas3fs.volume.state_directory import StateDirectory

from .conftest import Pair, Place, filled, noise, publish, two_files, write

ALIKE = {"block_size_bytes": 64 * 1024, "pack_size_bytes": 1 << 20}
DESTINATIONS = {
    "alike": ALIKE,
    "sealed": ALIKE | {"encrypt": True},
    "cut-anew": ALIKE | {"chunker": "fixed"},
    "cut-anew-and-sealed": ALIKE | {"block_size_bytes": 16 * 1024, "encrypt": True},
}


def copy_reporting(volumes: Pair, destination: Place, report: Any, **request: Any) -> CopyResult:
    return copy_volume(
        volumes.source.settings, destination.settings, destination.folders, CopyRequest(**request), report
    )


def packs(place: Place) -> list[Path]:
    """The packs of a volume, oldest first."""
    return sorted((place.store / "packs").rglob("*/*"), key=lambda path: path.stat().st_mtime_ns)


# --- losses


@pytest.mark.promise("a-copy-has-no-content-of-its-own")
@pytest.mark.parametrize("damage", ["missing", "corrupt"])
@pytest.mark.parametrize("kind", DESTINATIONS)
def test_what_the_source_has_lost_fails_in_the_copy(volumes: Pair, kind: str, damage: str) -> None:
    originals = two_files(volumes.source)
    victim = packs(volumes.source)[3]
    if damage == "missing":
        victim.unlink()
    else:
        with closing(open_store(volumes.source.settings, Metrics())) as store:
            corrupt_object(store, str(victim.relative_to(volumes.source.store)))
    destination = volumes.make(**DESTINATIONS[kind])
    result = volumes.copy(destination, verify=True)
    tree = destination.tree()
    assert errno.EIO in tree["/hurt"]["content"]
    assert any(isinstance(piece, bytes) for piece in tree["/hurt"]["content"])
    assert tree == volumes.source.tree()
    assert destination.tree(destination.snapshots()[0].id) == volumes.source.tree(originals[0])
    assert result.lost_blocks > 0
    assert [str(result.lost_blocks) in one for one in result.problems] == [True]
    assert result.verified is not None
    assert (result.verified.differences, result.verified.lost_bytes > 0) == (0, True)
    status, codes = destination.check()
    assert (status, set(codes)) == (0, {"known-loss"})


@pytest.mark.promise("a-copy-has-no-content-of-its-own")
@pytest.mark.parametrize("kind", DESTINATIONS)
def test_what_comes_back_is_whole_in_the_next_snapshot(volumes: Pair, kind: str) -> None:
    two_files(volumes.source)
    victim = packs(volumes.source)[3]
    victim.rename(volumes.root / "aside")
    destination = volumes.make(**DESTINATIONS[kind])
    assert volumes.copy(destination).lost_blocks > 0
    (volumes.root / "aside").rename(victim)
    with closing(volumes.source.open()) as opened:
        write(opened.filesystem, "another", b"1")
        opened.finish()
    assert volumes.copy(destination, newest=True, verify=True).problems == []
    assert destination.tree() == volumes.source.tree()
    assert all(isinstance(piece, bytes) for piece in destination.tree()["/hurt"]["content"])


@pytest.mark.promise("a-copy-has-no-content-of-its-own")
def test_an_index_that_has_lost_chunks_is_not_copied(volumes: Pair) -> None:
    with closing(volumes.source.open()) as opened:
        number = write(opened.filesystem, "file", noise(1, 300_000))
        assert opened.publisher is not None
        opened.publisher.store()
        with opened.filesystem.index_transaction() as index:
            index.chunks._delete.run(number, 0, 100_000)  # as a disk that has lost a page
        publish(opened)
        opened.finish()
    destination = volumes.make(**ALIKE)
    result = volumes.copy(destination)
    assert destination.snapshots() == []
    assert ["fsck --repair" in one for one in result.problems] == [True] * len(result.problems)
    with pytest.raises(SnapshotDamaged, match="fsck --repair"):
        volumes.copy(destination, newest=True)


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_what_the_destination_has_lost_is_found_by_verifying(volumes: Pair, kind: str) -> None:
    two_files(volumes.source)
    destination = volumes.make(**DESTINATIONS[kind])
    assert volumes.copy(destination, verify=True).problems == []
    packs(destination)[1].unlink()
    result = volumes.copy(destination, verify=True)
    assert result.snapshots == []
    assert result.verified is not None
    assert (result.verified.differences > 0, result.verified.lost_bytes) == (True, 0)
    assert ["inode" in one for one in result.problems] == [True] * result.verified.differences


# --- snapshots that go away


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_a_snapshot_that_is_deleted_meanwhile_is_skipped(volumes: Pair, kind: str) -> None:
    originals = filled(volumes.source)
    destination = volumes.make(**DESTINATIONS[kind])

    def report(message: Message) -> None:
        if message["what"].startswith("snapshot 1 of 3: publishing"):
            (volumes.source.store / "snapshots" / originals[1]).unlink(missing_ok=True)

    result = copy_reporting(volumes, destination, report)
    assert ([one["id"] for one in result.skipped], result.problems) == ([originals[1]], [])
    assert [one.copied for one in destination.snapshots()] == [originals[0], originals[2]]
    assert destination.check() == (0, {})


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_blocks_that_gc_deletes_with_their_snapshot_are_no_loss(volumes: Pair, kind: str) -> None:
    originals = two_files(volumes.source)
    destination = volumes.make(**DESTINATIONS[kind])
    with closing(volumes.source.open()) as opened:
        opened.filesystem.unlink(ROOT, b"hurt")
        newest = publish(opened)
        opened.finish()

    def report(message: Message) -> None:
        if message["what"].startswith("snapshot 2 of 3: copying"):
            (volumes.source.store / "snapshots" / originals[1]).unlink(missing_ok=True)
            for pack in packs(volumes.source)[3:]:
                pack.unlink()

    result = copy_reporting(volumes, destination, report)
    assert ([one["id"] for one in result.skipped], result.problems) == ([originals[1]], [])
    assert [one.copied for one in destination.snapshots()] == [originals[0], newest]
    assert destination.check() == (0, {})


def test_a_snapshot_is_marked_as_in_use_while_it_is_copied(volumes: Pair) -> None:
    originals = two_files(volumes.source)
    destination = volumes.make(**ALIKE)
    shown = []

    def report(message: Message) -> None:
        if message["what"].endswith("publishing"):
            state = StateDirectory(destination.folders.state_of(volumes.uuid_of(volumes.source)))
            shown.append(state.shown())
            state.close()

    copy_reporting(volumes, destination, report)
    assert [list(one) for one in shown] == [[originals[0]], [originals[1]]]


def test_a_snapshot_that_was_asked_for_has_to_stay(volumes: Pair) -> None:
    first, second = two_files(volumes.source)

    def report(message: Message) -> None:
        if message["what"] == "copying blocks":
            (volumes.source.store / "snapshots" / second).unlink(missing_ok=True)
            for pack in packs(volumes.source)[3:]:
                pack.unlink()

    destination = volumes.make(**ALIKE)
    with pytest.raises(SnapshotMissing, match=second):
        copy_reporting(volumes, destination, report, snapshots=(second,))
    assert destination.snapshots() == []
    assert [one["source"] for one in volumes.copy(destination).snapshots] == [first]


def test_a_damaged_snapshot_is_reported_and_the_others_are_copied(volumes: Pair) -> None:
    originals = filled(volumes.source)
    with closing(open_store(volumes.source.settings, Metrics())) as store:
        corrupt_object(store, f"snapshots/{originals[1]}")
    destination = volumes.make(**ALIKE)
    result = volumes.copy(destination)
    assert [one["source"] for one in result.snapshots] == [originals[0], originals[2]]
    assert [originals[1] in one for one in result.problems] == [True]


# --- which snapshots


def test_only_the_newest_or_the_named_ones_are_copied(volumes: Pair) -> None:
    first, _, third = filled(volumes.source)
    named, newest = volumes.make(**ALIKE), volumes.make(**ALIKE)
    volumes.copy(named, snapshots=(third, first, third))
    volumes.copy(newest, newest=True)
    assert [one.copied for one in named.snapshots()] == [first, third]
    assert [one.copied for one in newest.snapshots()] == [third]
    assert newest.tree() == named.tree() == volumes.source.tree()


def test_a_snapshot_older_than_what_was_copied_is_refused(volumes: Pair) -> None:
    first, second, third = filled(volumes.source)
    destination = volumes.make(**ALIKE)
    volumes.copy(destination, snapshots=(second,))
    with pytest.raises(UsageError, match=f"snapshot {first} cannot be copied any more"):
        volumes.copy(destination, snapshots=(first,))
    result = volumes.copy(destination)
    assert [one["source"] for one in result.snapshots] == [third]
    assert [first in one for one in result.problems] == [True]


def test_a_snapshot_that_does_not_exist_is_an_error(volumes: Pair) -> None:
    two_files(volumes.source)
    with pytest.raises(SnapshotMissing):
        volumes.copy(volumes.make(**ALIKE), snapshots=("00000009-0000000001",))


def test_empty_volumes_are_copied(volumes: Pair) -> None:
    never_used, destination = volumes.make(**ALIKE), volumes.make(**ALIKE)
    assert volumes.copy(destination, never_used).snapshots == []
    with closing(volumes.source.open()) as opened:
        opened.finish()
    other = volumes.make(**ALIKE, encrypt=True)
    assert len(volumes.copy(other, verify=True).snapshots) == 1
    assert other.tree() == volumes.source.tree()
    assert other.check() == (0, {})


def test_snapshots_of_a_copy_share_their_pages(volumes: Pair) -> None:
    with closing(volumes.source.open()) as opened:
        for number in range(3000):
            write(opened.filesystem, f"file-{number}", b"%d" % number)
        publish(opened)
        write(opened.filesystem, "one-more", b"1")
        publish(opened)
        opened.finish()
    destination = volumes.make(**ALIKE)
    volumes.copy(destination)
    first, second = destination.snapshots()
    assert second.new_size < first.new_size / 4


# --- what else is copied


def test_the_retention_policy_is_copied(volumes: Pair) -> None:
    two_files(volumes.source)
    policy = RetentionPolicy(daily=9, names=("keep-*",))
    with closing(open_store(volumes.source.settings, Metrics())) as store:
        set_policy(Shelf(store), policy, conditional_writes=True)
    destination = volumes.make(**ALIKE)
    assert volumes.copy(destination).policy_copied
    assert not volumes.copy(destination).policy_copied
    with closing(open_store(destination.settings, Metrics())) as store:
        assert current_policy(Shelf(store)) == policy


def test_what_the_index_notes_of_its_files_is_copied(volumes: Pair) -> None:
    with closing(volumes.source.open()) as opened:
        number = write(opened.filesystem, "file", b"1")
        with opened.filesystem.index_transaction() as index:
            index.state.set("has_access_lists", "yes")
        assert number
        opened.finish()
    destination = volumes.make(**ALIKE)
    volumes.copy(destination)
    with closing(destination.view()) as view, Index.open(view.state.index, read_only=True) as index:
        assert index.state.get("has_access_lists") == "yes"
        assert index.state.get("claim") is None


# --- destinations


def test_a_copy_is_a_volume_like_any_other(volumes: Pair) -> None:
    filled(volumes.source)
    destination = volumes.make(**ALIKE, encrypt=True)
    volumes.copy(destination)
    with closing(destination.open()) as opened:
        assert not (destination.folders.state_dir / opened.state.path.name / "copy").exists()
        numbers = {inode["number"] for inode in volumes.source.tree().values()}
        assert write(opened.filesystem, "mine", noise(50, 100_000)) > max(numbers)
        opened.finish()
    assert destination.tree()["/mine"]["content"] == [noise(50, 100_000)]
    assert {**destination.tree(), "": None, "/mine": None} == {**volumes.source.tree(), "": None, "/mine": None}
    assert destination.check() == (0, {})
    with pytest.raises(VolumeExists, match="in use, and no copy"):
        volumes.copy(destination)


@pytest.mark.promise("a-copy-only-reads-its-source")
def test_a_destination_with_other_content_is_refused(volumes: Pair) -> None:
    two_files(volumes.source)
    used, other_copy, other_source = (volumes.make(**ALIKE) for _ in range(3))
    two_files(used)
    two_files(other_source)
    volumes.copy(other_copy, other_source)
    for place, why in ((used, "in use, and no copy"), (other_copy, "a copy of another volume")):
        before = place.objects()
        with pytest.raises(VolumeExists, match=why):
            volumes.copy(place)
        assert place.objects() == before
    with pytest.raises(UsageError, match="is the volume that is to be copied"):
        volumes.copy(volumes.source)


def test_a_source_that_is_mounted_can_be_copied(volumes: Pair) -> None:
    destination = volumes.make(**ALIKE)
    with closing(volumes.source.open()) as opened:
        write(opened.filesystem, "a", noise(1, 200_000))
        publish(opened)
        write(opened.filesystem, "b", b"not published")
        volumes.copy(destination)
        opened.finish()
    assert list(destination.tree()) == ["", "/a"]
