# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking over from a writer that may still be at work: it is fenced, keeps what it has, and that can be saved."""

import errno
import os
from pathlib import Path

import pytest

from cas3fs.commands.rescue import choose_state_directory, find_url, rescue
from cas3fs.config import WriterSettings
from cas3fs.control import Message, MountRecord
from cas3fs.errors import Fenced, FileSystemError, StateInUse, UsageError
from cas3fs.filesystem import ROOT, Owner
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.snapshots.divergence import TakeoverBases
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.location import LOCATION_NAME
from cas3fs.volume.opening import OpenVolume, open_writer

from .conftest import Volume, packs, read_all, write

pytestmark = pytest.mark.encryption("plain", "encrypted")


def silent(message: Message) -> None:
    """Nobody watches."""


def take_over(volume: Volume, host: str) -> OpenVolume:
    """Opens the volume on `host` though another writer holds it."""
    settings = WriterSettings(cache_size_bytes=0, take_over=True)
    opened = open_writer(volume.store_settings, settings, volume.folders(host))
    volume.closing(opened)
    opened.start(0)
    return opened


def published(opened: OpenVolume) -> str:
    assert opened.publisher is not None
    return opened.publisher.publish()


def published_late(opened: OpenVolume, monkeypatch: pytest.MonkeyPatch) -> str:
    """Publishes though another has taken over, as a writer does that looked for rivals just before they came."""
    monkeypatch.setattr(opened.publisher, "check_fence", lambda: None)
    return published(opened)


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing")
def test_the_old_writer_turns_read_only_at_its_next_publication(volume: Volume) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    base = published(old)
    write(old, "b", "unpublished")
    new = take_over(volume, "new")
    assert read_all(new) == {"a": "one"}
    with pytest.raises(Fenced, match="cas3fs rescue"):
        published(old)
    assert old.publisher is not None
    assert old.publisher.fenced
    assert old.filesystem.read_only_reason == old.publisher.fenced
    with pytest.raises(FileSystemError) as refused:
        write(old, "c", "too late")
    assert refused.value.errno == errno.EROFS
    assert read_all(old) == {"a": "one", "b": "unpublished"}
    assert [one.number.epoch for one in volume.archive.list()] == [1, 2]
    assert volume.archive.ids()[0] == base


