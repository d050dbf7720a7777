# SPDX-License-Identifier: GPL-3.0-or-later
"""Epochs are asked for by their names: a listing that lacks one, or an entry that cannot be read, hides nobody."""

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
    """The claim file of a machine."""
    return lambda name: tmp_path / name


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
def test_a_listing_that_lacks_the_next_epoch_does_not_blind_the_fence(
    epochs: Epochs, store: FaultyStore, at: Callable[[str], Path]
) -> None:
    old = epochs.claim(ALICE, at("alice"))
    with store.faults.on(FaultKind.EVENTUAL_LISTING, key_prefix="epochs/"):
        assert epochs.is_newest(old)
        new = Epochs(Shelf(store)).claim(BOB, at("bob"), take_over=True)
        assert new.epoch == 2
        assert not epochs.is_newest(old)


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
def test_whoever_saw_anything_of_a_later_epoch_is_fenced(epochs: Epochs, at: Callable[[str], Path]) -> None:
    claim = epochs.claim(ALICE, at("alice"))
    epochs.note_epoch(claim.epoch)
    assert epochs.is_newest(claim)
    epochs.note_epoch(claim.epoch + 3)
    assert not epochs.is_newest(claim)


@pytest.mark.promise("what-must-exist-is-asked-for-by-name")
def test_an_epoch_that_a_listing_lacks_is_held_all_the_same(
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
def test_the_next_claim_learns_what_the_release_before_says(epochs: Epochs, at: Callable[[str], Path]) -> None:
    epochs.release(epochs.claim(ALICE, at("alice")), "00000001-0000000003", ("00000001-0000000002",))
    crashed = epochs.claim(BOB, at("bob"))
    assert crashed.handover == ("00000001-0000000003", ("00000001-0000000002",))
    assert crashed.after_release and crashed.before == 1
    after = epochs.claim(CAROL, at("carol"), take_over=True)
    assert after.handover == crashed.handover
    assert not after.after_release and after.before == 2
    epochs.release(after)
    assert epochs.claim(ALICE, at("alice")).handover == crashed.handover


def test_a_release_of_an_older_version_names_nothing(
    epochs: Epochs, store: FaultyStore, at: Callable[[str], Path]
) -> None:
    claim = epochs.claim(ALICE, at("alice"))
    epochs.release(claim)
    assert Shelf(store).load(ReleaseEntry, "released", claim.key).snapshot is None
    assert epochs.claim(BOB, at("bob")).handover == (None, ())


@pytest.mark.promise("a-take-over-records-its-base-first")
def test_a_take_over_that_died_without_a_base_is_made_good_by_the_next_claim(
    epochs: Epochs, store: FaultyStore, at: Callable[[str], Path]
) -> None:
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
def test_a_damaged_newest_epoch_is_held_by_nobody_that_is_known_until_it_is_taken_over(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
    damaged_newest(epochs, bare, at("alice"))
    with pytest.raises(EpochHeld, match=r"epochs/00000001 cannot be read .*--take-over"):
        epochs.claim(BOB, at("bob"))
    claim = epochs.claim(BOB, at("bob"), take_over=True)
    assert (claim.epoch, claim.took_over, claim.base_due) == (2, "epochs/00000001", True)
    assert epochs.overruled(claim) == {1}
    assert [(one.entry.host, one.standing) for one in EpochHistory(Shelf(bare)).recent(9)] == [
        ("unknown", "overruled"),
        ("beta", "held"),
    ]


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_state_directory_knows_its_own_epoch_whose_entry_is_damaged(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
    damaged_newest(epochs, bare, at("alice"))
    claim = epochs.claim(ALICE, at("alice"))
    assert claim.epoch == 2 and claim.took_over is None and len(claim.lineage) == 1


@pytest.mark.promise("an-unreadable-epoch-is-held")
def test_a_damaged_epoch_that_was_released_is_followed_by_anybody(
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
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.asked["get"] += 1
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.asked["get"] += 1
        return super().get_range(key, start, length)

    def list_page(self, prefix: str = "", start_after: str = "") -> Any:
        page = super().list_page(prefix, start_after)
        self.asked["listed"] += len(page.objects)
        return page


def crashed(shelf: Shelf, path: Path, number: int) -> None:
    """Epochs, none of them released, each gone on with by the same machine; made as cheaply as can be."""
    first = Epochs(shelf).claim(ALICE, path)
    entry = shelf.load(EpochEntry, "00000001")
    for epoch in range(2, number):
        shelf.save(entry.changed(id=f"{epoch:08d}", epoch=epoch))
    assert first.overruled == frozenset()


@pytest.mark.promise("requests-do-not-grow-with-epochs")
def test_what_is_asked_of_ten_thousand_epochs_does_not_grow_with_them(tmp_path: Path) -> None:
    store = Counting()
    shelf = Shelf(store)
    crashed(shelf, tmp_path / "alice", 10_000)
    assert Epochs(shelf).claim(BOB, tmp_path / "bob", take_over=True).epoch == 10_000
    store.asked.clear()
    epochs = Epochs(shelf)
    claim = epochs.claim(BOB, tmp_path / "bob")
    assert epochs.overruled(claim) == {9_999}
    assert epochs.is_newest(claim)
    assert store.asked["get"] < 20 and store.asked["listed"] < 10
    store.asked.clear()
    assert EpochHistory(shelf).overruled() == {9_999}
    assert [one.entry.epoch for one in EpochHistory(shelf).recent(1)] == [9_999, 10_001]
    assert store.asked["get"] < 10


@pytest.mark.promise("requests-do-not-grow-with-epochs")
def test_what_became_of_ten_thousand_epochs_is_found_out_in_one_pass(tmp_path: Path) -> None:
    """As of an older version, which does not write down what is overruled."""
    store = Counting()
    shelf = Shelf(store)
    crashed(shelf, tmp_path / "alice", 10_000)
    entry = shelf.load(EpochEntry, "00009999")
    shelf.save(entry.changed(id="00010000", epoch=10_000, overruled=None, took_over="epochs/00009999"))
    store.asked.clear()
    assert EpochHistory(shelf).overruled() == {9_999}
    assert store.asked["get"] <= 10_001


def test_of_very_many_lost_numbers_not_each_is_claimed(
    epochs: Epochs, bare: MemoryStore, at: Callable[[str], Path]
) -> None:
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
def test_an_older_store_than_the_claim_file_knows_is_read_all_the_same(
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
