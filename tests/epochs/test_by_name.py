# SPDX-License-Identifier: GPL-3.0-or-later
"""Epochs are looked up by name, so neither an incomplete listing nor a damaged entry hides one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from cas3fs.entries.kinds import EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import EpochHistory, Epochs, WriterIdentity
from cas3fs.epochs.claim_file import read_claim_file, write_claim_file
from cas3fs.errors import EpochHeld
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.divergence import write_takeover_base
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStore
from cas3fs.testing.store_damage import corrupt_object, delete_objects

ALICE = WriterIdentity("alpha", "alice", 11, "boot-a")
BOB = WriterIdentity("beta", "bob", 22, "boot-b")
CAROL = WriterIdentity("gamma", "carol", 33, "boot-c")


@pytest.fixture
def bare() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def store(bare: MemoryStore) -> FaultyStore:
    return FaultyStore(bare)


@pytest.fixture
def epochs(store: FaultyStore) -> Epochs:
    return Epochs(Shelf(store), sleep=lambda seconds: None)


@pytest.fixture
def at(tmp_path: Path) -> Callable[[str], Path]:
    """A function that returns the claim file of a machine."""
    return lambda name: tmp_path / name


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
def test_a_writer_is_fenced_although_the_listing_lacks_the_next_epoch(
    epochs: Epochs, store: FaultyStore, at: Callable[[str], Path]
) -> None:
    old = epochs.claim(ALICE, at("alice"))
    with store.faults.on(FaultKind.EVENTUAL_LISTING, key_prefix="epochs/"):
        assert epochs.is_newest(old)
        new = Epochs(Shelf(store)).claim(BOB, at("bob"), take_over=True)
        assert new.epoch == 2
        assert not epochs.is_newest(old)


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
def test_a_writer_that_saw_an_object_of_a_later_epoch_is_fenced(epochs: Epochs, at: Callable[[str], Path]) -> None:
    claim = epochs.claim(ALICE, at("alice"))
    epochs.note_epoch(claim.epoch)
    assert epochs.is_newest(claim)
    epochs.note_epoch(claim.epoch + 3)
    assert not epochs.is_newest(claim)


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
def test_an_epoch_that_the_listing_lacks_is_still_held(
    epochs: Epochs, store: FaultyStore, at: Callable[[str], Path]
) -> None:
    for _ in range(5):
        epochs.release(epochs.claim(ALICE, at("alice")))
    with store.faults.on(FaultKind.EVENTUAL_LISTING, key_prefix="epochs/"):
        epochs.release(epochs.claim(ALICE, at("alice")))
        held = epochs.claim(BOB, at("bob"))
        assert held.epoch == 7
        with pytest.raises(EpochHeld, match="beta"):
            epochs.claim(CAROL, at("carol"))
        epochs.release(held)
        assert epochs.claim(CAROL, at("carol")).epoch == 8


@pytest.mark.promise("the-newest-snapshot-is-named-by-its-release")
def test_the_next_claim_reads_the_handover_of_the_last_release(epochs: Epochs, at: Callable[[str], Path]) -> None:
    epochs.release(epochs.claim(ALICE, at("alice")), "00000001-0000000003", ("00000001-0000000002",))
    crashed = epochs.claim(BOB, at("bob"))
    assert crashed.handover == ("00000001-0000000003", ("00000001-0000000002",))
    assert crashed.after_release and crashed.before == 1
    after = epochs.claim(CAROL, at("carol"), take_over=True)
    assert after.handover == crashed.handover
    assert not after.after_release and after.before == 2
    epochs.release(after)
    assert epochs.claim(ALICE, at("alice")).handover == crashed.handover


def test_a_release_of_an_older_version_has_an_empty_handover(
    epochs: Epochs, store: FaultyStore, at: Callable[[str], Path]
) -> None:
    claim = epochs.claim(ALICE, at("alice"))
    epochs.release(claim)
    assert Shelf(store).load(ReleaseEntry, "released", claim.key).snapshot is None
    assert epochs.claim(BOB, at("bob")).handover == (None, ())


@pytest.mark.promise("a-take-over-records-its-base-first")
def test_a_base_stays_due_until_one_is_written(epochs: Epochs, store: FaultyStore, at: Callable[[str], Path]) -> None:
    epochs.claim(ALICE, at("alice"))
    assert epochs.claim(BOB, at("bob"), take_over=True).base_due
    assert epochs.claim(BOB, at("bob")).base_due
    third = epochs.claim(BOB, at("bob"))
    assert third.base_due and third.took_over is None
    write_takeover_base(Shelf(store), third.key, third.epoch, None)
    after = epochs.claim(BOB, at("bob"))
    assert not after.base_due
    assert (after.overruled, after.bases) == ({1}, {4})


def damaged_newest(epochs: Epochs, bare: MemoryStore, path: Path) -> None:
    epochs.claim(ALICE, path)
    corrupt_object(bare, "epochs/00000001", 60)


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_damaged_newest_epoch_must_be_taken_over(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
    damaged_newest(epochs, bare, at("alice"))
    with pytest.raises(EpochHeld, match=r"epochs/00000001 cannot be read .*--take-over"):
        epochs.claim(BOB, at("bob"))
    claim = epochs.claim(BOB, at("bob"), take_over=True)
    assert (claim.epoch, claim.took_over, claim.base_due) == (2, "epochs/00000001", True)
    assert epochs.overruled(claim) == {1}
    assert [(one.entry.host, one.status) for one in EpochHistory(Shelf(bare)).recent(9)] == [
        ("unknown", "overruled"),
        ("beta", "held"),
    ]


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_state_directory_continues_from_its_own_damaged_epoch(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
    damaged_newest(epochs, bare, at("alice"))
    claim = epochs.claim(ALICE, at("alice"))
    assert claim.epoch == 2 and claim.took_over is None and len(claim.lineage) == 1


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_anybody_may_follow_a_damaged_epoch_that_was_released(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
    epochs.release(epochs.claim(ALICE, at("alice")))
    corrupt_object(bare, "epochs/00000001", 60)
    corrupt_object(bare, "epochs/00000001.released", 60)
    assert epochs.claim(BOB, at("bob")).epoch == 2


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_an_epoch_before_a_damaged_one_counts_as_overruled(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
    epochs.claim(ALICE, at("alice"))
    epochs.claim(ALICE, at("alice"))
    corrupt_object(bare, "epochs/00000002", 60)
    assert EpochHistory(Shelf(bare)).overruled() == {1}


class Counting(MemoryStore):
    """Counts its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.requests["get"] += 1
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.requests["get"] += 1
        return super().get_range(key, start, length)

    def list_page(self, prefix: str = "", start_after: str = "") -> Any:
        page = super().list_page(prefix, start_after)
        self.requests["listed"] += len(page.objects)
        return page


