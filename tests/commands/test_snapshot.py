# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of a volume that is open, and of one that is not: created, restored, thinned out, and read."""

import os
import random
import threading

import pytest

from cas3fs.commands.gc import collect_unmounted
from cas3fs.commands.requests import mount_handlers
from cas3fs.commands.restore import restore_head
from cas3fs.commands.snapshot import list_snapshots
from cas3fs.config import WriterSettings
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import GcRequest
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import (
    ControlError,
    EpochHeld,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    StateConflict,
    StateInUse,
    StoreUnreachable,
)
from cas3fs.filesystem import ROOT, Owner
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.volume.opening import OpenVolume, open_view
from tests.volume.conftest import (
    Volume,
    create_snapshot,
    delete_snapshots,
    prune_snapshots,
    read_all,
    service_of,
    stats_of,
    volume_policy,
    write,
)


def silent(message: Message) -> None:
    """Nobody watches."""


def ids(volume: Volume) -> list[str]:
    return volume.archive.ids()


def view_of(volume: Volume, snapshot_id: str) -> dict[str, str]:
    """Every file that a snapshot has, as a machine reads it that has nothing of the volume."""
    settings = WriterSettings(cache_size_bytes=0, read_only=True, snapshot=snapshot_id)
    opened = open_view(volume.store_settings, settings, volume.folders(f"viewer-{snapshot_id}"))
    try:
        opened.start(0)
        return read_all(opened)
    finally:
        opened.close()


def replace(opened: OpenVolume, name: str, text: str) -> None:
    opened.filesystem.unlink(ROOT, name.encode())
    write(opened, name, text)


def restore(volume: Volume, snapshot_id: str, host: str = "here") -> str:
    return restore_head(volume.store_settings, volume.folders(host), snapshot_id, silent).id


def test_every_snapshot_shows_what_was_there_when_it_was_made(volume: Volume) -> None:
    expected: dict[str, dict[str, str]] = {}
    opened = volume.open()
    for number in range(8):
        write(opened, f"file {number}", f"text {number}" * number)
        if number % 3 == 2:
            replace(opened, f"file {number - 1}", "replaced")
            opened.filesystem.unlink(ROOT, b"file %d" % (number - 2))
        assert opened.publisher is not None
        expected[opened.publisher.publish(name="even" if number % 2 == 0 else None)] = read_all(opened)
    opened.finish()
    opened.close()
    assert {one: view_of(volume, one) for one in ids(volume)} == expected
    assert [one["name"] for one in list_snapshots(volume.archive)] == ["even", None] * 4


def test_an_older_state_becomes_the_head_and_a_newer_one_again(volume: Volume) -> None:
    first = volume.use("here", a="one", b="kept")
    volume.use("here", c="two")
    opened = volume.open()
    replace(opened, "a", "three")
    third = opened.finish()
    opened.close()
    assert third is not None
    back = restore(volume, first)
    assert volume.archive.load(back).parent == third
    assert volume.archive.load(back).restored == first
    assert read_all(volume.view()) == {"a": "one", "b": "kept"}
    fourth = volume.use("here", d="four")
    collect_unmounted(volume.store_settings, volume.folders("here"), GcRequest(grace_s=0.0, min_live=0.9), silent)
    restore(volume, third, host="there")
    assert read_all(volume.view()) == {"a": "three", "b": "kept", "c": "two"}
    collect_unmounted(volume.store_settings, volume.folders("there"), GcRequest(grace_s=0.0, min_live=0.9), silent)
    assert view_of(volume, fourth) == {"a": "one", "b": "kept", "d": "four"}
    assert view_of(volume, first) == {"a": "one", "b": "kept"}
    assert read_all(volume.open("third")) == {"a": "three", "b": "kept", "c": "two"}


@pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
def test_a_restored_head_keeps_all_known_packs_and_its_counters(volume: Volume) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    before = volume.open()
    with before.filesystem.index_transaction() as index:
        packs = {row.name: row for row in index.blocks.packs()}
    greatest = before.filesystem.lookup(ROOT, b"b").number
    before.finish()
    before.close()
    restore(volume, first)
    opened = volume.open()
    with opened.filesystem.index_transaction() as index:
        kept = {row.name: row for row in index.blocks.packs()}
    assert {name: (row.born, row.size) for name, row in kept.items()} == {
        name: (row.born, row.size) for name, row in packs.items()
    }
    assert sorted(row.died is None for row in kept.values()) == [False, True]
    write(opened, "c", "three")
    assert opened.filesystem.lookup(ROOT, b"c").number > greatest


