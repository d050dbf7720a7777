# SPDX-License-Identifier: GPL-3.0-or-later
"""Clocks that are wrong for a while: no snapshot is deleted for that, and none is kept for ever."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.errors import SnapshotError
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import set_policy
from cas3fs.testing.store_damage import copy_to
from cas3fs.values import SnapshotNumber
from cas3fs.volume.pruner import SnapshotPruner

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Machine:
    """One that publishes, and may believe that it is another day."""

    def __init__(self, folder: Path) -> None:
        self.time, self.wrong_by = START, timedelta()
        self.store = MemoryStore(now=lambda: self.time)
        self.folder = folder
        self.sequence = 0
        self.archive, self.pruner = self.at(self.store)

    def at(self, store: MemoryStore) -> tuple[SnapshotArchive, SnapshotPruner]:
        """What publishes and keeps in that store."""
        epochs = Epochs(Shelf(store))
        archive = SnapshotArchive(Shelf(store), now=self.here)
        claim = epochs.claim(WriterIdentity("here", "user", 1), self.folder / "claim.json")

        def coming() -> SnapshotNumber:
            return SnapshotNumber(claim.epoch, self.sequence + 1)

        return archive, SnapshotPruner(archive, epochs, claim, coming, shown=dict, now=self.here)

    def here(self) -> datetime:
        return self.time + self.wrong_by

    def publish(self, after: timedelta) -> str:
        self.time += after
        self.sequence += 1
        (self.folder / "index").write_bytes(b"%512d" % self.sequence)
        made = self.archive.create(self.folder / "index", epoch=1, sequence=self.sequence)
        self.pruner.published(made)
        self.pruner.prune_expired()
        return made.id


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.promise("a-wrong-clock-deletes-no-snapshot")
def test_a_clock_ahead_for_one_publication_prunes_nothing(machine: Machine) -> None:
    policy = RetentionPolicy(within_s=30 * 86400)
    set_policy(machine.archive.shelf, policy, conditional_writes=True)
    made = [machine.publish(DAY) for _ in range(28)]
    machine.wrong_by = 40 * DAY
    made.append(machine.publish(DAY / 24))
    assert machine.archive.ids() == made
    with pytest.raises(SnapshotError, match="on this machine and 2026-01-29 13:00:00 in the store"):
        machine.pruner.prune(policy)
    machine.wrong_by = timedelta()
    made.append(machine.publish(DAY))
    assert machine.archive.ids() == made
    machine.publish(27 * DAY)
    assert machine.archive.ids()[0] == made[26]


@pytest.mark.promise("a-wrong-clock-deletes-no-snapshot")
def test_snapshots_from_the_future_are_as_old_as_their_manifests(machine: Machine) -> None:
    set_policy(machine.archive.shelf, RetentionPolicy(within_s=3600, daily=3), conditional_writes=True)
    machine.wrong_by = 365 * DAY
    for _ in range(24):
        machine.publish(timedelta(minutes=5))
    machine.wrong_by = timedelta()
    last = [machine.publish(DAY) for _ in range(3)]
    assert machine.archive.ids() == last


@pytest.mark.promise("a-wrong-clock-deletes-no-snapshot")
@pytest.mark.parametrize("wrong_by", [-365 * DAY, -40 * DAY])
def test_snapshots_from_the_past_are_kept_by_either_time(machine: Machine, wrong_by: timedelta) -> None:
    policy = RetentionPolicy(within_s=86400, daily=10)
    set_policy(machine.archive.shelf, policy, conditional_writes=True)
    machine.wrong_by = wrong_by
    made = [machine.publish(DAY) for _ in range(6)]
    machine.wrong_by = timedelta()
    made.append(machine.publish(DAY))
    assert machine.archive.ids() == made


@pytest.mark.promise("a-wrong-clock-deletes-no-snapshot")
def test_a_bucket_that_was_copied_keeps_its_history(machine: Machine) -> None:
    """Its manifests are all of the day of the copy."""
    set_policy(machine.archive.shelf, RetentionPolicy(hourly=3, daily=30), conditional_writes=True)
    made = [machine.publish(DAY) for _ in range(20)]
    machine.time += DAY
    copy = MemoryStore(now=lambda: machine.time)
    copy_to(machine.store, copy)
    archive, pruner = machine.at(copy)
    pruner.prune(None)
    assert archive.ids() == made


@pytest.mark.promise("a-wrong-clock-deletes-no-snapshot")
def test_rules_that_ask_for_no_age_need_no_clock(machine: Machine) -> None:
    machine.wrong_by = 40 * DAY
    set_policy(machine.archive.shelf, RetentionPolicy(last=2), conditional_writes=True)
    made = [machine.publish(DAY) for _ in range(5)]
    assert machine.archive.ids() == made[-2:]