def create_crashed_epochs(shelf: Shelf, path: Path, number: int) -> None:
    """Create epochs up to `number`, never released, each continued by the same machine; cheaply."""
    first = Epochs(shelf).claim(ALICE, path)
    entry = shelf.load(EpochEntry, "00000001")
    for epoch in range(2, number):
        shelf.save(entry.changed(id=f"{epoch:08d}", epoch=epoch))
    assert first.overruled == frozenset()


@pytest.mark.promise("requests-do-not-grow-with-epochs")
def test_ten_thousand_epochs_need_no_more_requests(tmp_path: Path) -> None:
    store = Counting()
    shelf = Shelf(store)
    create_crashed_epochs(shelf, tmp_path / "alice", 10_000)
    assert Epochs(shelf).claim(BOB, tmp_path / "bob", take_over=True).epoch == 10_000
    store.requests.clear()
    epochs = Epochs(shelf)
    claim = epochs.claim(BOB, tmp_path / "bob")
    assert epochs.overruled(claim) == {9_999}
    assert epochs.is_newest(claim)
    assert store.requests["get"] < 20 and store.requests["listed"] < 10
    store.requests.clear()
    assert EpochHistory(shelf).overruled() == {9_999}
    assert [one.entry.epoch for one in EpochHistory(shelf).recent(1)] == [9_999, 10_001]
    assert store.requests["get"] < 10


@pytest.mark.promise("requests-do-not-grow-with-epochs")
def test_ten_thousand_epochs_of_an_older_version_are_read_once(tmp_path: Path) -> None:
    """An older version does not record which epochs are overruled."""
    store = Counting()
    shelf = Shelf(store)
    create_crashed_epochs(shelf, tmp_path / "alice", 10_000)
    entry = shelf.load(EpochEntry, "00009999")
    shelf.save(entry.changed(id="00010000", epoch=10_000, overruled=None, took_over="epochs/00009999"))
    store.requests.clear()
    assert EpochHistory(shelf).overruled() == {9_999}
    assert store.requests["get"] <= 10_001


def test_very_many_lost_numbers_are_skipped(epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]) -> None:
    epochs.release(epochs.claim(ALICE, at("alice")))
    record = read_claim_file(at("alice"))
    write_claim_file(at("alice"), attrs.evolve(record, seen=100_000))
    claim = epochs.claim(ALICE, at("alice"))
    assert claim.epoch == 100_001
    assert epochs.is_newest(claim)
    assert len(list(bare.list("epochs/"))) == 4
    epochs.release(claim)
    assert epochs.claim(ALICE, at("alice")).epoch == 100_002


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_numbers_that_the_store_has_lost_are_not_claimed_again(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
    for _ in range(3):
        epochs.release(epochs.claim(ALICE, at("alice")))
    delete_objects(bare, ["epochs/00000003", "epochs/00000003.released", "epochs/00000002", "epochs/00000002.released"])
    claim = epochs.claim(ALICE, at("alice"))
    assert claim.epoch == 4  # no number is claimed twice
    assert len(claim.lineage) == 5
    assert epochs.overruled(claim) == {2, 3}  # what the store may still have of them stays
    assert sorted(info.key for info in bare.list("epochs/") if "." not in info.key) == [
        f"epochs/{number:08d}" for number in range(1, 5)
    ]
