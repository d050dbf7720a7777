# SPDX-License-Identifier: GPL-3.0-or-later
"""A gc that is killed at any step loses nothing, and the next one finishes its work."""

import random
from pathlib import Path

import pytest

from cas3fs.objectstores import ObjectStore
from cas3fs.testing.faults import FaultKind, Faults
from cas3fs.testing.faulty_store import STORE_FAULTS, FaultyStore
from tests.maintenance.memory_volume import KIB, MemoryVolume, make_garbage, noise


class Killed(BaseException):
    """The process was killed."""


STEPS = (
    "publishing",
    "rewriting packs",
    "moving blocks",
    "listing",
    "merging",
    "dropping blocks",
    "marking packs",
    "putting the snapshot",
    "acknowledging the snapshot",
    "deleting packs",
    "deleting rows of packs",
    "deleting orphans",
)


@pytest.mark.promise("a-killed-gc-loses-nothing")
@pytest.mark.parametrize("commit", [False, True], ids=["in the group", "committed"])
@pytest.mark.parametrize("step", STEPS)
def test_a_gc_that_is_killed_loses_nothing_and_the_next_one_finishes(
    volume: MemoryVolume, tmp_path: Path, step: str, commit: bool
) -> None:
    make_garbage(volume)
    tree = volume.tree()

    def kill(progress: dict[str, object]) -> None:
        if progress["what"] == step:
            if commit:
                volume.fs.commit()
            raise Killed

    with pytest.raises(Killed):
        volume.gc(report=kill)
    after = volume.restarted_after_kill(tmp_path / "after")
    after.snapshots.update({one: tree for one in after.archive.ids() if one not in after.snapshots})
    assert after.tree() == tree
    after.check_snapshots()
    after.gc()
    after.check_snapshots()
    for snapshot in [one for one in after.snapshots if one != after.newest]:
        after.delete_snapshot(snapshot)
    after.gc()
    assert after.tree() == tree
    after.check_snapshots()
    assert sum(after.packs().values()) < 1.1 * 20 * KIB * len(tree)
    after.close()


def rounds(folder: Path, seed: int, count: int) -> None:
    """Writes, deletes, snapshots, collects and is killed at random, on a store that refuses to delete some objects, and
    to give some packs to the gc; everything retained is compared each time."""
    chance = random.Random(seed)
    faults = Faults(STORE_FAULTS)

    def wrap(store: ObjectStore) -> ObjectStore:
        return FaultyStore(store, faults)

    volume = MemoryVolume(folder / "0", wrap=wrap)
    for number in range(count):
        for _ in range(chance.randrange(1, 8)):
            name = f"f{chance.randrange(20)}"
            if name in volume.names() and chance.random() < 0.5:
                volume.remove(name)
            else:
                volume.write(name, noise(chance.randrange(12), chance.randrange(1, 40 * KIB)))
        if chance.random() < 0.6:
            volume.publish()
        retained = sorted(one for one in volume.snapshots if one != volume.newest)
        if retained and chance.random() < 0.5:
            volume.delete_snapshot(chance.choice(retained))
        tree = volume.tree()
        if chance.random() < 0.7:
            killed_at = chance.randrange(1, 30)
            steps = 0

            def kill_sometimes(progress: object, killed_at: int = killed_at) -> None:
                nonlocal steps
                steps += 1
                if steps == killed_at:
                    raise Killed

            for kind, operation in ((FaultKind.DELETION_REFUSED, "delete"), (FaultKind.HIDDEN, "get")):
                keys = [key for key in volume.packs() if chance.random() < 0.2]
                if keys:
                    faults.switch_on(kind, operations=[operation], keys=keys)
            killed = False
            try:
                volume.gc(report=kill_sometimes)
            except Killed:
                killed = True
            faults.clear()
            volume.snapshots.update({one: tree for one in volume.archive.ids() if not volume.snapshots.get(one)})
            if killed:
                after = volume.restarted_after_kill(folder / f"{number + 1}", wrap=wrap)
                after.snapshots.update({one: tree for one in after.archive.ids() if one not in after.snapshots})
                volume = after
        # everything was committed, as a gc does that first
        assert volume.tree() == tree
        volume.check_snapshots()
    volume.close()


@pytest.mark.promise("one-failure-does-not-stop-gc")
@pytest.mark.parametrize("seed", range(4))
def test_random_rounds_with_kills_lose_nothing(tmp_path: Path, seed: int, long: bool) -> None:
    rounds(tmp_path, seed, 50 if long else 10)
