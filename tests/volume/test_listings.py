# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores whose listings lack what is there, and take-overs that die: nothing rolls back, nothing needed goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.config import WriterSettings
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.entries.kinds import ReleaseEntry
from cas3fs.errors import Fenced, SnapshotDamaged, StoreError
from cas3fs.filesystem import ROOT
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.objectstores.base import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.divergence import TakeoverBases
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStores
from cas3fs.testing.store_damage import delete_objects
from cas3fs.volume import opening
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.offline_writer import open_offline_writer
from cas3fs.volume.opening import OpenVolume, open_view, open_writer
from tests.encrypted import unsealed

from .conftest import Volume, packs, read_all, volume_policy, write
from .test_take_over import published, published_late, silent, take_over


@pytest.fixture
def volume(encryption: str, faulty_stores: FaultyStores, tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bare(volume: Volume, faulty_stores: FaultyStores) -> ObjectStore:
    """The store without a fault."""
    return faulty_stores.without_faults(volume.store_settings.url)


def looked_at(volume: Volume, host: str = "looking") -> list[str]:
    """The codes that fsck finds from another machine."""
    found: list[str] = []

    def take(told: Message) -> None:
        if "finding" in told:
            found.append(told["finding"]["code"])

    check_unmounted(volume.store_settings, volume.folders(host), FsckRequest(), take)
    return found


# -- the head


@pytest.mark.promise("the-newest-snapshot-is-named-by-its-release")
def test_a_listing_without_the_head_rolls_nothing_back(volume: Volume, faulty_stores: FaultyStores) -> None:
    volume.use("A", a="one")
    before = faulty_stores.faults.moment()
    last = volume.use("A", thesis="years of work")
    with faulty_stores.faults.on(FaultKind.EVENTUAL_LISTING, key_prefix="snapshots/", moment=before):
        assert read_all(volume.view()) == {"a": "one", "thesis": "years of work"}
        opened = volume.open("B")
        assert read_all(opened) == {"a": "one", "thesis": "years of work"}
        write(opened, "b", "more")
        opened.finish()
        opened.close()
    newest = volume.archive.newest()
    assert newest is not None and newest.parent == last
    assert read_all(volume.open("A")) == {"a": "one", "b": "more", "thesis": "years of work"}


@pytest.mark.promise("the-newest-snapshot-is-named-by-its-release")
def test_snapshots_of_an_unreleased_writer_are_found_by_number(volume: Volume, faulty_stores: FaultyStores) -> None:
    held = volume.open("A")
    write(held, "a", "one")
    published(held)
    before = faulty_stores.faults.moment()
    for name in ("b", "c"):
        write(held, name, "acknowledged")
        published(held)
    held.close()
    with faulty_stores.faults.on(FaultKind.EVENTUAL_LISTING, key_prefix="snapshots/", moment=before):
        assert set(read_all(take_over(volume, "B"))) == {"a", "b", "c"}


@pytest.mark.promise("the-newest-snapshot-is-named-by-its-release")
def test_pages_that_are_listed_tell_of_a_snapshot_that_is_not(volume: Volume, faulty_stores: FaultyStores) -> None:
    held = volume.open("A")
    assert held.publisher is not None
    held.publisher._sequence = 500  # as after many attempts that the store refused
    write(held, "a", "one")
    last = published(held)
    held.close()
    with faulty_stores.faults.on(FaultKind.LISTING_LACKS, keys=[f"snapshots/{last}"]):
        assert read_all(take_over(volume, "B")) == {"a": "one"}


@pytest.mark.promise("the-newest-snapshot-is-named-by-its-release")
def test_a_release_without_a_name_is_followed_as_before(volume: Volume) -> None:
    opened = volume.open("A")
    write(opened, "a", "one")
    published(opened)
    assert opened._session is not None
    claim = opened._session.claim
    volume.shelf.save(ReleaseEntry(owner=claim.key, claim=claim.uuid, time=opened.entry.created))
    opened.close()
    assert read_all(volume.open("B")) == {"a": "one"}


@pytest.mark.promise("the-newest-snapshot-is-named-by-its-release")
def test_a_lost_head_is_repaired_from_the_one_before(volume: Volume, bare: ObjectStore) -> None:
    volume.use("A", a="one")
    last = volume.use("A", b="two")
    delete_objects(bare, [f"snapshots/{last}"])
    with pytest.raises(SnapshotDamaged, match=f"no snapshot {last}.*snapshot restore"):
        volume.open("B")
    assert "snapshot-missing" in looked_at(volume)
    repaired: list[str] = []
    check_unmounted(
        volume.store_settings,
        volume.folders("B"),
        FsckRequest(repair=True),
        lambda told: repaired.append(told.get("finding", {}).get("code", "")),
    )
    assert "snapshot-missing" in repaired
    opened = volume.open("B")
    assert "a" in read_all_names(opened)
    opened.finish()


def read_all_names(opened: OpenVolume) -> set[str]:
    listing = opened.filesystem.opendir(ROOT)
    return {name.decode() for name, _, _ in opened.filesystem.readdir(listing, 0)}


@pytest.mark.promise("the-newest-snapshot-is-named-by-its-release", "a-lost-newest-snapshot-is-stored-again")
def test_a_machine_with_the_state_survives_a_lost_head(volume: Volume, bare: ObjectStore) -> None:
    last = volume.use("A", a="one")
    delete_objects(bare, [f"snapshots/{last}"])
    volume.store_settings = volume.accepting_rollback
    opened = volume.open("A")
    assert read_all(opened) == {"a": "one"}
    write(opened, "b", "two")
    opened.finish()
    opened.close()
    assert read_all(volume.open("B")) == {"a": "one", "b": "two"}


@pytest.mark.promise("a-lost-newest-snapshot-is-stored-again")
def test_a_repair_stores_a_lost_head_again_from_local_state(volume: Volume, bare: ObjectStore) -> None:
    last = volume.use("A", a="one")
    delete_objects(bare, [f"snapshots/{last}"])
    volume.store_settings = volume.accepting_rollback
    told: list[Message] = []
    result = check_unmounted(volume.store_settings, volume.folders("A"), FsckRequest(repair=True), told.append)
    assert result.status == 1
    (found,) = [one["finding"] for one in told if one.get("finding", {}).get("code") == "snapshot-missing"]
    assert found["repaired"]
    assert "this machine has its state" in found["about"]
    assert "snapshot-missing" not in looked_at(volume)
    assert read_all_names(volume.open("B")) >= {"a"}


@pytest.mark.promise("a-lost-newest-snapshot-is-stored-again")
def test_a_lost_only_snapshot_is_reported_with_where_to_go_on(volume: Volume, bare: ObjectStore) -> None:
    last = volume.use("A", a="one")
    delete_objects(bare, [f"snapshots/{last}"])
    volume.store_settings = volume.accepting_rollback
    with pytest.raises(
        SnapshotDamaged, match=f"no snapshot {last}; no snapshot before it is intact: mount .* wrote it"
    ):
        volume.open("B")
    assert read_all(volume.open("A")) == {"a": "one"}


# -- the fence


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
def test_an_old_writer_with_stale_listings_does_nothing(volume: Volume, faulty_stores: FaultyStores) -> None:
    old = volume.open("old")
    write(old, "thesis", "years of work")
    published(old)
    with faulty_stores.faults.on(FaultKind.EVENTUAL_LISTING, key_prefix="epochs/"):
        new = take_over(volume, "new")
        write(old, "mail", "important")
        with pytest.raises(Fenced):
            published(old)
        with pytest.raises(Fenced):
            GcScheduler(old).collect(GcSettings(grace_s=0), silent)
    assert read_all(new) == {"thesis": "years of work"}


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
@pytest.mark.parametrize("seen", ["a snapshot", "a pack"])
def test_whatever_is_seen_of_a_later_epoch_fences_its_writer(
    volume: Volume, faulty_stores: FaultyStores, seen: str
) -> None:
    old = volume.open("old")
    for text in ("one", "two"):
        write(old, text, text)
        published(old)
    new = take_over(volume, "new")
    if seen == "a pack":
        write(new, "b", "three")
        new.filesystem.store_all()
    assert old.publisher is not None
    before = set((volume.root / "v").rglob("*"))
    hidden = faulty_stores.faults.switch_on(FaultKind.HIDDEN, key_prefix="epochs/00000002")
    if seen == "a pack":
        faulty_stores.faults.switch_on(FaultKind.HIDDEN, key_prefix="snapshots/00000002")
        faulty_stores.faults.switch_on(FaultKind.HIDDEN, key_prefix="pages/00000002")
        with pytest.raises(Fenced):
            GcScheduler(old).collect(GcSettings(grace_s=0), silent)
        published_here = {path for path in set((volume.root / "v").rglob("*")) - before if path.is_file()}
        assert all("/00000001-" in str(path) for path in published_here)
    else:
        with old.publisher.exclusively(), pytest.raises(Fenced):
            old.publisher.pruner.prune(RetentionPolicy(last=1))
        assert set((volume.root / "v").rglob("*")) == before
    assert before <= set((volume.root / "v").rglob("*"))
    faulty_stores.faults.switch_off(hidden)
    with pytest.raises(Fenced):
        old.publisher.publish()
    assert old.filesystem.read_only


# -- what is retained


def named_and_forgotten(volume: Volume, opened: OpenVolume) -> tuple[str, str]:
    """A named snapshot that alone needs a pack, and later ones; gives it and the key of the pack."""
    before = packs(volume)
    write(opened, "thesis", "years of work")
    assert opened.publisher is not None
    keep = opened.publisher.publish(name="final")
    (pack,) = packs(volume) - before
    opened.filesystem.unlink(ROOT, b"thesis")
    published(opened)
    write(opened, "x", "1")
    published(opened)
    with opened.publisher.exclusively():
        opened.publisher.pruner.prune(RetentionPolicy(last=1, names=("*",)))
    assert len(volume.archive.ids()) == 2
    return keep, pack


@pytest.mark.promise("unlisted-snapshots-are-retained")
@pytest.mark.parametrize("who", ["its writer", "its machine", "another machine"])
def test_a_gc_deletes_nothing_that_an_unlisted_snapshot_needs(
    volume: Volume, faulty_stores: FaultyStores, who: str
) -> None:
    opened = volume.open("A")
    keep, pack = named_and_forgotten(volume, opened)
    if who != "its writer":
        opened.finish()
        opened.close()
    faulty_stores.faults.switch_on(FaultKind.LISTING_LACKS, keys=[f"snapshots/{keep}"])
    if who != "its writer":
        opened = volume.open("A" if who == "its machine" else "B")
    with pytest.raises(StoreError, match=f"does not list snapshot {keep}"):
        GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert pack in packs(volume)
    opened.finish()
    opened.close()
    with open_offline_writer(volume.store_settings, volume.folders("B")) as turn:
        turn.pruner.prune(RetentionPolicy(last=1, names=("*",)))
    faulty_stores.faults.clear()
    assert keep in volume.archive.ids()
    volume.archive.verify(keep, set())


@pytest.mark.promise("unlisted-snapshots-are-retained")
def test_pages_of_an_unlisted_unknown_snapshot_are_not_deleted(volume: Volume, faulty_stores: FaultyStores) -> None:
    opened = volume.open("A")
    keep, _ = named_and_forgotten(volume, opened)
    opened.finish()
    for path in volume.root.rglob("snapshots.json"):
        path.unlink()
    for path in (volume.root / "v" / "epochs").glob("*.released"):
        path.unlink()
    opened.close()
    with (
        faulty_stores.faults.on(FaultKind.LISTING_LACKS, keys=[f"snapshots/{keep}"]),
        open_offline_writer(volume.store_settings, volume.folders("A")) as turn,
    ):
        turn.pruner.prune(RetentionPolicy(last=1, names=("*",)))
    volume.archive.verify(keep, set())


# -- take-over


@pytest.mark.promise("a-take-over-records-its-base-first")
def test_the_next_writer_writes_the_base_of_a_dead_take_over(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    base = published(old)

    class Killed(BaseException):
        """The process is gone."""

    def dies(*args: object, **more: object) -> None:
        raise Killed

    settings = WriterSettings(cache_size_bytes=0, take_over=True)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(opening, "apply_handover", dies)
        open_writer(volume.store_settings, settings, volume.folders("new"))
    assert TakeoverBases(volume.shelf).all() == ()
    new = volume.open("new")
    assert [(one.epoch, str(one.start)) for one in TakeoverBases(volume.shelf).all()] == [(3, base)]
    write(old, "precious", "late")
    late = published_late(old, monkeypatch)
    assert volume.archive.diverged() == {late}
    assert read_all(new) == {"a": "one"}
    write(new, "b", "two")
    head = published(new)
    assert new.publisher is not None
    with new.publisher.exclusively():
        assert late not in new.publisher.pruner.prune(RetentionPolicy(last=1)).removal.snapshots
    assert volume.archive.newest_id() == head
    assert late in volume.archive.ids()


@pytest.mark.promise("a-take-over-records-its-base-first")
def test_the_base_of_a_take_over_is_written_before_any_restore(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    base = published(old)
    seen: list[tuple[int, str]] = []
    restored = opening.select_index

    def look(*args: object, **more: object) -> object:
        seen.extend((one.epoch, str(one.start)) for one in TakeoverBases(volume.shelf).all())
        return restored(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "select_index", look)
    take_over(volume, "new")
    assert seen == [(2, base)]


# -- damage among the epochs


def spoiled(volume: Volume, key: str) -> None:
    path = volume.root / "v" / key
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_damaged_base_permits_mounts_and_no_deletion_before_it(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    base = published(old)
    new = take_over(volume, "new")
    write(old, "b", "late")
    late = published_late(old, monkeypatch)
    write(new, "c", "three")
    new.finish()
    new.close()
    spoiled(volume, "epochs/00000002.base")
    assert read_all(volume.view()) == {"a": "one", "c": "three"}
    opened = volume.open("third")
    assert read_all(opened) == {"a": "one", "c": "three"}
    assert opened.publisher is not None
    with opened.publisher.exclusively():
        opened.publisher.pruner.prune(RetentionPolicy(last=1))
    assert {base, late} < set(volume.archive.ids())
    before = packs(volume)
    GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert packs(volume) == before


def repaired_on(volume: Volume, host: str) -> list[str]:
    """The codes that a repair on `host` tells of as mended."""
    found: list[str] = []

    def take(told: Message) -> None:
        if "finding" in told and told["finding"]["repaired"]:
            found.append(told["finding"]["code"])

    check_unmounted(volume.store_settings, volume.folders(host), FsckRequest(repair=True), take)
    return found


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_damaged_base_is_told_and_written_anew_by_a_repair(
    volume: Volume, bare: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = volume.open("old")
    write(old, "a", "one")
    base = published(old)
    new = take_over(volume, "new")
    write(old, "b", "late")
    late = published_late(old, monkeypatch)
    new.finish()
    new.close()
    good = unsealed(bare).get("epochs/00000002.base")
    spoiled(volume, "epochs/00000002.base")
    bad = bare.get("epochs/00000002.base")
    assert looked_at(volume) == ["base-damaged"]
    assert repaired_on(volume, "third") == ["base-damaged"]
    assert unsealed(bare).get("epochs/00000002.base") == good
    assert bare.get("damaged/epochs/00000002.base") == bad
    assert "base-damaged" not in looked_at(volume)
    archive = SnapshotArchive(volume.shelf)
    assert archive.diverged() == {late}
    assert base in archive.ids()


@pytest.mark.encryption("plain", "encrypted")
@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_damaged_claim_is_reported_and_replaced_by_a_repair(volume: Volume, bare: ObjectStore) -> None:
    volume.use("A", a="one")
    spoiled(volume, "epochs/00000001")
    bad = bare.get("epochs/00000001")
    assert looked_at(volume) == ["epoch-damaged"]
    assert repaired_on(volume, "B") == ["epoch-damaged"]
    assert bare.get("damaged/epochs/00000001") == bad
    assert "epoch-damaged" not in looked_at(volume)
    assert "a" in read_all_names(volume.open("A"))


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_damaged_release_is_reported_and_written_again(volume: Volume, bare: ObjectStore) -> None:
    """The last one, which the next writer reads; also while the volume is held, as it is read again after a crash."""
    volume.use("A", a="one")
    newest = volume.use("A", b="two")
    for epoch in ("00000001", "00000002"):
        spoiled(volume, f"epochs/{epoch}.released")
    bad = bare.get("epochs/00000002.released")
    assert looked_at(volume) == ["release-damaged"]
    volume.open("A").close()
    assert looked_at(volume) == ["release-damaged"]
    assert repaired_on(volume, "A") == ["release-damaged"]
    assert bare.get("damaged/epochs/00000002.released") == bad
    release = volume.shelf.load(ReleaseEntry, "released", "epochs/00000002")
    assert (release.snapshot, release.retained[-1]) == (newest, newest)
    assert "release-damaged" not in looked_at(volume)
    assert read_all_names(volume.view()) >= {"a", "b"}


def test_a_damaged_policy_is_reported_until_another_is_set(volume: Volume) -> None:
    volume.use("A", a="one")
    volume_policy(volume, RetentionPolicy(last=3))
    spoiled(volume, "policies/00000001")
    assert looked_at(volume) == ["policy-damaged"]
    assert repaired_on(volume, "A") == []
    volume_policy(volume, RetentionPolicy(last=3))
    assert looked_at(volume) == []


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_damaged_newest_epoch_permits_a_view_and_a_take_over(volume: Volume) -> None:
    volume.use("A", a="one")
    spoiled(volume, "epochs/00000001")
    assert read_all(volume.view()) == {"a": "one"}
    opened = volume.open("A")
    published(opened)
    opened.close()
    spoiled(volume, "epochs/00000002")
    assert read_all(take_over(volume, "B")) == {"a": "one"}


def test_a_view_of_a_snapshot_asks_for_no_epoch(volume: Volume) -> None:
    first = volume.use("A", a="one")
    volume.use("A", b="two")
    settings = WriterSettings(cache_size_bytes=0, read_only=True, snapshot=first)
    opened = open_view(volume.store_settings, settings, volume.folders("viewer"))
    volume.closing(opened)
    opened.start(0)
    assert read_all(opened) == {"a": "one"}