def test_restoring_the_head_does_nothing(volume: Volume) -> None:
    head = volume.use("here", a="one")
    assert restore(volume, head) == head
    assert ids(volume) == [head]


def test_a_mounted_volume_is_not_restored(volume: Volume) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    opened = volume.open()
    with pytest.raises(StateInUse):
        restore(volume, first)
    with pytest.raises(EpochHeld):
        restore(volume, first, host="there")
    opened.close()
    with pytest.raises(StateConflict, match="mount and unmount"):
        restore(volume, first)
    assert read_all(volume.open()) == {"a": "one", "b": "two"}


def test_a_refused_restore_leaves_the_volume_free(volume: Volume) -> None:
    volume.use("here", a="one")
    with pytest.raises(SnapshotMissing):
        restore(volume, "00000009-0000000001")
    assert read_all(volume.open("there")) == {"a": "one"}


def harm(volume: Volume, snapshot_id: str) -> None:
    """The segments that were new in that snapshot are gone."""
    (volume.root / "v" / "pages" / snapshot_id).unlink()


def test_a_damaged_head_is_reported_with_the_one_to_restore(volume: Volume) -> None:
    first = volume.use("here", a="one")
    second = volume.use("here", b="two")
    harm(volume, second)
    with pytest.raises(SnapshotDamaged, match=f"mount --snapshot {first}"):
        volume.open("there")
    assert view_of(volume, first) == {"a": "one"}
    assert read_all(volume.open("here")) == {"a": "one", "b": "two"}  # here it is still known


def test_the_one_before_a_damaged_head_becomes_the_head(volume: Volume) -> None:
    first = volume.use("here", a="one")
    harm(volume, volume.use("here", b="two"))
    restore(volume, first, host="there")
    assert read_all(volume.open("third")) == {"a": "one"}


@pytest.mark.promise("snapshots-follow-an-interval")
@pytest.mark.parametrize("back_s", [0, 3600], ids=["standing", "set back"])
def test_a_change_is_published_though_the_clock_does_not_show_it(volume: Volume, back_s: int) -> None:
    here = volume.open()
    publisher = here.publisher
    assert publisher is not None
    write(here, "before", "x")
    first = publisher.publish()
    files = [here.state.index, here.state.index.with_name("index.sqlite-wal")]
    times = [(path.stat().st_atime_ns, path.stat().st_mtime_ns - back_s * 10**9) for path in files]
    here.filesystem.mkdir(ROOT, b"folder", 0o755, Owner())
    here.filesystem.commit()
    for path, time_ns in zip(files, times, strict=True):
        os.utime(path, ns=time_ns)
    assert publisher.publish() != first


def test_a_requested_snapshot_is_made_even_without_changes(volume: Volume) -> None:
    first = volume.use("here", a="one")
    made = create_snapshot(volume, "here", "named")
    assert (made.name, made.parent, made.files) == ("named", first, 1)
    assert ids(volume) == [first, made.id]
    assert read_all(volume.open("there")) == {"a": "one"}


def test_what_a_crashed_mount_left_is_in_a_snapshot_by_command(volume: Volume) -> None:
    killed = volume.open()
    write(killed, "a", "one")
    killed.filesystem.commit()
    killed.close()
    made = create_snapshot(volume, "here")
    assert view_of(volume, made.id) == {"a": "one"}


def test_deleting_after_a_crash_keeps_the_volume_held(volume: Volume) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    killed = volume.open()
    write(killed, "c", "three")
    killed.filesystem.commit()
    killed.close()
    delete_snapshots(volume, "here", first)
    with pytest.raises(EpochHeld):
        volume.open("there")
    assert read_all(volume.open()) == {"a": "one", "b": "two", "c": "three"}


def test_deleted_snapshots_are_gone_and_the_others_read_on(volume: Volume) -> None:
    made = [volume.use("here", **{f"f{number}": str(number)}) for number in range(4)]
    told = delete_snapshots(volume, "there", made[0], made[2])
    assert told.removed == [made[0], made[2]]
    assert ids(volume) == [made[1], made[3]]
    assert view_of(volume, made[1]) == {"f0": "0", "f1": "1"}
    with pytest.raises(SnapshotError, match="newest"):
        delete_snapshots(volume, "there", made[3])