def test_both_go_on_and_only_the_new_one_is_seen(volume: Volume) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    published(old)
    new = take_over(volume, "new")
    write(new, "b", "of the new one")
    write(old, "c", "of the old one")
    with pytest.raises(Fenced):
        published(old)
    published(new)
    with pytest.raises(Fenced):
        old.finish()
    old.close()
    new.finish()
    new.close()
    assert read_all(volume.open("third")) == {"a": "one", "b": "of the new one"}


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing")
def test_a_take_over_writes_its_base_and_publishes_at_once(volume: Volume) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    base = published(old)
    take_over(volume, "new")
    ((epoch, start),) = TakeoverBases(volume.shelf).all()
    assert (epoch, str(start)) == (2, base)
    newest = volume.archive.newest()
    assert newest is not None
    assert (newest.number.epoch, newest.parent) == (2, base)


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing", "a-fenced-writer-stops")
def test_a_late_manifest_of_an_old_writer_stays_and_is_no_head(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    published(old)
    new = take_over(volume, "new")
    head = published(new)
    write(old, "b", "late")
    late = published_late(old, monkeypatch)
    assert volume.archive.diverged() == {late}
    assert volume.archive.newest_id() == head
    assert new.publisher is not None
    with new.publisher.exclusively():
        pruning = new.publisher.pruner.prune(None)
    assert late not in pruning.removal.snapshots
    assert late in volume.archive.ids()
    new.finish()
    new.close()
    assert read_all(volume.open("third")) == {"a": "one"}


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing")
def test_a_take_over_while_publishing_acknowledges_nothing(volume: Volume) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    base = published(old)
    write(old, "b", "late")
    assert old.publisher is not None

    def meddle(told: Message) -> None:
        if told.get("what") == "publishing":  # it has looked for rivals, and the manifest is not put yet
            take_over(volume, "new")

    with pytest.raises(Fenced, match="cas3fs rescue"):
        old.publisher.publish(meddle)
    assert old.publisher.newest == base
    assert len(volume.archive.diverged()) == 1


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing", "a-fenced-writer-stops")
def test_a_writer_that_was_taken_over_from_deletes_no_snapshot(volume: Volume) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    first = published(old)
    write(old, "b", "two")
    published(old)
    take_over(volume, "new")
    before = set((volume.root / "v").rglob("*"))
    assert old.publisher is not None
    with old.publisher.exclusively():
        with pytest.raises(Fenced):
            old.publisher.pruner.delete([first])
        with pytest.raises(Fenced):
            old.publisher.pruner.prune(RetentionPolicy(last=1))
    assert set((volume.root / "v").rglob("*")) == before


@pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
def test_packs_of_a_late_manifest_stay_as_long_as_it_does(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    published(old)
    new = take_over(volume, "new")
    before = packs(volume)
    write(old, "b", "late")
    late = published_late(old, monkeypatch)
    (pack,) = packs(volume) - before
    scheduler = GcScheduler(new)
    scheduler.collect(GcSettings(grace_s=0), silent)
    assert pack in packs(volume)
    assert new.publisher is not None
    new.publisher.pruner.delete([late])
    scheduler.collect(GcSettings(grace_s=0), silent)
    assert packs(volume) == before


def test_pages_that_an_overruled_writer_may_still_need_stay(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    published(old)
    new = take_over(volume, "new")
    write(old, "b", "late")
    late = published_late(old, monkeypatch)
    volume.archive.delete([late])
    assert new.publisher is not None
    with new.publisher.exclusively():
        new.publisher.pruner.prune(None)
    assert (volume.root / "v" / "pages" / late).exists()


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
def test_what_only_the_old_writer_has_is_saved(volume: Volume, tmp_path: Path) -> None:
    old = volume.open("old")
    write(old, "stored", "published")
    write(old, "changed", "before")
    published(old)
    fs = old.filesystem
    folder = fs.mkdir(ROOT, b"folder", 0o755, Owner())
    _, handle = fs.create(folder.number, b"large", 0o600, os.O_WRONLY, Owner())
    data = os.urandom(3_000_000)
    for offset in range(0, len(data), 100_000):
        fs.write(handle, offset, data[offset : offset + 100_000])
    fs.release(handle)
    fs.store_all()
    number = fs.lookup(ROOT, b"changed").number
    handle = fs.open(number, os.O_WRONLY, Owner())
    fs.write(handle, 2, b"XX")
    fs.release(handle)
    write(old, "only staged", "durable")
    write(old, "in a file of staging", "large" * 100_000)
    fs.commit()
    take_over(volume, "new")
    with pytest.raises(Fenced):
        published(old)
    with pytest.raises(StateInUse, match="once it is unmounted"):
        rescue(volume.store_settings, volume.state("old"), tmp_path / "saved", silent)
    old.close()
    before = {path: path.stat().st_mtime_ns for path in volume.state("old").glob("staging/*")}
    report = rescue(volume.store_settings, volume.state("old"), tmp_path / "saved", silent)
    saved = tmp_path / "saved"
    assert report["problems"] == []
    assert (saved / "folder" / "large").read_bytes() == data
    assert (saved / "changed").read_text() == "beXXre"
    assert (saved / "only staged").read_text() == "durable"
    assert (saved / "in a file of staging").read_text() == "large" * 100_000
    names = ["changed", "folder", "in a file of staging", "large", "only staged"]
    assert sorted(path.name for path in saved.rglob("*")) == names
    assert {path: path.stat().st_mtime_ns for path in volume.state("old").glob("staging/*")} == before


@pytest.mark.promise("data-of-a-fenced-writer-can-be-saved")
def test_what_only_a_diverged_snapshot_has_is_rescued(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = volume.open("old")
    write(old, "shared", "as it was")
    published(old)
    new = take_over(volume, "new")
    new.filesystem.unlink(ROOT, b"shared")
    write(new, "shared", "as the new one has it")
    published(new)
    write(old, "late", "off the line")
    published_late(old, monkeypatch)
    old.close()
    rescue(volume.store_settings, volume.state("old"), tmp_path / "saved", silent)
    saved = {path.name: path.read_text() for path in (tmp_path / "saved").iterdir()}
    assert saved == {"late": "off the line"}


def test_what_was_only_moved_or_linked_is_rescued(volume: Volume, tmp_path: Path) -> None:
    old = volume.open("old")
    fs, caller = old.filesystem, Owner(os.getuid(), os.getgid())
    folder = fs.mkdir(ROOT, b"folder", 0o750, caller).number
    deep = fs.mkdir(folder, b"deep", 0o755, caller).number
    for name in ("stays", "moves", "gets a link", "gets an attribute", "moves deep"):
        write(old, name, name)
    fs.rename(ROOT, b"moves deep", deep, b"file")
    published(old)
    fs.rename(ROOT, b"moves", ROOT, b"moved")
    fs.rename(ROOT, b"folder", ROOT, b"moved folder")
    fs.link(fs.lookup(ROOT, b"gets a link").number, ROOT, b"link")
    fs.setxattr(fs.lookup(ROOT, b"gets an attribute").number, b"user.told", b"value")
    fs.commit()
    take_over(volume, "new")
    old.close()
    saved = tmp_path / "saved"
    report = rescue(volume.store_settings, volume.state("old"), saved, silent)
    assert report["problems"] == []
    assert {str(path.relative_to(saved)): path.read_text() for path in saved.rglob("*") if path.is_file()} == {
        "moved": "moves",
        "moved folder/deep/file": "moves deep",
        "gets a link": "gets a link",
        "link": "gets a link",
        "gets an attribute": "gets an attribute",
    }
    assert (saved / "link").samefile(saved / "gets a link")
    assert os.getxattr(saved / "gets an attribute", "user.told") == b"value"
    assert (saved / "moved folder").stat().st_mode & 0o7777 == 0o750


@pytest.mark.promise("staging-belongs-to-one-lineage", "data-of-a-fenced-writer-can-be-saved")
def test_what_was_set_aside_is_saved_too(volume: Volume, tmp_path: Path) -> None:
    killed = volume.open("here")
    write(killed, "a", "never published")
    killed.filesystem.commit()
    killed.close()
    take_over(volume, "there").close()
    volume.take_over("third")
    assert read_all(volume.open("here")) == {}
    (aside,) = (volume.state("here") / "set-aside").iterdir()
    rescue(volume.store_settings, aside, tmp_path / "saved", silent)
    assert (tmp_path / "saved" / "a").read_text() == "never published"


def test_a_state_directory_is_found_by_its_volume(volume: Volume, tmp_path: Path) -> None:
    volume.use("here", a="one")
    state = volume.state("here")
    assert choose_state_directory(volume.root / "here") == state
    assert choose_state_directory(state) == state
    assert find_url(state) == volume.store_settings.url
    (state / LOCATION_NAME).unlink()  # as an earlier version leaves it
    assert find_url(state) is None
    MountRecord(volume.store_settings.url, "uuid", "/m", 1).save(state)
    assert find_url(state) == volume.store_settings.url
    assert find_url(state / "set-aside" / "now") == volume.store_settings.url
    with pytest.raises(UsageError, match="holds no index"):
        choose_state_directory(tmp_path / "nowhere")
    other = state.with_name("other")
    other.mkdir()
    (other / "index.sqlite").touch()
    with pytest.raises(UsageError, match=f"several volumes; name one of .*{other}"):
        choose_state_directory(volume.root / "here")


def test_nothing_is_saved_over_what_is_there(volume: Volume, tmp_path: Path) -> None:
    volume.use("here", a="one")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        rescue(volume.store_settings, volume.state("here"), tmp_path / "full", silent)
