# SPDX-License-Identifier: GPL-3.0-or-later
"""The past epochs of a volume, and releasing one in the place of its writer."""

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


@pytest.fixture(params=[True, False], ids=["conditional", "unconditional"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """Epochs 1 (released), 2 (crashed, continued as 3), 3 (taken over), 4 (held)."""
    made = Shelf(MemoryStore())
    epochs = Epochs(made, conditional_writes=request.param)
    epochs.release(epochs.claim(ALICE, tmp_path / "alice"))
    epochs.claim(ALICE, tmp_path / "alice")
    epochs.claim(ALICE, tmp_path / "alice")
    epochs.claim(BOB, tmp_path / "bob", take_over=True)
    return made


def statuses(shelf: Shelf, count: int = 10) -> dict[int, str]:
    return {one.entry.epoch: one.status for one in EpochHistory(shelf).recent(count)}


def test_the_status_of_each_epoch(shelf: Shelf) -> None:
    assert statuses(shelf) == {1: "released", 2: "continued", 3: "overruled", 4: "held"}
    assert [one.entry.host for one in EpochHistory(shelf).recent(10)] == ["alpha", "alpha", "alpha", "beta"]


def test_recent_epochs_and_all_overruled_ones(shelf: Shelf) -> None:
    assert statuses(shelf, count=1) == {3: "overruled", 4: "held"}
    assert statuses(shelf, count=0) == {3: "overruled"}


def test_an_overruled_epoch_is_released_once(shelf: Shelf) -> None:
    assert EpochHistory(shelf).overruled() == {3}
    assert EpochHistory(shelf).release(3, NOW) is True
    assert EpochHistory(shelf).overruled() == frozenset()
    assert statuses(shelf)[3] == "released"
    assert EpochHistory(shelf).release(3, NOW) is False


@pytest.mark.parametrize("number", [1, 2])
def test_a_released_or_continued_epoch_needs_no_release(shelf: Shelf, number: int) -> None:
    before = statuses(shelf)
    assert EpochHistory(shelf).release(number, NOW) is False
    assert statuses(shelf) == before


def test_the_newest_epoch_cannot_be_released_in_its_writers_place(shelf: Shelf) -> None:
    with pytest.raises(EpochHeld, match="--take-over"):
        EpochHistory(shelf).release(4, NOW)
    assert statuses(shelf)[4] == "held"


def test_an_unknown_epoch_cannot_be_released(shelf: Shelf) -> None:
    with pytest.raises(EpochUnknown, match="no epoch 9"):
        EpochHistory(shelf).release(9, NOW)


class Vanishing(MemoryStore):
    """Objects that are listed, and gone when they are read."""

    gone = ""

    def get(self, key: str) -> bytes:
        if self.gone and key.startswith(self.gone):
            raise ObjectMissing(f"no object {key}")
        return super().get(key)


@pytest.mark.promise("gc-decides-again-when-it-deletes")
def test_an_epoch_is_overruled_if_the_claim_after_it_was_withdrawn_meanwhile(tmp_path: Path) -> None:
    store = Vanishing()
    epochs = Epochs(Shelf(store), conditional_writes=False)
    epochs.claim(ALICE, tmp_path / "alice")
    epochs.claim(BOB, tmp_path / "bob", take_over=True)
    store.gone = "epochs/00000002-"
    assert epochs.overruled() == {1}


def test_a_rival_of_the_same_number_ends_the_lineage(tmp_path: Path) -> None:
    shelf = Shelf(MemoryStore())
    epochs = Epochs(shelf, conditional_writes=False)
    epochs.claim(ALICE, tmp_path / "alice")
    rival = EpochEntry(id=f"00000001-{'b' * 32}", epoch=1, claim=UUID("b" * 32), time=NOW, **BOB._asdict())
    shelf.save(rival)
    assert epochs.claim(ALICE, tmp_path / "alice", take_over=True).lineage == ()