def test_pruning_tells_what_it_would_do_and_then_does_it(volume: Volume) -> None:
    made = [volume.use("here", **{f"f{number}": str(number)}) for number in range(4)]
    named = create_snapshot(volume, "here", "v1").id
    last = volume.use("here", g="x")
    policy = RetentionPolicy(last=2, names=("v*",))
    told = prune_snapshots(volume, "here", policy, dry_run=True)
    assert told.removed == made
    assert ids(volume) == [*made, named, last]
    assert prune_snapshots(volume, "here", policy).removed == made
    assert ids(volume) == [named, last]
    assert len(view_of(volume, named)) == 4


def test_the_policy_of_the_volume_thins_out_after_a_publish(volume: Volume) -> None:
    volume_policy(volume, RetentionPolicy(last=2))
    made = [volume.use("here", **{f"f{number}": str(number)}) for number in range(4)]
    assert ids(volume) == made[2:]
    volume_policy(volume, RetentionPolicy(last=1, names=("*",)))
    assert volume_policy(volume).last == 1


def test_a_crashed_mount_publishes_on_without_its_first_snapshot(volume: Volume) -> None:
    volume_policy(volume, RetentionPolicy(last=1))
    volume.use("here", a="one")
    killed = volume.open()
    assert killed.publisher is not None
    for name in ("b", "c"):
        write(killed, name, "x")
        killed.publisher.publish()
        with killed.publisher.exclusively():
            killed.publisher.pruner.prune_expired()
    write(killed, "d", "x")
    killed.filesystem.commit()
    killed.close()
    assert len(ids(volume)) == 1
    again = volume.open()
    assert again.finish() is not None
    again.close()
    assert view_of(volume, ids(volume)[-1]).keys() == {"a", "b", "c", "d"}


def test_an_unreadable_parent_prevents_no_publication(volume: Volume) -> None:
    first = volume.use("here", a="one")
    opened = volume.open()
    (volume.root / "v" / SnapshotEntry.key_of(first)).unlink()
    write(opened, "b", "two")
    newest = opened.finish()
    opened.close()
    assert newest is not None
    assert view_of(volume, newest) == {"a": "one", "b": "two"}


def test_pruning_costs_little_while_nothing_expires(volume: Volume) -> None:
    opened = volume.open()
    publisher = opened.publisher
    assert publisher is not None
    for number in range(3):
        write(opened, f"f{number}", "x")
        publisher.publish()
        with publisher.exclusively():
            publisher.pruner.prune_expired()
    before = opened.metrics.snapshot()
    publisher.pruner.prune_expired()
    after = opened.metrics.snapshot()
    deleted = [name for name in after if "delete" in name and after[name] != before.get(name, 0)]
    assert deleted == []
    assert len(ids(volume)) == 3


def test_the_process_of_a_mount_answers_for_the_snapshots(volume: Volume) -> None:
    opened = volume.open()
    handlers = mount_handlers(service_of(opened))
    write(opened, "a", "one")
    first = handlers["snapshot-create"]({"name": "first"}, silent)
    assert first["name"] == "first"
    write(opened, "b", "two")
    second = handlers["snapshot-create"]({"name": None}, silent)
    told: list[Message] = []
    assert handlers["snapshots"]({}, told.append) == {"count": 2}
    assert [one["snapshot"]["id"] for one in told] == [first["id"], second["id"]]
    assert handlers["snapshot-show"]({"id": first["id"]}, silent)["facts"]["files"] == 1
    would = handlers["snapshot-prune"]({"policy": {"last": 1}, "dry_run": True}, silent)
    assert would["removed"] == [first["id"]]
    assert handlers["snapshot-delete"]({"ids": [first["id"]]}, silent)["removed"] == [first["id"]]
    assert handlers["snapshot-policy"]({"policy": {"last": 7, "names": []}}, silent)["last"] == 7
    with pytest.raises(ControlError):
        handlers["snapshot-policy"]({"policy": {"newest": 1}}, silent)
    with pytest.raises(ControlError):
        handlers["snapshot-delete"]({"ids": "all"}, silent)


