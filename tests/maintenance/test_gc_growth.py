# SPDX-License-Identifier: GPL-3.0-or-later
"""gc does not make the store grow: a pack is rewritten where it comes free soon enough for what copying it takes."""

import random
from datetime import UTC, datetime

import pytest

from cas3fs.entries.shelf import Shelf
from cas3fs.index import PackUse, ordinal_of
from cas3fs.maintenance.choosing import KEPT, LIMITED, Chooser, Stays
from cas3fs.maintenance.plans import GcSettings
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.retention import RetentionPolicy, set_policy
from cas3fs.values import SnapshotNumber
from tests.maintenance.rig import KIB, NOW, Rig, fill, noise

DAY = 86400.0


@pytest.mark.promise("packs-are-rewritten-where-it-pays")
@pytest.mark.parametrize("settings", [NOW, GcSettings(min_live=0.9, grace_s=0)])
def test_while_every_snapshot_is_kept_for_good_nothing_is_copied(rig: Rig, settings: GcSettings) -> None:
    left = [f"f{number}" for number in range(60)]
    for number, name in enumerate(left):
        rig.write(name, noise(number))
    rig.publish(name="month 0")
    stored = sum(rig.packs().values())
    chance = random.Random(1)
    for month in range(1, 5):
        for name in chance.sample(left, len(left) // 3):
            rig.remove(name)
            left.remove(name)
        rig.publish(name=f"month {month}")
        result = rig.gc(settings)
        assert (result.rewritten_packs, result.deleted_packs) == (0, 0)
    assert sum(rig.packs().values()) == stored
    assert [one["why"] for one in result.left] == [KEPT]
    rig.check_snapshots()


@pytest.mark.promise("packs-are-rewritten-where-it-pays")
def test_the_plan_says_what_is_left_and_which_snapshot_keeps_it(rig: Rig) -> None:
    fill(rig)
    kept = rig.publish(name="kept")
    for number in range(7):
        rig.remove(f"f{number}")
    rig.publish()
    plan = rig.collector.plan(NOW)
    (left,) = plan.left
    assert plan.rewrites == ()
    assert (left.why, left.packs, left.snapshot) == (KEPT, 1, kept)
    assert 20 * KIB <= left.bytes < sum(rig.packs().values())
    rig.drop_snapshot(kept)
    plan = rig.collector.plan(NOW)
    assert (len(plan.rewrites), plan.left) == (1, ())
    assert plan.as_json()["left"] == []


@pytest.mark.promise("packs-are-rewritten-where-it-pays")
def test_the_policy_of_the_volume_decides_what_stays(rig: Rig) -> None:
    fill(rig)
    rig.publish(name="soon to go")
    for number in range(7):
        rig.remove(f"f{number}")
    assert rig.gc().rewritten_packs == 0
    set_policy(Shelf(rig.store), RetentionPolicy(last=1), fenced=True)
    assert rig.gc().rewritten_packs == 1
    rig.check_snapshots()


def test_where_the_policy_cannot_be_read_nothing_is_copied_and_all_else_is_done(rig: Rig) -> None:
    fill(rig, 12)
    first = rig.publish()
    for number in range(9):
        rig.remove(f"f{number}")
    rig.publish()
    rig.drop_snapshot(first)
    rig.inner.put_if_absent("policies/00000001", b"rotten")
    result = rig.gc()
    assert result.rewritten_packs == 0 and result.dropped_blocks > 0
    rig.check_snapshots()


class TestChoosing:
    """Which packs are worth it."""

    @staticmethod
    def use(live: float, born: int = 1) -> PackUse:
        size = 1_000_000
        return PackUse(born, f"{born}", size, _ordinal(born), None, 10, size, int(10 * live), int(size * live))

    @staticmethod
    def chosen(uses: list[PackUse], stays: Stays, limit: int | None = None) -> tuple[list[int], list[str]]:
        chooser = Chooser(0.7, limit, stays, _ordinal(100))
        for use in uses:
            chooser.see(use)
        choice = chooser.choice()
        return [use.id for use in choice.packs], [one.why for one in choice.left]

    @pytest.mark.promise("packs-are-rewritten-where-it-pays")
    @pytest.mark.parametrize(
        ("stay_days", "live", "is_chosen"),
        [(1, 0.69, True), (92, 0.6, True), (367, 0.3, True), (367, 0.4, False), (183, 0.6, False), (10**9, 0.1, False)],
    )
    def test_the_longer_a_snapshot_stays_the_emptier_a_pack_has_to_be(
        self, stay_days: float, live: float, is_chosen: bool
    ) -> None:
        stays = _stays({5: stay_days})
        assert self.chosen([self.use(live)], stays) == (([1], []) if is_chosen else ([], [KEPT]))

    def test_only_snapshots_that_are_not_older_than_a_pack_need_it(self) -> None:
        stays = _stays({5: float("inf"), 20: 1})
        uses = [self.use(0.5, born=3), self.use(0.5, born=6), self.use(0.5, born=30)]
        assert self.chosen(uses, stays) == ([6, 30], [KEPT])

    def test_one_that_was_put_aside_stays_for_good(self) -> None:
        stays = Stays((), {}, [SnapshotNumber(1, 10)])
        assert self.chosen([self.use(0.5, born=3), self.use(0.5, born=11)], stays) == ([11], [KEPT])

    def test_what_is_over_the_limit_is_told(self) -> None:
        uses = [self.use(0.5, born=1), self.use(0.2, born=2)]
        assert self.chosen(uses, _stays({}), limit=300_000) == ([2], [LIMITED])


def _ordinal(number: int) -> int:
    return ordinal_of(SnapshotNumber(1, number))


def _stays(days: dict[int, float]) -> Stays:
    """Snapshots by number, with how long they stay."""
    made = [_info(number) for number in sorted(days)]
    return Stays(made, {one.id: days[one.number.sequence] * DAY for one in made})


def _info(number: int) -> SnapshotInfo:
    of = SnapshotNumber(1, number)
    time = datetime.now(UTC)
    return SnapshotInfo(
        id=str(of), number=of, parent=None, name=None, time=time, index_size=1, new_size=1, facts={}, pages=()
    )
