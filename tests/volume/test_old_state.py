# SPDX-License-Identifier: GPL-3.0-or-later
"""A state directory that is an old copy of itself: what was published stays, and the rest can be saved."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.commands.rescue import rescue
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest, GcRequest
from cas3fs.errors import Fenced, IndexCorrupt, SnapshotError
from cas3fs.index import Index
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.volume.comparison import ATTEMPTED, CLEAN, LINEAGE, PROOF, PUBLISHED
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume

from .conftest import Volume, packs, publish, read_all, view_of, write


def silent(message: Message) -> None:
    """Nobody watches."""


def keep_copy(volume: Volume, opened: OpenVolume) -> Path:
    """A backup of the state directory, taken while the volume is open."""
    opened.filesystem.commit()
    copy = volume.root / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(volume.state("here"), copy)
    return copy


def put_back(volume: Volume, copy: Path) -> None:
    """The backup takes the place of the state directory."""
    shutil.rmtree(volume.state("here"))
    shutil.copytree(copy, volume.state("here"))


def set_back(volume: Volume, copy: Path) -> None:
    """The files are as they were, and the same ones, as where a whole machine is set back to an earlier state."""
    lock = volume.state("here") / "lock"
    inode = lock.stat().st_ino
    shutil.copytree(copy, volume.state("here"), dirs_exist_ok=True)
    assert lock.stat().st_ino == inode


def aside(volume: Volume) -> list[Path]:
    """The folders set aside."""
    return sorted((volume.state("here") / "set-aside").glob("*"))


def check_all_snapshots(volume: Volume, expected: dict[str, dict[str, str]]) -> None:
    """After a gc every retained snapshot holds what it held, and fsck finds nothing."""
    collect_unmounted(volume.store_settings, volume.folders("here"), GcRequest(grace_s=0), silent)
    for snapshot, files in expected.items():
        view = view_of(volume, snapshot)
        assert read_all(view) == files
        view.close()
    told = check_unmounted(volume.store_settings, volume.folders("here"), FsckRequest(verify_data=True), silent)
    assert (told.status, told.codes) == (0, {})


@pytest.mark.promise("an-old-copy-of-an-index-is-set-aside", "an-old-state-folder-rolls-nothing-back")
@pytest.mark.parametrize("bring_back", [put_back, set_back])
def test_what_was_published_after_a_copy_of_the_state_stays(
    volume: Volume, caplog: pytest.LogCaptureFixture, bring_back: Callable[[Volume, Path], None]
) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    first = publish(opened)
    write(opened, "copied", "staged when the copy was made")
    copy = keep_copy(volume, opened)
    write(opened, "thesis", "years of work")
    second = publish(opened)
    write(opened, "b", "2")
    third = opened.finish()
    opened.close()
    bring_back(volume, copy)
    everything = {"a": "1", "copied": "staged when the copy was made", "thesis": "years of work", "b": "2"}
    with caplog.at_level(logging.WARNING):
        again = volume.open()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "is an old copy" in warnings[0] and "cas3fs rescue" in warnings[0] and str(third) in warnings[0]
    assert read_all(again) == everything
    write(again, "new", "3")
    fourth = str(again.finish())
    again.close()
    assert volume.archive.load(fourth).parent == third
    check_all_snapshots(
        volume,
        {first: {"a": "1"}, second: {k: everything[k] for k in ("a", "copied", "thesis")}, str(third): everything},
    )
    saved = volume.root / "saved"
    report = rescue(volume.store_settings, aside(volume)[0], saved, silent)
    assert (report["since_snapshot"], report["problems"]) == (first, [])
    assert {path.name: path.read_text() for path in saved.iterdir()} == {"copied": "staged when the copy was made"}


@pytest.mark.promise("an-old-copy-of-an-index-is-set-aside")
def test_a_copy_comes_back_after_publishings_and_a_gc(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    first = publish(opened)
    copy = keep_copy(volume, opened)
    opened.filesystem.unlink(1, b"a")
    write(opened, "b", "2")
    second = publish(opened)
    before = packs(volume)
    third = GcScheduler(opened).collect(GcSettings(grace_s=0), silent).snapshot
    assert opened.publisher is not None
    opened.publisher.pruner.delete([first, second])
    GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert packs(volume) < before
    opened.finish()
    opened.close()
    put_back(volume, copy)
    assert read_all(volume.open()) == {"b": "2"}
    volume.close()
    check_all_snapshots(volume, {third: {"b": "2"}})


def test_a_copied_unmounted_state_directory_is_just_its_snapshot(volume: Volume) -> None:
    volume.use("here", a="1")
    copy = volume.root / "copy"
    shutil.copytree(volume.state("here"), copy)
    volume.use("here", b="2")
    put_back(volume, copy)
    assert read_all(volume.open()) == {"a": "1", "b": "2"}
    assert aside(volume) == []


@pytest.mark.promise("an-old-copy-of-an-index-is-set-aside")
def test_fsck_checks_the_newest_snapshot_and_no_old_copy(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    publish(opened)
    copy = keep_copy(volume, opened)
    write(opened, "b", "2")
    opened.finish()
    opened.close()
    put_back(volume, copy)
    told = check_unmounted(volume.store_settings, volume.folders("here"), FsckRequest(), silent)
    assert told.checked["index"].startswith("the index of snapshot")


@pytest.mark.promise("an-old-copy-of-an-index-is-set-aside")
def test_a_put_that_was_never_acknowledged_is_no_sign_of_a_copy(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    publish(opened)
    write(opened, "b", "2")
    assert opened.publisher is not None

    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(opened.publisher.pruner, "published", lambda made: killed())
        publish(opened)
    write(opened, "c", "3")
    opened.filesystem.commit()
    opened.close()
    assert read_all(volume.open()) == {"a": "1", "b": "2", "c": "3"}
    assert aside(volume) == []


@pytest.mark.promise("an-old-copy-of-an-index-is-set-aside")
def test_a_stale_listing_does_not_hide_what_was_published_here(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    first = volume.use("here", a="1")
    second = volume.use("here", b="2")
    monkeypatch.setattr(type(volume.archive), "ids", lambda archive: [first])
    again = volume.open()
    assert read_all(again) == {"a": "1", "b": "2"}
    assert again.publisher is not None
    assert again.publisher.newest == second
    assert aside(volume) == []


@pytest.mark.promise("an-old-copy-of-an-index-is-set-aside")
def test_a_machine_that_was_set_back_stops_at_a_taken_number(volume: Volume) -> None:
    """The process lives on, as in a virtual machine that was saved with its memory."""
    opened = volume.open()
    write(opened, "a", "1")
    publish(opened)
    assert opened.publisher is not None
    sequence, newest = opened.publisher.next_number.sequence - 1, opened.publisher.newest
    write(opened, "b", "2")
    second = publish(opened)
    opened.publisher._sequence, opened.publisher.newest = sequence, newest
    write(opened, "c", "3")
    with pytest.raises(Fenced, match=r"set back.*cas3fs rescue"):
        publish(opened)
    assert opened.filesystem.read_only
    opened.close()
    view = view_of(volume, second)
    assert read_all(view) == {"a": "1", "b": "2"}


@pytest.mark.promise("an-old-copy-of-an-index-is-set-aside")
def test_a_gc_on_a_machine_that_was_set_back_deletes_nothing(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    publish(opened)
    assert opened.publisher is not None
    publisher = opened.publisher
    kept = publisher._sequence, publisher.newest, publisher._seen
    other = volume.archive
    path = volume.root / "copy.sqlite"
    other.restore(str(publisher.newest), path)
    ahead = other.create(path, epoch=1, sequence=publisher.next_number.sequence, parent=publisher.newest)
    assert (publisher._sequence, publisher.newest, publisher._seen) == kept
    before = packs(volume)
    with pytest.raises(SnapshotError, match=rf"snapshot {ahead.id}, which this mount did not publish"):
        GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert packs(volume) == before


def test_an_index_of_an_earlier_version_is_used(volume: Volume) -> None:
    volume.use("here", a="1")
    opened = volume.open()
    write(opened, "b", "2")
    opened.filesystem.commit()
    opened.close()
    with Index.open(volume.state("here") / "index.sqlite") as index:
        with index.operation():
            index.state.remove(ATTEMPTED)
            index.state.remove(PROOF)
        index.commit()
    again = volume.open()
    assert read_all(again) == {"a": "1", "b": "2"}
    assert aside(volume) == []
    with again.filesystem.index_transaction() as index:
        assert index.state.get(PROOF) is not None


def test_an_index_that_says_nonsense_of_itself_is_told(volume: Volume) -> None:
    volume.open().close()
    with Index.open(volume.state("here") / "index.sqlite") as index:
        with index.operation():
            index.state.set(ATTEMPTED, "nobody 1-x")
            index.state.set(PUBLISHED, "one")
        index.commit()
    with pytest.raises(IndexCorrupt, match=r"which is not a snapshot.*moving .* away"):
        volume.open()


def test_a_manifest_names_its_lineage_and_claim(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    made = volume.archive.load(publish(opened))
    with opened.filesystem.index_transaction() as index:
        state = index.state
        assert state.get(ATTEMPTED) == f"{made.claim} {made.id}"
        assert state.get(PROOF) == f"{made.id} {made.digest}"
        assert state.get(CLEAN) is None
        assert state.get(LINEAGE) is not None
    assert str(state.get(LINEAGE)).encode() in volume.shelf.store.get(f"snapshots/{made.id}")


def test_noting_what_was_published_is_no_change(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    first = publish(opened)
    before = volume.archive.ids()
    assert publish(opened) == first
    assert volume.archive.ids() == before
