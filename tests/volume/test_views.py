# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot that is being read on the writer's machine stays, whoever wants it gone."""

import random
from typing import Any

import pytest

from cas3fs.config import WriterSettings
from cas3fs.control import MountRecord
from cas3fs.errors import SnapshotError
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.removal import RemovalPlan
from cas3fs.volume import pruner
from cas3fs.volume.opening import OpenVolume, open_view
from tests.volume.conftest import delete_snapshots, prune_snapshots, volume_policy

from .conftest import Volume, read_all, write

pytestmark = pytest.mark.encryption("plain", "encrypted")


def view_of(volume: Volume, snapshot_id: str, host: str = "here") -> OpenVolume:
    settings = WriterSettings(cache_size_bytes=0, read_only=True, snapshot=snapshot_id)
    opened = open_view(volume.store_settings, settings, volume.folders(host))
    volume.closing(opened)
    opened.start(0)
    return opened


def test_a_snapshot_in_use_here_is_not_deleted(volume: Volume) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    view = view_of(volume, first)
    with pytest.raises(SnapshotError, match=rf"{first} is being read by process \d+: unmount it"):
        delete_snapshots(volume, "here", first)
    MountRecord(volume.store_settings.url, "uuid", "/past", 1).save(view.state.path)
    with pytest.raises(SnapshotError, match="is mounted on /past"):
        delete_snapshots(volume, "here", first)
    assert read_all(view) == {"a": "one"}
    view.close()
    assert delete_snapshots(volume, "here", first).removed == [first]


def test_pruning_and_thinning_leave_a_snapshot_that_is_read_here(volume: Volume) -> None:
    first, second = volume.use("here", a="one"), volume.use("here", b="two")
    view = view_of(volume, first)
    told = prune_snapshots(volume, "here", RetentionPolicy(last=1), dry_run=True)
    assert [(one["id"], one["kept_by"]) for one in told.kept] == [(first, ["in use"]), (second, ["newest", "last"])]
    volume_policy(volume, RetentionPolicy(last=1))
    third = volume.use("here", c="three")
    assert volume.archive.ids() == [first, third]
    view.close()
    fourth = volume.use("here", d="four")
    assert volume.archive.ids() == [fourth]


def test_a_snapshot_mounted_while_its_deletion_is_planned_stays(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    views: list[OpenVolume] = []
    plan_removal = pruner.plan_removal

    def plan_meanwhile(*args: Any) -> RemovalPlan:
        plan = plan_removal(*args)
        views.append(view_of(volume, first))
        return plan

    monkeypatch.setattr(pruner, "plan_removal", plan_meanwhile)
    with pytest.raises(SnapshotError, match=f"{first} is being read"):
        delete_snapshots(volume, "here", first)
    assert first in volume.archive.ids()
    assert read_all(views[0]) == {"a": "one"}


def test_a_view_says_what_it_shows_before_it_reads_it(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    refused: list[str] = []
    restore = SnapshotArchive.restore

    def deleted_meanwhile(archive: SnapshotArchive, snapshot_id: str, *args: Any, **options: Any) -> SnapshotInfo:
        with pytest.raises(SnapshotError, match="is being read"):
            delete_snapshots(volume, "here", snapshot_id)
        refused.append(snapshot_id)
        return restore(archive, snapshot_id, *args, **options)

    monkeypatch.setattr(SnapshotArchive, "restore", deleted_meanwhile)
    assert read_all(view_of(volume, first)) == {"a": "one"}
    assert refused == [first]


def test_a_reader_that_was_killed_keeps_nothing(volume: Volume) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    left = volume.state("here") / "views" / "1-1"
    left.mkdir(parents=True)
    (left / "lock").write_text("1\n")
    (left / "shows").write_text(first)
    assert delete_snapshots(volume, "here", first).removed == [first]


def test_a_view_reports_that_its_snapshot_was_deleted(volume: Volume) -> None:
    first = volume.use("here", a="one")
    view = view_of(volume, first, host="elsewhere")
    assert not view.shown_snapshot_deleted()
    opened = volume.open("here")
    write(opened, "b", "two")
    opened.finish()
    opened.close()
    delete_snapshots(volume, "here", first)
    assert view.shown_snapshot_deleted()


def test_a_view_takes_from_the_index_of_the_writer_what_has_not_changed(volume: Volume) -> None:
    noise = random.Random(1)  # as ranges that lie close together are read by one request
    first = volume.use("here", **{f"{number:04d}{noise.randbytes(120).hex()}": "" for number in range(4000)})
    volume.use("here", later="x")
    bytes_read = {}
    for host in ("elsewhere", "here"):
        view = view_of(volume, first, host)
        assert len(read_all(view)) == 4000
        bytes_read[host] = view.metrics.snapshot()["store.get.bytes"]
        view.close()
    assert bytes_read["here"] < bytes_read["elsewhere"] / 2
