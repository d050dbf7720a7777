# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that is older than the state directory, or another one; and a state directory on another machine."""

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
from cas3fs.entries.kinds import EpochEntry, SnapshotEntry
from cas3fs.epochs.identity import MachineId
from cas3fs.errors import BlockError, EpochHeld, Fenced
from cas3fs.volume.location import LOCATION_NAME

from .conftest import Volume, publish, read_all, view_of, write

HERE, THERE = MachineId("a" * 32), MachineId("b" * 32)


@pytest.fixture
def volume(volume: Volume) -> Volume:
    """The volume; its machines are told that the store was put back on purpose, which matters where it is encrypted."""
    volume.store_settings = volume.accepting_rollback
    return volume


def silent(message: Message) -> None:
    """Nobody watches."""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings; not that the older state of an encrypted volume was accepted, as it was asked to be."""
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [one for one in logged if not one.startswith("accepted: ")]


def aside(volume: Volume) -> list[Path]:
    """The folders set aside."""
    return sorted((volume.state("here") / "set-aside").glob("*"))


def keep_store(volume: Volume) -> None:
    """A backup of the bucket."""
    shutil.copytree(volume.root / "v", volume.root / "backup")


def put_store_back(volume: Volume) -> None:
    """The backup takes the place of the bucket."""
    for path in (volume.root / "v").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(volume.root / "backup", volume.root / "v", dirs_exist_ok=True)


def check(volume: Volume, snapshots: dict[str, dict[str, str]]) -> None:
    """After a gc every retained snapshot holds what it held, and fsck finds nothing."""
    collect_unmounted(volume.store_settings, volume.folders("here"), GcRequest(grace_s=0), silent)
    for snapshot, files in snapshots.items():
        view = view_of(volume, snapshot)
        assert read_all(view) == files
        view.close()
    told = check_unmounted(volume.store_settings, volume.folders("here"), FsckRequest(verify_data=True), silent)
    assert (told.status, told.codes) == (0, {})


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[MachineId], None]:
    """Says on which machine this process runs."""
    return lambda machine: monkeypatch.setattr("cas3fs.epochs.identity.local_machine_id", lambda: machine)


@pytest.mark.promise("an-index-belongs-to-its-store", "an-old-store-is-accepted-with-a-warning")
@pytest.mark.parametrize("ends_well", [True, False])
def test_a_store_restored_from_a_backup_is_used_as_it_is(
    volume: Volume, caplog: pytest.LogCaptureFixture, ends_well: bool
) -> None:
    first = volume.use("here", a="1")
    keep_store(volume)
    opened = volume.open()
    write(opened, "b", "lost with the store")
    newest = publish(opened)
    write(opened, "c", "not published")
    opened.filesystem.commit()
    if ends_well:
        newest = str(opened.finish())
    opened.close()
    packs_of_epoch = list((volume.root / "v" / "packs").iterdir())
    assert len(packs_of_epoch) == 2
    put_store_back(volume)
    with caplog.at_level(logging.WARNING):
        again = volume.open()
    assert len(warnings(caplog)) == 1
    assert f"lacks snapshot {newest}" in warnings(caplog)[0]
    assert "cas3fs rescue" in warnings(caplog)[0]
    assert read_all(again) == {"a": "1"}
    write(again, "b", "lost with the store")  # not deduplicated against what this store does not have
    second = str(again.finish())
    again.close()
    assert second > newest
    check(volume, {first: {"a": "1"}, second: {"a": "1", "b": "lost with the store"}})
    epochs = [entry.epoch for entry in volume.shelf.load_all(EpochEntry)]
    assert epochs == list(range(1, len(epochs) + 1))
    report = rescue(volume.store_settings, aside(volume)[0], volume.root / "saved", silent)
    assert report["since_snapshot"] == first
    if not ends_well:
        assert (volume.root / "saved" / "c").read_text() == "not published"


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_packs_that_a_restored_store_lacks_are_no_hits(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    """The newest snapshot is there, and the packs that were stored after it are not: who writes their data again stores
    it, and that heals the file whose data they held."""
    opened = volume.open()
    write(opened, "a", "1")
    publish(opened)
    keep_store(volume)
    write(opened, "b", "stored, and in no snapshot")
    opened.filesystem.store_all()
    opened.close()
    put_store_back(volume)
    with caplog.at_level(logging.ERROR):
        again = volume.open()
    assert "lacks 1 packs that were stored after its newest snapshot" in caplog.text
    with pytest.raises(BlockError):
        read_all(again)
    write(again, "copy", "stored, and in no snapshot")
    again.finish()
    again.close()
    view = view_of(volume, str(volume.archive.newest_id()))
    assert read_all(view) == {"a": "1", "b": "stored, and in no snapshot", "copy": "stored, and in no snapshot"}
    view.close()


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_data_of_lost_epochs_stays_for_a_rescue(volume: Volume) -> None:
    volume.use("here", a="1")
    keep_store(volume)
    opened = volume.open()
    write(opened, "b", "stored, and its snapshot is lost")
    publish(opened)
    opened.close()
    (kept,) = (volume.root / "v" / "packs" / "00000002").iterdir()
    shutil.copytree(kept.parent, volume.root / "backup" / "packs" / "00000002")
    put_store_back(volume)
    assert volume.use("here", c="3")[:8] > "00000002"
    check(volume, {})
    assert kept.exists()
    report = rescue(volume.store_settings, aside(volume)[0], volume.root / "saved", silent)
    assert report["problems"] == []
    assert (volume.root / "saved" / "b").read_text() == "stored, and its snapshot is lost"


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_an_empty_store_under_the_same_url_is_told(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    keep_store(volume)
    volume.use("here", a="1")
    put_store_back(volume)
    with caplog.at_level(logging.WARNING):
        assert read_all(volume.open()) == {}
    assert "starts from an empty volume" in warnings(caplog)[0]
    assert len(aside(volume)) == 1


@pytest.mark.promise("an-index-belongs-to-its-store")
@pytest.mark.parametrize("ends_well", [True, False])
def test_a_snapshot_of_the_same_number_may_be_another(
    volume: Volume, caplog: pytest.LogCaptureFixture, ends_well: bool
) -> None:
    opened = volume.open()
    write(opened, "a", "1")
    snapshot = publish(opened)
    if ends_well:
        opened.finish()
    opened.close()
    entry = volume.shelf.load(SnapshotEntry, snapshot)
    volume.stored.delete_many([entry.key])
    volume.shelf.save(entry.changed(name="of a copy that went its own way"))
    with caplog.at_level(logging.WARNING):
        assert read_all(volume.open()) == {"a": "1"}
    assert len(warnings(caplog)) == 1
    assert "is not the store that the state" in warnings(caplog)[0]
    assert len(aside(volume)) == 1


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_an_unreadable_manifest_is_no_sign_of_another_store(volume: Volume) -> None:
    snapshot = volume.use("here", a="1")
    manifest = volume.root / "v" / "snapshots" / snapshot
    body = bytearray(manifest.read_bytes())
    body[40] ^= 1
    manifest.unlink()
    manifest.write_bytes(body)
    assert read_all(volume.open()) == {"a": "1"}
    assert aside(volume) == []


@pytest.mark.promise("a-claim-holds-on-its-own-machine", "a-copied-state-folder-takes-nothing-over")
def test_a_copied_state_directory_mounts_on_no_other_machine(
    volume: Volume, on: Callable[[MachineId], None], caplog: pytest.LogCaptureFixture
) -> None:
    on(HERE)
    opened = volume.open("here")
    write(opened, "a", "1")
    publish(opened)
    opened.filesystem.commit()
    shutil.copytree(volume.root / "here", volume.root / "copied")
    (volume.state("copied") / LOCATION_NAME).unlink()  # which names a folder that is not on the other machine
    write(opened, "thesis", "years of work")
    published = publish(opened)
    on(THERE)
    with pytest.raises(EpochHeld, match="copied"):
        volume.open("copied")
    write(opened, "b", "2")
    publish(opened)  # nobody has taken over
    with caplog.at_level(logging.WARNING):
        other = volume.open("copied", take_over=True)
    assert any("is an old copy" in text for text in warnings(caplog))
    assert read_all(other) == {"a": "1", "thesis": "years of work", "b": "2"}
    write(opened, "c", "3")
    with pytest.raises(Fenced):
        publish(opened)
    opened.close()
    other.finish()
    other.close()
    assert read_all(view_of(volume, published)) == {"a": "1", "thesis": "years of work"}


@pytest.mark.promise("a-claim-holds-on-its-own-machine")
def test_a_disk_moved_to_another_machine_works_after_a_take_over(
    volume: Volume, on: Callable[[MachineId], None]
) -> None:
    on(HERE)
    killed = volume.open("here")
    write(killed, "a", "1")
    publish(killed)
    write(killed, "b", "staged")
    killed.filesystem.commit()
    killed.close()
    on(THERE)
    with pytest.raises(EpochHeld):
        volume.open("here")
    again = volume.open("here", take_over=True)
    assert read_all(again) == {"a": "1", "b": "staged"}
    assert aside(volume) == []


def test_a_volume_that_was_released_is_free_to_every_machine(volume: Volume, on: Callable[[MachineId], None]) -> None:
    on(HERE)
    volume.use("here", a="1")
    on(THERE)
    assert read_all(volume.open("here")) == {"a": "1"}
    assert aside(volume) == []
