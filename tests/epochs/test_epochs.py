# SPDX-License-Identifier: GPL-3.0-or-later
"""One writer at a time: claims, releases, rivals, crashes and take-over."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cas3fs.entries.kinds import EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Claim, Epochs, WriterIdentity
from cas3fs.errors import (
    EpochHeld,
    ObjectExists,
    StateConflict,
    StoreUnreachable,
)
from cas3fs.objectstores.base import Body
from cas3fs.objectstores.memory import MemoryStore

ALICE = WriterIdentity("alpha", "alice", 11, "boot-a")
BOB = WriterIdentity("beta", "bob", 22, "boot-b")


class Store(MemoryStore):
    """A memory store with hooks before and after a put, that can ignore conditions."""

    def __init__(self, *, conditional: bool = True) -> None:
        super().__init__()
        self.conditional = conditional
        self.before_put: Callable[[str], None] = lambda key: None
        self.after_put: Callable[[str], None] = lambda key: None

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self.before_put(key)
        try:
            super().put_if_absent(key, body, metadata)
        except ObjectExists:
            if self.conditional:
                raise
            self.delete_many([key])
            super().put_if_absent(key, body, metadata)
        self.after_put(key)


@pytest.fixture(params=[True, False], ids=["conditional", "unconditional"])
def conditional_writes(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def store(conditional_writes: bool) -> Store:
    return Store(conditional=conditional_writes)


@pytest.fixture
def epochs(store: Store, conditional_writes: bool) -> Epochs:
    return Epochs(Shelf(store), conditional_writes=conditional_writes, sleep=lambda seconds: None)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "claim"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return tmp_path / "there" / "claim"


def keys(store: MemoryStore) -> list[str]:
    return [info.key for info in store.list()]


def test_the_first_claim_of_a_volume_is_epoch_one(
    epochs: Epochs, store: Store, here: Path, conditional_writes: bool
) -> None:
    assert epochs.newest() is None
    claim = epochs.claim(ALICE, here)
    assert (claim.epoch, claim.lineage, claim.took_over) == (1, (), None)
    suffix = "" if conditional_writes else "-" + claim.uuid.hex
    assert keys(store) == ["epochs/00000001" + suffix]
    newest = epochs.newest()
    assert newest is not None and newest.entry.claim == claim.uuid and not newest.released


def test_a_released_epoch_is_followed_by_the_next_of_its_lineage(epochs: Epochs, here: Path) -> None:
    first = epochs.claim(ALICE, here)
    epochs.release(first)
    newest = epochs.newest()
    assert newest is not None and newest.released
    second = epochs.claim(ALICE, here)
    assert (second.epoch, second.lineage) == (2, (first.uuid,))


@pytest.mark.promise("a-held-volume-refuses-others")
def test_another_state_directory_is_refused_while_the_epoch_is_held(epochs: Epochs, here: Path, there: Path) -> None:
    epochs.claim(ALICE, here)
    with pytest.raises(EpochHeld) as caught:
        epochs.claim(BOB, there)
    for word in ("alpha", "alice", "11", "another machine", "--take-over", "UTC"):
        assert word in str(caught.value)


def test_the_refusal_states_that_the_holder_is_this_machine(epochs: Epochs, here: Path, there: Path) -> None:
    epochs.claim(ALICE, here)
    with pytest.raises(EpochHeld, match="this machine, but another state directory"):
        epochs.claim(ALICE, there)


@pytest.mark.promise("a-held-volume-refuses-others")
def test_a_crashed_mount_continues_from_its_own_state_directory(epochs: Epochs, here: Path) -> None:
    crashed = epochs.claim(ALICE, here)
    again = epochs.claim(ALICE, here)
    once_more = epochs.claim(ALICE, here)
    assert (again.epoch, again.lineage) == (2, (crashed.uuid,))
    assert (once_more.epoch, once_more.lineage) == (3, (crashed.uuid, again.uuid))


@pytest.mark.promise("a-claim-holds-on-its-own-machine")
def test_a_state_directory_copied_to_another_machine_holds_nothing_there(
    epochs: Epochs, here: Path, there: Path
) -> None:
    alpha, beta = ALICE._replace(machine="a" * 32), ALICE._replace(machine="b" * 32)
    held = epochs.claim(alpha, here)
    shutil.copy(here, there)
    for _ in range(2):
        with pytest.raises(EpochHeld, match=r"from which the state directory here was copied.*--take-over"):
            epochs.claim(beta, there)
    assert epochs.claim(alpha, here).lineage == (held.uuid,)
    shutil.copy(here, there)
    taken = epochs.claim(beta, there, take_over=True)
    assert taken.took_over is not None
    assert taken.took_over.startswith("epochs/00000002")
    assert taken.lineage[0] == held.uuid  # so it can be continued, if it matches the store
    assert epochs.claim(beta, there).took_over is None
    with pytest.raises(EpochHeld):
        epochs.claim(alpha, here)


@pytest.mark.promise("a-claim-holds-on-its-own-machine")
def test_clones_that_share_a_machine_id_differ_by_their_board(epochs: Epochs, here: Path) -> None:
    clone = ALICE._replace(machine="a" * 32, board="1" * 32)
    epochs.claim(clone, here)
    with pytest.raises(EpochHeld):
        epochs.claim(clone._replace(board="2" * 32), here)
    epochs.claim(clone._replace(board=""), here)  # only root can read it


@pytest.mark.parametrize("known", [True, False])
def test_a_claim_file_of_an_earlier_version_and_a_machine_without_an_id_are_accepted(
    epochs: Epochs, here: Path, known: bool
) -> None:
    held = epochs.claim(ALICE, here)
    if known:
        content = json.loads(here.read_text())
        del content["machine"], content["seen"]
        here.write_text(json.dumps(content))
    again = epochs.claim(ALICE._replace(machine="a" * 32), here)
    assert again.lineage == (held.uuid,)


def test_another_writer_in_between_ends_the_lineage(epochs: Epochs, here: Path, there: Path) -> None:
    epochs.release(epochs.claim(ALICE, here))
    epochs.release(epochs.claim(BOB, there))
    back = epochs.claim(ALICE, here)
    assert (back.epoch, back.lineage) == (3, ())
    epochs.release(back)
    assert epochs.claim(ALICE, here).lineage == (back.uuid,)


def test_releasing_twice_is_harmless(epochs: Epochs, store: Store, here: Path) -> None:
    claim = epochs.claim(ALICE, here)
    epochs.release(claim)
    epochs.release(claim)
    assert Shelf(store).load(ReleaseEntry, "released", owner=claim.key).claim == claim.uuid


def test_a_writer_that_was_taken_over_finds_out(epochs: Epochs, here: Path, there: Path) -> None:
    old = epochs.claim(ALICE, here)
    assert epochs.is_newest(old)
    new = epochs.claim(BOB, there, take_over=True)
    assert (new.epoch, new.took_over, new.lineage) == (2, old.key, ())
    assert not epochs.is_newest(old) and epochs.is_newest(new)
    with pytest.raises(EpochHeld, match="beta"):
        epochs.claim(ALICE, here)


def test_taking_over_a_released_epoch_is_a_plain_claim(epochs: Epochs, here: Path, there: Path) -> None:
    epochs.release(epochs.claim(ALICE, here))
    assert epochs.claim(BOB, there, take_over=True).took_over is None


def test_an_own_release_does_not_look_like_a_later_writer(epochs: Epochs, here: Path) -> None:
    claim = epochs.claim(ALICE, here)
    epochs.release(claim)
    assert epochs.is_newest(claim)


@pytest.mark.promise("numbers-are-never-reused")
def test_a_claim_that_was_applied_before_it_failed_is_ours(epochs: Epochs, store: Store, here: Path) -> None:
    first = epochs.claim(ALICE, here)

    def fail(key: str) -> None:
        raise StoreUnreachable("the answer was lost")

    store.after_put = fail
    with pytest.raises(StoreUnreachable):
        epochs.claim(ALICE, here)
    store.after_put = lambda key: None
    again = epochs.claim(ALICE, here)
    assert again.epoch == 3
    assert again.lineage[0] == first.uuid and len(again.lineage) == 2


def test_a_claim_that_never_arrived_is_made_again(epochs: Epochs, store: Store, here: Path) -> None:
    first = epochs.claim(ALICE, here)

    def fail(key: str) -> None:
        raise StoreUnreachable("no route")

    store.before_put = fail
    with pytest.raises(StoreUnreachable):
        epochs.claim(ALICE, here)
    store.before_put = lambda key: None
    again = epochs.claim(ALICE, here)
    assert (again.epoch, again.lineage) == (2, (first.uuid,))


@pytest.mark.promise("numbers-are-never-reused")
def test_a_claim_that_arrives_late_is_still_ours(here: Path) -> None:
    store = Store()
    epochs = Epochs(Shelf(store), sleep=lambda seconds: None)
    late: list[tuple[str, bytes]] = []

    class Delayed(Store):
        def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
            assert isinstance(body, bytes)
            late.append((key, body))
            raise StoreUnreachable("timeout")

    with pytest.raises(StoreUnreachable):
        Epochs(Shelf(Delayed()), sleep=lambda seconds: None).claim(ALICE, here)

    def arrive(key: str) -> None:
        if late:
            MemoryStore.put_if_absent(store, *late.pop())

    store.before_put = arrive
    claim = epochs.claim(ALICE, here)
    assert claim.epoch == 1 and epochs.is_newest(claim)


def test_an_exists_error_for_our_own_claim_is_a_success(here: Path) -> None:
    class Doubling(Store):
        def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
            super().put_if_absent(key, body, metadata)
            super().put_if_absent(key, body, metadata)

    store = Doubling()
    claim = Epochs(Shelf(store)).claim(ALICE, here)
    assert Shelf(store).load(EpochEntry, "00000001").claim == claim.uuid


def test_the_loser_of_a_race_is_refused_even_with_take_over(
    epochs: Epochs, store: Store, here: Path, there: Path, tmp_path: Path
) -> None:
    epochs.claim(ALICE, here)
    rivals: list[Claim] = []

    def rival_first(key: str) -> None:
        store.before_put = lambda key: None
        rivals.append(epochs.claim(BOB, there, take_over=True))

    store.before_put = rival_first
    carol = WriterIdentity("gamma", "carol", 33)
    with pytest.raises(EpochHeld, match="beta"):
        epochs.claim(carol, tmp_path / "carol", take_over=True)
    assert epochs.is_newest(rivals[0])


@pytest.mark.promise("rival-claims-withdraw")
def test_rivals_without_conditional_writes_both_withdraw(tmp_path: Path, here: Path, there: Path) -> None:
    """Both put, both list, and each sees the other."""
    store = Store(conditional=False)
    meet = threading.Barrier(2, timeout=20)
    listed, put = threading.Semaphore(2), threading.Semaphore(2)

    def wait_for_the_other(key: str, met: threading.Semaphore) -> None:
        if "released" not in key and met.acquire(blocking=False):
            meet.wait()

    store.before_put = lambda key: wait_for_the_other(key, listed)
    store.after_put = lambda key: wait_for_the_other(key, put)
    waits: list[float] = []

    def claim(who: WriterIdentity, path: Path) -> Claim | None:
        epochs = Epochs(Shelf(store), conditional_writes=False, sleep=waits.append)
        try:
            return epochs.claim(who, path)
        except EpochHeld:
            return None

    with ThreadPoolExecutor(2) as pool:
        claims = list(pool.map(claim, (ALICE, BOB), (here, there)))
    winners = [one for one in claims if one]
    assert len(winners) <= 1 and waits
    if winners:
        assert keys(store) == [winners[0].key]
    else:
        assert keys(store) == []


def test_one_of_several_concurrent_claims_wins(tmp_path: Path, conditional_writes: bool) -> None:
    for turn in range(25):
        store = Store(conditional=conditional_writes)
        start = threading.Barrier(3, timeout=20)

        def claim(
            number: int, turn: int = turn, store: Store = store, start: threading.Barrier = start
        ) -> Claim | None:
            epochs = Epochs(
                Shelf(store), conditional_writes=conditional_writes, sleep=lambda seconds: time.sleep(seconds / 100)
            )
            start.wait()
            try:
                return epochs.claim(WriterIdentity(f"host{number}", "u", number), tmp_path / f"{turn}-{number}")
            except EpochHeld:
                return None

        with ThreadPoolExecutor(3) as pool:
            winners = [one for one in pool.map(claim, range(3)) if one]
        assert len(winners) == 1
        assert keys(store) == [one.key for one in winners]


def test_an_error_names_the_damaged_claim_file(epochs: Epochs, here: Path) -> None:
    for content in ("{", "{}", '{"held": [{"epoch": 1}], "pending": null}', "[]"):
        here.write_text(content)
        with pytest.raises(StateConflict, match="claim"):
            epochs.claim(ALICE, here)


@pytest.mark.promise("numbers-are-never-reused")
def test_the_claim_file_is_written_before_the_claim(epochs: Epochs, store: Store, here: Path) -> None:
    seen: list[dict[str, object]] = []
    store.before_put = lambda key: seen.append(json.loads(here.read_text())["pending"])
    claim = epochs.claim(ALICE, here)
    unknown = {"machine": "", "board": ""}
    assert seen == [{"epoch": 1, "uuid": str(claim.uuid), "continues": False, "machine": unknown}]
    held = [{"epoch": 1, "uuid": str(claim.uuid)}]
    assert json.loads(here.read_text()) == {"held": held, "pending": None, "machine": unknown, "seen": 1}


def test_the_claim_file_stays_bounded(epochs: Epochs, here: Path) -> None:
    for _ in range(40):
        claim = epochs.claim(ALICE, here)
    assert claim.epoch == 40 and 30 <= len(claim.lineage) <= 40


def test_an_unknown_name_among_the_epochs_is_logged_and_ignored(
    epochs: Epochs, store: Store, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.put_if_absent("epochs/next", b"")
    assert epochs.claim(ALICE, here).epoch == 1
    assert "epochs/next" in caplog.text


def test_this_process_has_an_identity() -> None:
    identity = WriterIdentity.of_this_process()
    assert identity.host and identity.user and identity.pid > 0


def test_an_epoch_that_was_taken_over_is_overruled_until_it_is_released(
    store: Store, conditional_writes: bool, tmp_path: Path
) -> None:
    epochs = Epochs(Shelf(store), conditional_writes=conditional_writes)
    first = epochs.claim(ALICE, tmp_path / "alice")
    assert epochs.overruled() == frozenset()
    epochs.claim(BOB, tmp_path / "bob", take_over=True)
    epochs.claim(BOB, tmp_path / "bob")
    assert epochs.overruled() == {first.epoch}
    epochs.release(first)
    assert epochs.overruled() == frozenset()


def test_one_of_two_concurrent_claims_wins_each_time(store: Store, conditional_writes: bool, tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def claim(identity: WriterIdentity, number: int) -> Claim | None:
        epochs = Epochs(
            Shelf(store), conditional_writes=conditional_writes, sleep=lambda wait_s: time.sleep(wait_s / 50)
        )
        barrier.wait()
        try:
            return epochs.claim(identity, tmp_path / f"{identity.host}-{number}")
        except EpochHeld:
            return None

    with ThreadPoolExecutor(2) as pool:
        for number in range(50):
            claims = list(pool.map(claim, (ALICE, BOB), (number, number)))
            won = [one for one in claims if one is not None]
            assert len(won) == 1
            for one in won:
                Epochs(Shelf(store), conditional_writes=conditional_writes).release(one)