def test_through_a_view_snapshots_are_listed_and_not_changed(volume: Volume) -> None:
    first = volume.use("here", a="one")
    handlers = mount_handlers(service_of(volume.view()))
    assert handlers["snapshots"]({}, silent) == {"count": 1}
    with pytest.raises(ControlError, match="read-only"):
        handlers["snapshot-delete"]({"ids": [first]}, silent)


def test_a_damaged_manifest_is_listed_as_such(volume: Volume) -> None:
    first = volume.use("here", a="one")
    volume.use("here", b="two")
    path = volume.root / "v" / SnapshotEntry.key_of(first)
    path.chmod(0o600)
    path.write_bytes(b"rubbish")
    told = list(list_snapshots(volume.archive))
    assert "damaged" in told[0]
    assert told[1]["newest"]


def test_those_who_wait_at_one_time_share_a_snapshot(volume: Volume) -> None:
    opened = volume.open()
    publisher = opened.publisher
    assert publisher is not None
    write(opened, "first", "x")
    waiting = []
    with publisher.exclusively():
        for number in range(8):
            write(opened, f"f{number}", "x")
            thread = threading.Thread(target=publisher.publish_shared)
            thread.start()
            waiting.append(thread)
        while publisher._requested < 8:
            pass
    for thread in waiting:
        thread.join()
    assert len(ids(volume)) == 1
    assert len(view_of(volume, ids(volume)[0])) == 9


def test_those_who_share_a_snapshot_share_its_failure(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = volume.open()
    publisher = opened.publisher
    assert publisher is not None
    write(opened, "a", "x")
    errors: list[BaseException] = []

    def fsync() -> None:
        try:
            publisher.publish_shared()
        except StoreUnreachable as error:
            errors.append(error)

    def fail(*_: object, **__: object) -> None:
        raise StoreUnreachable("no route")

    monkeypatch.setattr(volume.archive.__class__, "create", fail)
    with publisher.exclusively():
        threads = [threading.Thread(target=fsync) for _ in range(3)]
        for thread in threads:
            thread.start()
        while publisher._requested < 3:
            pass
    for thread in threads:
        thread.join()
    assert len(errors) == 3
    assert len({id(error) for error in errors}) == 1
    monkeypatch.undo()
    publisher.publish_shared()
    assert view_of(volume, ids(volume)[-1]) == {"a": "x"}


@pytest.mark.promise("manifests-are-read-once")
def test_the_stored_size_counts_packs_that_only_snapshots_need(volume: Volume) -> None:
    first = volume.use("here", small="x")
    data = random.Random(2).randbytes(200_000).hex()
    volume.use("here", large=data)
    restore(volume, first)
    told = stats_of(volume, "here")
    in_store = sum(info.size for info in volume.shelf.store.list("packs/"))
    assert told.pack_bytes == in_store > 150_000
    assert told.pack_bytes - told.dead_pack_bytes < 1000


def in_store(volume: Volume, *prefixes: str) -> int:
    return sum(info.size for prefix in prefixes for info in volume.shelf.store.list(prefix))


@pytest.mark.promise("manifests-are-read-once")
def test_the_size_of_snapshots_is_reported_beside_the_packs(volume: Volume) -> None:
    volume.use("here", small="x")
    volume.use("here", other="y" * 5000)
    told = stats_of(volume, "here")
    assert told.snapshot_bytes == in_store(volume, "snapshots/", "pages/") > 1000
    opened = volume.open("here")
    assert opened.publisher is not None
    pruner = opened.publisher.pruner
    assert pruner.stored_bytes() is None  # nothing was asked for
    pruner.prune_expired()
    assert pruner.stored_bytes() == in_store(volume, "snapshots/", "pages/")
    write(opened, "third", "z" * 5000)
    opened.publisher.publish()
    assert pruner.stored_bytes() == in_store(volume, "snapshots/", "pages/")


@pytest.mark.promise("manifests-are-read-once")
def test_what_a_snapshot_has_added_counts_its_packs(volume: Volume) -> None:
    volume.use("here", small="x")
    before = sum(info.size for info in volume.shelf.store.list("packs/"))
    volume.use("here", large=random.Random(2).randbytes(200_000).hex())
    added = sum(info.size for info in volume.shelf.store.list("packs/")) - before
    volume.use("here", other="y")
    new = [one["new_bytes"] - one["new_index_bytes"] for one in list_snapshots(volume.archive)]
    assert new[1] == added > 150_000
    assert new[2] < 1000
