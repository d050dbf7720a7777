# SPDX-License-Identifier: GPL-3.0-or-later
"""The forecast of how long snapshots stay."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import remaining_lifetimes
from cas3fs.values import SnapshotNumber

NOW = datetime(2026, 6, 15, 12, 30, tzinfo=UTC)
HOUR, DAY = 3600.0, 86400.0
POLICY = RetentionPolicy(within_s=3600, hourly=24, daily=31, monthly=12, names=("*",))


def snapshot(number: int, age_s: float, name: str | None = None) -> SnapshotInfo:
    time = NOW - timedelta(seconds=age_s)
    of = SnapshotNumber(1, number)
    return SnapshotInfo(
        id=str(of), number=of, parent=None, name=name, time=time, index_size=1, new_size=1, facts={}, pages=()
    )


def stays(snapshots: list[SnapshotInfo], policy: RetentionPolicy = POLICY) -> list[float]:
    return list(remaining_lifetimes(snapshots, policy, NOW).values())


def test_one_of_many_in_an_hour_stays_at_most_a_day() -> None:
    many = [snapshot(number, (100 - number) * 60) for number in range(100)]
    assert max(stays(many)[-10:]) <= DAY
    assert stays(many)[-1] <= DAY  # the newest is so until another one comes


def test_one_that_a_monthly_rule_keeps_stays_at_most_about_a_year() -> None:
    monthly = [snapshot(number, (12 - number) * 30.5 * DAY) for number in range(12)]
    recent = [snapshot(20 + number, (20 - number) * HOUR) for number in range(20)]
    last_of_may = stays([*monthly, *recent])[11]
    assert 183 * DAY < last_of_may <= 367 * DAY
    assert max(stays([*monthly, *recent])) < math.inf


@pytest.mark.promise("packs-are-rewritten-where-it-pays")
def test_a_snapshot_that_is_kept_by_name_stays() -> None:
    assert stays([snapshot(1, DAY, "final"), snapshot(2, HOUR)])[0] == math.inf


def test_the_newest_of_rare_snapshots_stays() -> None:
    rare = [snapshot(number, (3 - number) * 400 * DAY + DAY) for number in range(1, 4)]
    assert stays(rare, RetentionPolicy(last=1))[-1] == math.inf


def test_an_exempt_snapshot_stays() -> None:
    lifetimes = remaining_lifetimes(
        [snapshot(1, DAY), snapshot(2, HOUR)], POLICY, NOW, exempt=[str(SnapshotNumber(1, 1))]
    )
    assert next(iter(lifetimes.values())) == math.inf


@pytest.mark.parametrize("policy", [POLICY, RetentionPolicy(last=3), RetentionPolicy(within_s=3600)])
def test_without_snapshots_the_forecast_is_empty(policy: RetentionPolicy) -> None:
    assert remaining_lifetimes([], policy, NOW) == {}
