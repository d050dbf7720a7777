# SPDX-License-Identifier: GPL-3.0-or-later
"""Which index a mount goes on with, whatever happened before; nothing that was promised is lost."""

import logging
import os
import random
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cas3fs.epochs import Claim, Epochs, WriterIdentity
from cas3fs.errors import EpochHeld, Fenced, IndexDatabaseError, SnapshotDamaged, StateInUse
from cas3fs.filesystem import ROOT
from cas3fs.index import Index
from cas3fs.volume.comparison import CLEAN
from cas3fs.volume.opening import open_writer
from cas3fs.volume.pruner import SnapshotPruner
from cas3fs.volume.state_directory import StateDirectory

from .conftest import SETTINGS, Volume, read_all, write


def aside(volume: Volume, host: str = "here") -> list[Path]:
    return sorted((volume.state(host) / "set-aside").glob("*/*"))


def test_a_new_volume_is_empty(volume: Volume) -> None:
    assert read_all(volume.open()) == {}


def test_another_host_finds_what_was_finished(volume: Volume) -> None:
    volume.use("here", a="1")
    volume.use("there", b="2")
    assert read_all(volume.open("here")) == {"a": "1", "b": "2"}
    assert aside(volume) == []


def test_a_local_index_that_is_the_newest_snapshot_is_used(volume: Volume) -> None:
    volume.use("here", a="1")
    for pages in (volume.root / "v" / "pages").iterdir():
        pages.unlink()  # so restoring would fail
    assert read_all(volume.open("here")) == {"a": "1"}


def test_what_a_killed_process_made_durable_is_used(volume: Volume) -> None:
    volume.use("here", a="1")
    killed = volume.open("here")
    write(killed, "b", "2")
    killed.filesystem.commit()
    killed.close()
    again = volume.open("here")
    assert read_all(again) == {"a": "1", "b": "2"}
    again.finish()
    again.close()
    assert read_all(volume.open("there")) == {"a": "1", "b": "2"}


