# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has written a volume, and the release of an epoch in the place of a writer that is gone."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from cas3fs.entries.kinds import EpochEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import EpochHistory, Epochs, WriterIdentity
from cas3fs.errors import EpochHeld, EpochUnknown, ObjectMissing
from cas3fs.objectstores.memory import MemoryStore

ALICE = WriterIdentity("alpha", "alice", 11)
BOB = WriterIdentity("beta", "bob", 22)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=[True, False], ids=["fenced", "unfenced"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """Epochs 1 (released), 2 (crashed, gone on with as 3), 3 (taken over), 4 (held)."""
    made = Shelf(MemoryStore())
    epochs = Epochs(made, fenced=request.param)
    epochs.release(epochs.claim(ALICE, tmp_path / "alice"))
    epochs.claim(ALICE, tmp_path / "alice")
    epochs.claim(ALICE, tmp_path / "alice")
    epochs.claim(BOB, tmp_path / "bob", take_over=True)
    return made


def standings(shelf: Shelf, most: int = 10) -> dict[int, str]:
    return {one.entry.epoch: one.standing for one in EpochHistory(shelf).recent(most)}


def test_it_is_told_what_became_of_each_epoch(shelf: Shelf) -> None:
    assert standings(shelf) == {1: "released", 2: "continued", 3: "overruled", 4: "held"}
    assert [one.entry.host for one in EpochHistory(shelf).recent(10)] == ["alpha", "alpha", "alpha", "beta"]


def test_of_many_epochs_the_last_are_told_and_those_that_wait_for_a_person(shelf: Shelf) -> None:
    assert standings(shelf, most=1) == {3: "overruled", 4: "held"}
    assert standings(shelf, most=0) == {3: "overruled"}


def test_an_overruled_epoch_is_released_once(shelf: Shelf) -> None:
    assert EpochHistory(shelf).overruled() == {3}
    assert EpochHistory(shelf).release(3, NOW) is True
    assert EpochHistory(shelf).overruled() == frozenset()
    assert standings(shelf)[3] == "released"
    assert EpochHistory(shelf).release(3, NOW) is False


@pytest.mark.parametrize("number", [1, 2])
def test_an_epoch_whose_writer_ended_well_needs_no_release(shelf: Shelf, number: int) -> None:
    before = standings(shelf)
    assert EpochHistory(shelf).release(number, NOW) is False
    assert standings(shelf) == before


def test_the_newest_epoch_is_not_released_by_hand(shelf: Shelf) -> None:
    with pytest.raises(EpochHeld, match="--take-over"):
        EpochHistory(shelf).release(4, NOW)
    assert standings(shelf)[4] == "held"


def test_an_epoch_that_never_was_is_told(shelf: Shelf) -> None:
    with pytest.raises(EpochUnknown, match="no epoch 9"):
        EpochHistory(shelf).release(9, NOW)


class Vanishing(MemoryStore):
    """Objects that are listed and gone by the time they are asked for."""

    gone = ""

    def get(self, key: str) -> bytes:
        if self.gone and key.startswith(self.gone):
            raise ObjectMissing(f"no object {key}")
        return super().get(key)


@pytest.mark.promise("gc-decides-again-when-it-deletes")
def test_an_epoch_counts_as_taken_over_where_the_claim_after_it_was_withdrawn_meanwhile(tmp_path: Path) -> None:
    store = Vanishing()
    epochs = Epochs(Shelf(store), fenced=False)
    epochs.claim(ALICE, tmp_path / "alice")
    epochs.claim(BOB, tmp_path / "bob", take_over=True)
    store.gone = "epochs/00000002-"
    assert epochs.overruled() == {1}


def test_what_a_rival_of_the_same_number_may_have_written_ends_the_line(tmp_path: Path) -> None:
    shelf = Shelf(MemoryStore())
    epochs = Epochs(shelf, fenced=False)
    epochs.claim(ALICE, tmp_path / "alice")
    rival = EpochEntry(id=f"00000001-{'b' * 32}", epoch=1, claim=UUID("b" * 32), time=NOW, **BOB._asdict())
    shelf.save(rival)
    assert epochs.claim(ALICE, tmp_path / "alice", take_over=True).lineage == ()
