# SPDX-License-Identifier: GPL-3.0-or-later
"""gc does not make the store grow: a pack is rewritten if it is freed soon enough for what the copy costs."""

import random
from datetime import UTC, datetime

import pytest

from cas3fs.entries.shelf import Shelf
from cas3fs.index import PackUse, ordinal_of
from cas3fs.maintenance.gc.pack_selection import NEEDED_FOR_LONG, OVER_LIMIT, PackSelector, RetentionTimes
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import set_policy
from cas3fs.values import SnapshotNumber
from tests.maintenance.memory_volume import KIB, NOW, MemoryVolume, noise, write_files

DAY = 86400.0


@pytest.mark.promise("packs-are-rewritten-where-it-pays")
@pytest.mark.parametrize("settings", [NOW, GcSettings(min_live=0.9, grace_s=0)])
def test_nothing_is_copied_while_every_snapshot_is_kept_for_good(volume: MemoryVolume, settings: GcSettings) -> None:
    left = [f"f{number}" for number in range(60)]
    for number, name in enumerate(left):
        volume.write(name, noise(number))
    volume.publish(name="month 0")
    stored = sum(volume.packs().values())
    chance = random.Random(1)
    for month in range(1, 5):
        for name in chance.sample(left, len(left) // 3):
            volume.remove(name)
            left.remove(name)
        volume.publish(name=f"month {month}")
        result = volume.gc(settings)
        assert (result.rewritten_packs, result.deleted_packs) == (0, 0)
    assert sum(volume.packs().values()) == stored
    assert [one["why"] for one in result.left] == [NEEDED_FOR_LONG]
    volume.check_snapshots()


@pytest.mark.promise("packs-are-rewritten-where-it-pays")
def test_the_plan_shows_skipped_packs_and_which_snapshot_needs_them(volume: MemoryVolume) -> None:
    write_files(volume)
    kept = volume.publish(name="kept")
    for number in range(7):
        volume.remove(f"f{number}")
    volume.publish()
    plan = volume.collector.plan(NOW)
    (skipped,) = plan.skipped
    assert plan.rewrites == ()
    assert (skipped.why, skipped.packs, skipped.snapshot) == (NEEDED_FOR_LONG, 1, kept)
    assert 20 * KIB <= skipped.bytes < sum(volume.packs().values())
    volume.delete_snapshot(kept)
    plan = volume.collector.plan(NOW)
    assert (len(plan.rewrites), plan.skipped) == (1, ())
    assert plan.as_json()["left"] == []


@pytest.mark.promise("packs-are-rewritten-where-it-pays")
def test_the_retention_policy_decides_what_is_rewritten(volume: MemoryVolume) -> None:
    write_files(volume)
    volume.publish(name="soon to go")
    for number in range(7):
        volume.remove(f"f{number}")
    assert volume.gc().rewritten_packs == 0
    set_policy(Shelf(volume.store), RetentionPolicy(last=1), conditional_writes=True)
    assert volume.gc().rewritten_packs == 1
    volume.check_snapshots()


def test_with_an_unreadable_policy_nothing_is_copied_and_all_else_is_done(volume: MemoryVolume) -> None:
    write_files(volume, 12)
    first = volume.publish()
    for number in range(9):
        volume.remove(f"f{number}")
    volume.publish()
    volume.delete_snapshot(first)
    volume.inner.put_if_absent("policies/00000001", b"damaged")
    result = volume.gc()
    assert result.rewritten_packs == 0 and result.dropped_blocks > 0
    volume.check_snapshots()


class TestPackSelector:
    """Which packs are worth rewriting."""

    @staticmethod
    def use(live: float, born: int = 1) -> PackUse:
        size = 1_000_000
        return PackUse(born, f"{born}", size, _ordinal(born), None, 10, size, int(10 * live), int(size * live))

    @staticmethod
    def chosen(
        uses: list[PackUse], retention_times: RetentionTimes, limit: int | None = None
    ) -> tuple[list[int], list[str]]:
        selector = PackSelector(0.7, limit, retention_times, _ordinal(100))
        for use in uses:
            selector.add(use)
        selection = selector.selection()
        return [use.id for use in selection.packs], [one.why for one in selection.skipped]

    @pytest.mark.promise("packs-are-rewritten-where-it-pays")
    @pytest.mark.parametrize(
        ("stay_days", "live", "is_chosen"),
        [(1, 0.69, True), (92, 0.6, True), (367, 0.3, True), (367, 0.4, False), (183, 0.6, False), (10**9, 0.1, False)],
    )
    def test_the_longer_a_snapshot_is_kept_the_emptier_a_pack_has_to_be(
        self, stay_days: float, live: float, is_chosen: bool
    ) -> None:
        retention_times = _retention_times({5: stay_days})
        assert self.chosen([self.use(live)], retention_times) == (([1], []) if is_chosen else ([], [NEEDED_FOR_LONG]))

    def test_only_snapshots_that_are_not_older_than_a_pack_need_it(self) -> None:
        retention_times = _retention_times({5: float("inf"), 20: 1})
        uses = [self.use(0.5, born=3), self.use(0.5, born=6), self.use(0.5, born=30)]
        assert self.chosen(uses, retention_times) == ([6, 30], [NEEDED_FOR_LONG])

    def test_a_quarantined_snapshot_counts_as_kept_for_good(self) -> None:
        retention_times = RetentionTimes((), {}, [SnapshotNumber(1, 10)])
        assert self.chosen([self.use(0.5, born=3), self.use(0.5, born=11)], retention_times) == (
            [11],
            [NEEDED_FOR_LONG],
        )

    def test_packs_over_the_limit_are_reported(self) -> None:
        uses = [self.use(0.5, born=1), self.use(0.2, born=2)]
        assert self.chosen(uses, _retention_times({}), limit=300_000) == ([2], [OVER_LIMIT])


def _ordinal(number: int) -> int:
    return ordinal_of(SnapshotNumber(1, number))


def _retention_times(days: dict[int, float]) -> RetentionTimes:
    """Retention times of snapshots, for days by their number."""
    made = [_info(number) for number in sorted(days)]
    return RetentionTimes(made, {one.id: days[one.number.sequence] * DAY for one in made})


def _info(number: int) -> SnapshotInfo:
    of = SnapshotNumber(1, number)
    time = datetime.now(UTC)
    return SnapshotInfo(
        id=str(of), number=of, parent=None, name=None, time=time, index_size=1, new_size=1, facts={}, pages=()
    )