def test_another_host_is_refused_while_the_volume_is_held(volume: Volume) -> None:
    volume.open("here").close()
    with pytest.raises(EpochHeld):
        volume.open("there")


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing")
def test_what_is_published_just_before_the_claim_is_begun_from(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.use("there", a="1")
    there = volume.open("there")
    write(there, "b", "2")
    claim = Epochs.claim

    def after_the_other_has_ended(*args: Any, **kwargs: Any) -> Claim:
        monkeypatch.undo()
        there.finish()
        there.close()
        return claim(*args, **kwargs)

    monkeypatch.setattr(Epochs, "claim", after_the_other_has_ended)
    assert read_all(volume.open("here")) == {"a": "1", "b": "2"}


def test_a_death_between_claim_and_its_record_loses_nothing(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    killed.filesystem.commit()
    killed.close()
    for _ in range(2):
        Epochs(volume.shelf).claim(WriterIdentity.of_this_process(), volume.state("here") / "claim.json")
    assert read_all(volume.open("here")) == {"a": "1"}


@pytest.mark.promise("staging-belongs-to-one-lineage")
def test_unpublished_state_is_set_aside_when_superseded(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    volume.use("here", a="1")
    killed = volume.open("here")
    write(killed, "b", "2")
    killed.filesystem.commit()
    killed.close()
    volume.take_over("there")
    with caplog.at_level(logging.WARNING):
        assert read_all(volume.open("here")) == {"a": "1"}
    assert "index.sqlite" in {path.name for path in aside(volume)}
    assert "staging.sqlite" in {path.name for path in aside(volume)}
    assert any("set aside" in record.getMessage() for record in caplog.records)


def test_a_death_while_restoring_leaves_nothing_in_the_way(volume: Volume) -> None:
    volume.use("there", a="1")
    volume.state("here").mkdir(parents=True)
    (volume.state("here") / "restore.sqlite").write_bytes(b"half")
    (volume.state("here") / "publish.sqlite").write_bytes(b"half")
    assert read_all(volume.open("here")) == {"a": "1"}
    assert not (volume.state("here") / "restore.sqlite").exists()
    assert not (volume.state("here") / "publish.sqlite").exists()


def test_a_restored_index_of_a_dead_process_is_used(volume: Volume) -> None:
    volume.use("there", a="1")
    volume.use("here")
    state = volume.state("here")
    snapshot = volume.archive.newest()
    assert snapshot is not None
    with Index.open(state / "index.sqlite") as index:
        assert index.state.get(CLEAN) == snapshot.id


@pytest.mark.promise("staging-belongs-to-one-lineage")
def test_staging_without_its_index_is_set_aside(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    killed.filesystem.commit()
    killed.close()
    (volume.state("here") / "index.sqlite").unlink()
    assert read_all(volume.open("here")) == {}
    assert "staging.sqlite" in {path.name for path in aside(volume)}


@pytest.mark.promise("staging-belongs-to-one-lineage")
def test_staging_of_another_line_is_set_aside(volume: Volume, tmp_path: Path) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    killed.filesystem.commit()
    killed.close()
    shutil.move(volume.state("here") / "staging.sqlite", tmp_path / "of another line")
    (volume.state("here") / "index.sqlite").unlink()
    volume.take_over("there")
    volume.use("here", b="2")
    shutil.move(tmp_path / "of another line", volume.state("here") / "staging.sqlite")
    assert read_all(volume.open("here")) == {"b": "2"}
    assert "staging.sqlite" in {path.name for path in aside(volume)}


@pytest.mark.promise("staging-belongs-to-one-lineage")
def test_new_names_of_what_is_set_aside_are_durable_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(StateDirectory(tmp_path / "state")) as state:
        state.index.write_bytes(b"")
        synced: list[Path] = []
        monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
        folder = state.set_aside()
        assert synced == [folder, folder.parent, state.path]


def test_old_snapshots_are_pruned_before_the_release(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    thin, released = SnapshotPruner.prune_expired, []

    def looking(pruner: SnapshotPruner) -> None:
        newest = Epochs(volume.shelf).newest()
        released.append(newest is None or newest.released)
        thin(pruner)

    monkeypatch.setattr(SnapshotPruner, "prune_expired", looking)
    volume.use("here", a="1")
    assert released == [False]


def test_a_damaged_unclosed_index_is_reported_and_left_as_it_is(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    killed.close()
    index = volume.state("here") / "index.sqlite"
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(IndexDatabaseError, match=r"moving .* away"):
        volume.open("here")
    assert index.read_bytes() == b"no database" * 1000


@pytest.mark.promise("a-held-volume-refuses-others")
def test_a_failed_open_keeps_the_volume_for_the_earlier_mount(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    killed.filesystem.commit()
    killed.close()
    index = volume.state("here") / "index.sqlite"
    body = index.read_bytes()
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(IndexDatabaseError):
        volume.open("here")
    with pytest.raises(EpochHeld):
        volume.open("there")
    index.write_bytes(body)
    assert read_all(volume.open("here")) == {"a": "1"}


def test_a_mount_that_never_served_holds_nothing_up(volume: Volume) -> None:
    volume.use("here", a="1")
    unused = volume.open("here")
    unused.release_unserved()
    unused.close()
    volume.use("there", b="2")
    assert read_all(volume.open("here")) == {"a": "1", "b": "2"}
    assert aside(volume) == []


def test_an_unserved_mount_keeps_a_volume_with_unstored_data(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    killed.close()
    unused = volume.open("here")
    unused.release_unserved()
    unused.close()
    with pytest.raises(EpochHeld):
        volume.open("there")
    assert read_all(volume.open("here")) == {"a": "1"}


def test_an_unreadable_snapshot_is_reported_and_delays_nothing(volume: Volume) -> None:
    volume.use("there", a="1")
    for pages in (volume.root / "v" / "pages").iterdir():
        pages.unlink()
    with pytest.raises(SnapshotDamaged):
        volume.open("here")
    assert read_all(volume.open("there")) == {"a": "1"}


def test_two_processes_never_share_a_state_directory(volume: Volume) -> None:
    volume.open("here")
    with pytest.raises(StateInUse, match="by process"):
        open_writer(volume.store_settings, SETTINGS, volume.folders("here"))


def test_publishing_what_has_not_changed_adds_nothing(volume: Volume) -> None:
    opened = volume.open("here")
    publisher = opened.publisher
    assert publisher is not None
    write(opened, "a", "1")
    first = publisher.publish()
    before = sorted((volume.root / "v").rglob("*"))
    assert publisher.publish() == first
    assert sorted((volume.root / "v").rglob("*")) == before
    write(opened, "b", "2")
    assert publisher.publish() > first


def test_an_overruled_writer_turns_read_only_and_says_so(volume: Volume) -> None:
    opened = volume.open("here")
    write(opened, "a", "1")
    volume.take_over("there")
    with pytest.raises(Fenced):
        opened.finish()
    assert opened.filesystem.read_only


def test_a_view_beside_a_writer_shows_the_head(volume: Volume) -> None:
    opened = volume.open("here")
    write(opened, "a", "1")
    assert opened.publisher is not None
    opened.publisher.publish()
    write(opened, "b", "2")
    view = volume.view()
    assert read_all(view) == {"a": "1"}
    assert view.finish() is None
    view.close()
    assert list(volume.state("viewer").glob("views/*")) == []


@pytest.mark.promise("migrations-work-on-a-copy")
def test_who_is_refused_changes_nothing_of_the_local_index(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.use("here", a="1")
    volume.open("there")
    asked: list[Path] = []
    monkeypatch.setattr("cas3fs.index.migrations.upgrade", asked.append)
    before = {path.name: path.read_bytes() for path in volume.state("here").glob("index.sqlite*")}
    with pytest.raises(EpochHeld):
        volume.open("here")
    assert asked == []
    assert {path.name: path.read_bytes() for path in volume.state("here").glob("index.sqlite*")} == before


def test_a_host_that_returns_fetches_only_what_others_have_changed_in_the_index(volume: Volume) -> None:
    noise = random.Random(1)  # as ranges that lie close together are read by one request
    volume.use("here", **{f"{number:04d}{noise.randbytes(120).hex()}": "" for number in range(4000)})

    def fetched_by(host: str) -> int:
        opened = volume.open(host)
        count: int = opened.metrics.snapshot()["store.get.bytes"]
        assert opened.filesystem.lookup(ROOT, b"later").size == 1
        opened.finish()
        opened.close()
        return count

    volume.use("elsewhere", later="x")
    everything = fetched_by("never seen")
    assert fetched_by("here") < everything / 2
    assert not volume.state("here").joinpath("superseded").exists()
