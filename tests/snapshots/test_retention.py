# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules keep snapshots; the head and diverged snapshots are always kept."""

from datetime import UTC, datetime, timedelta

import pytest

from cas3fs.entries.shelf import Shelf
from cas3fs.errors import ObjectExists
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.policy import DEFAULT_POLICY, RetentionPolicy
from cas3fs.snapshots.retention import apply_policy, current_policy, set_policy
from cas3fs.values import SnapshotNumber

NOW = datetime(2026, 5, 6, 12, 30, tzinfo=UTC)


def snapshot(sequence: int, age: timedelta, name: str | None = None) -> SnapshotInfo:
    number = SnapshotNumber(1, sequence)
    return SnapshotInfo(str(number), number, None, name, NOW - age, 0, 0, {}, ())


def series(count: int, step: timedelta) -> list[SnapshotInfo]:
    """Return `count` snapshots, the newest made now."""
    return [snapshot(number, step * (count - number)) for number in range(1, count + 1)]


def kept(snapshots: list[SnapshotInfo], policy: RetentionPolicy, exempt: tuple[str, ...] = ()) -> list[int]:
    decisions = apply_policy(snapshots, policy, NOW, exempt=exempt)
    return [one.snapshot.number.sequence for one in decisions if one.kept_by]


def test_every_policy_keeps_the_head() -> None:
    assert kept(series(5, timedelta(hours=1)), RetentionPolicy()) == [5]


def test_the_last_few_are_kept() -> None:
    assert kept(series(5, timedelta(days=900)), RetentionPolicy(last=3)) == [3, 4, 5]


def test_recent_snapshots_are_kept() -> None:
    assert kept(series(20, timedelta(minutes=10)), RetentionPolicy(within_s=3600)) == list(range(14, 21))


@pytest.mark.promise("snapshots-are-ordered-by-number")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetentionPolicy(), [6]),
        (RetentionPolicy(last=2), [5, 6]),
        (RetentionPolicy(within_s=3600), [1, 2, 3, 4, 5, 6]),
        (RetentionPolicy(hourly=1), [6]),
        (RetentionPolicy(hourly=2), [3, 6]),
    ],
)
def test_the_newest_are_those_with_the_greatest_numbers_whatever_the_clock(
    policy: RetentionPolicy, expected: list[int]
) -> None:
    ahead = [snapshot(number, timedelta(minutes=-1440 - number)) for number in (1, 2, 3)]
    assert (
        kept([*ahead, *(snapshot(number, timedelta(minutes=9 - number)) for number in (4, 5, 6))], policy) == expected
    )


def test_the_newest_of_each_hour_is_kept() -> None:
    # at 12:30, 12:10, 11:50, 11:30, 11:10, 10:50 ...
    assert kept(series(12, timedelta(minutes=20)), RetentionPolicy(hourly=3)) == [7, 10, 12]


def test_hours_without_snapshots_do_not_count() -> None:
    assert kept([snapshot(1, timedelta(days=40)), snapshot(2, timedelta(0))], RetentionPolicy(hourly=2)) == [1, 2]


def test_daily_weekly_and_monthly_rules_combine() -> None:
    daily = series(100, timedelta(days=1))
    assert kept(daily, RetentionPolicy(daily=2)) == [99, 100]
    # 6 May 2026 is a Wednesday
    assert kept(daily, RetentionPolicy(weekly=3)) == [90, 97, 100]
    assert kept(daily, RetentionPolicy(monthly=3)) == [64, 94, 100]
    assert kept(daily, RetentionPolicy(daily=2, weekly=2)) == [97, 99, 100]


def test_snapshots_are_kept_by_name_pattern() -> None:
    named = [snapshot(1, timedelta(9), "v1"), snapshot(2, timedelta(8), "test"), snapshot(3, timedelta(1))]
    assert kept(named, RetentionPolicy(names=("v*",))) == [1, 3]
    assert kept(named, RetentionPolicy(names=("*",))) == [1, 2, 3]


def test_a_diverged_snapshot_is_exempt_and_not_the_head() -> None:
    decisions = apply_policy(series(3, timedelta(days=1)), RetentionPolicy(), NOW, exempt=(str(SnapshotNumber(1, 3)),))
    assert [one.kept_by for one in decisions] == [(), ("newest",), ("diverged",)]


def test_combined_rules_on_more_than_a_year_of_snapshots() -> None:
    policy = RetentionPolicy(within_s=3600, hourly=24, daily=31, monthly=12)
    every_five_minutes = series(400 * 24 * 12, timedelta(minutes=5))
    left = kept(every_five_minutes, policy)
    assert len(left) == 13 + 22 + 29 + 10  # the newest of an hour is that of a day, too, and so on
    assert left[-13:] == list(range(len(every_five_minutes) - 12, len(every_five_minutes) + 1))


def test_a_volume_without_a_policy_has_the_default() -> None:
    assert current_policy(Shelf(MemoryStore())) == DEFAULT_POLICY


@pytest.mark.parametrize("conditional_writes", [True, False])
def test_the_latest_policy_is_in_force_and_older_ones_stay(conditional_writes: bool) -> None:
    store = MemoryStore()
    for last in range(1, 12):
        set_policy(Shelf(store), RetentionPolicy(last=last, names=("a*",)), conditional_writes=conditional_writes)
    assert current_policy(Shelf(store)) == RetentionPolicy(last=11, names=("a*",))
    assert len(list(store.list("policies/"))) == 11


def test_one_of_two_concurrent_policies_is_refused() -> None:
    class Racing(MemoryStore):
        """The listing is that of before, so that both choose the same number."""

        def list(self, prefix: str = "", start_after: str = "") -> object:  # type: ignore[override]
            return iter(())

    store = Racing()
    set_policy(Shelf(store), RetentionPolicy(last=1), conditional_writes=True)
    with pytest.raises(ObjectExists, match="set yours again"):
        set_policy(Shelf(store), RetentionPolicy(last=2), conditional_writes=True)
