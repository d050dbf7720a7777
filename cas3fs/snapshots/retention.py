# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: applies a policy to snapshots, stores the policy of a volume, and forecasts how long snapshots stay.

A *rule* keeps snapshots: all up to a certain age, the last few, the newest of each of the last hours, days, weeks or
months that have any (by UTC), or those whose names match a pattern. A snapshot that no rule keeps may be deleted. A
*policy* is a set of rules. A volume's policy is stored as an entry that never changes: a new policy gets the next
number, and the greatest number is in force. A volume without one has `DEFAULT_POLICY`.

A snapshot has the time of the machine that made it, and its manifest has the store's. If they differ by more than
`CLOCK_TOLERANCE`, a clock was wrong, the upload took long, or the manifest was copied. A snapshot that claims to be
younger than its manifest gets the manifest's time. One that claims to be older is kept if a rule keeps it by either
time.

This module deletes nothing.
"""

import fnmatch
import math
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import attrs

from cas3fs.entries.kinds import PolicyEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import ObjectExists, SnapshotError
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.policy import DEFAULT_POLICY, RetentionPolicy

CLOCK_TOLERANCE: Final = timedelta(minutes=15)
"""How much clocks may differ: as much as S3 accepts in the signature of a request."""

_HOUR_S: Final = 3600.0
_DAY_S: Final = 24 * _HOUR_S
FORECAST_S: Final = (_HOUR_S, _DAY_S, 7 * _DAY_S, 32 * _DAY_S, 92 * _DAY_S, 183 * _DAY_S, 367 * _DAY_S)
"""Times from now for which the policy is applied; a snapshot that is kept at the last one is taken to stay for ever."""
_SIMULATION_LIMIT: Final = 400
_INTERVALS_AVERAGED: Final = 30
_NUMBER_DIGITS: Final = 8

_TimeOf = Callable[[SnapshotInfo], datetime]


@attrs.frozen
class RetentionDecision:
    """The rules of a policy that keep a snapshot; if there are none, it may be deleted."""

    snapshot: SnapshotInfo
    kept_by: tuple[str, ...]


def apply_policy(
    snapshots: Sequence[SnapshotInfo],
    policy: RetentionPolicy,
    now: datetime,
    *,
    exempt: Collection[str] = (),
    in_use: Collection[str] = (),
) -> tuple[RetentionDecision, ...]:
    """Apply a policy to snapshots. The head, the last that is not exempt, is always kept.

    Args:
        snapshots: all snapshots, ascending.
        policy: the rules.
        now: the present time.
        exempt: ids of snapshots that no rule applies to, because they have diverged; they are kept.
        in_use: ids of snapshots that are mounted; they are kept while they are.
    """
    subject = [one for one in snapshots if one.id not in exempt]
    reasons: dict[str, list[str]] = {one.id: [] for one in subject}
    if subject:
        reasons[subject[-1].id].append("newest")
    for one in subject:
        if one.id in in_use:
            reasons[one.id].append("in use")
    for rule, kept in _rules(subject, policy, now, _time_made):
        for one in kept:
            reasons[one.id].append(rule)
    if doubtful := {one.id for one in subject if _differ(_time_made(one), _time_stored(one))}:
        for rule, kept in _rules(subject, policy, now, _time_stored):
            for one in kept:
                if one.id in doubtful and rule not in reasons[one.id]:
                    reasons[one.id].append(rule)
    return tuple(RetentionDecision(one, tuple(reasons.get(one.id, ["diverged"]))) for one in snapshots)


def remaining_lifetimes(
    snapshots: Sequence[SnapshotInfo], policy: RetentionPolicy, now: datetime, *, exempt: Collection[str] = ()
) -> dict[str, float]:
    """Forecast for how many more seconds each snapshot stays at most.

    New snapshots are simulated at the interval of the last ones, and the policy is applied at some times to come.

    Args:
        snapshots: all snapshots, ascending.
        policy: the rules.
        now: the present time.
        exempt: ids of snapshots that no rule applies to.

    Returns:
        Seconds by id; infinite for snapshots that stay until a person deletes them: those that are exempt, and those
        that the policy keeps by name.
    """
    lifetimes = dict.fromkeys((one.id for one in snapshots), math.inf)
    if not snapshots:
        return lifetimes
    interval_s = _usual_interval_s(snapshots)
    for after_s in FORECAST_S:
        at = now + timedelta(seconds=after_s)
        simulated = list(_simulate(snapshots[-1], interval_s, now, after_s))
        for decision in apply_policy([*snapshots, *simulated], policy, at, exempt=exempt):
            if not decision.kept_by and lifetimes.get(decision.snapshot.id) == math.inf:
                lifetimes[decision.snapshot.id] = after_s
    return lifetimes


def current_policy(shelf: Shelf) -> RetentionPolicy:
    """Read the policy of the volume.

    Raises:
        EntryError: it is damaged, or was set by a newer version.
        StoreError: the store failed.
    """
    newest = newest_policy_id(shelf)
    if newest is None:
        return DEFAULT_POLICY
    entry = shelf.load(PolicyEntry, newest)
    known = {field.name for field in attrs.fields(RetentionPolicy)} - {"names"}
    return RetentionPolicy(
        **{rule: count for rule, count in entry.keep.items() if rule in known}, names=entry.keep_names
    )


def set_policy(shelf: Shelf, policy: RetentionPolicy, *, conditional_writes: bool) -> None:
    """Make `policy` that of the volume, from the next snapshot on.

    Args:
        shelf: the volume's entries.
        policy: the rules.
        conditional_writes: the store honours conditional writes.

    Raises:
        ObjectExists: another policy was set at the same time.
        StoreError: the store failed.
    """
    newest = newest_policy_id(shelf)
    number = 1 if newest is None else int(newest[:_NUMBER_DIGITS]) + 1
    rules = {name: value for name, value in attrs.asdict(policy).items() if name != "names"}
    entry = PolicyEntry(
        id=f"{number:0{_NUMBER_DIGITS}d}" + ("" if conditional_writes else f"-{uuid.uuid4().hex}"),
        time=datetime.now(UTC),
        keep=rules,
        keep_names=policy.names,
    )
    try:
        shelf.save(entry)
    except ObjectExists as error:
        raise ObjectExists("another policy was set at the same time; check it, and set yours again") from error


def check_clocks(policy: RetentionPolicy, here: datetime, store: datetime) -> None:
    """Check that this machine and the store agree on the time, if the policy depends on ages.

    Raises:
        SnapshotError: they do not.
    """
    if policy.has_ages and _differ(here, store):
        raise SnapshotError(
            f"no snapshot is deleted by age because the clocks differ: it is {here:%Y-%m-%d %H:%M:%S} on this machine "
            f"and {store:%Y-%m-%d %H:%M:%S} in the store (UTC); correct the one that is wrong"
        )


def newest_policy_id(shelf: Shelf) -> str | None:
    """Return the id of the entry of the policy that holds; None if none was set."""
    return max((one.id for one in shelf.list_entries(PolicyEntry)), default=None)


def _differ(one: datetime, other: datetime) -> bool:
    return abs(one - other) > CLOCK_TOLERANCE


def _time_made(one: SnapshotInfo) -> datetime:
    """Return when a snapshot was made; by the store's clock if it claims to be younger than its manifest."""
    stored = _time_stored(one)
    return stored if one.time > stored + CLOCK_TOLERANCE else one.time


def _time_stored(one: SnapshotInfo) -> datetime:
    """Return when the manifest was stored, if known."""
    return one.time if one.stored_at is None else one.stored_at


def _rules(
    snapshots: Sequence[SnapshotInfo], policy: RetentionPolicy, now: datetime, time_of: _TimeOf
) -> Iterable[tuple[str, Iterable[SnapshotInfo]]]:
    """Yield each rule's name and the snapshots that it keeps."""
    oldest = now - timedelta(seconds=policy.within_s)
    if policy.within_s:
        yield "recent", [one for one in snapshots if time_of(one) >= oldest]
    yield "last", snapshots[-policy.last :] if policy.last else ()
    yield "hourly", _newest_of_each(snapshots, policy.hourly, time_of, lambda time: (time.date(), time.hour))
    yield "daily", _newest_of_each(snapshots, policy.daily, time_of, lambda time: time.date())
    yield "weekly", _newest_of_each(snapshots, policy.weekly, time_of, lambda time: time.isocalendar()[:2])
    yield "monthly", _newest_of_each(snapshots, policy.monthly, time_of, lambda time: (time.year, time.month))
    named = [one for one in snapshots if one.name is not None]
    yield (
        "name",
        [one for one in named if any(fnmatch.fnmatchcase(one.name or "", pattern) for pattern in policy.names)],
    )


def _newest_of_each(
    snapshots: Sequence[SnapshotInfo], count: int, time_of: _TimeOf, period: Callable[[datetime], object]
) -> list[SnapshotInfo]:
    """Return the newest snapshot of each of the last `count` periods that have any."""
    newest: dict[object, SnapshotInfo] = {}
    for one in reversed(snapshots):
        when = period(time_of(one).astimezone(UTC))
        if len(newest) == count and when not in newest:
            break
        if count:
            newest.setdefault(when, one)
    return list(newest.values())


def _usual_interval_s(snapshots: Sequence[SnapshotInfo]) -> float:
    """Return the average time between the last snapshots."""
    last = snapshots[-_INTERVALS_AVERAGED:]
    intervals = [abs((later.time - earlier.time).total_seconds()) for earlier, later in pairwise(last)]
    return max(1.0, sum(intervals) / len(intervals)) if intervals else 1.0


def _simulate(newest: SnapshotInfo, interval_s: float, now: datetime, within_s: float) -> Iterator[SnapshotInfo]:
    """Yield snapshots to come in that time: the next one, and then at most about `_SIMULATION_LIMIT`."""
    time = max(now, newest.time + timedelta(seconds=interval_s))
    step = timedelta(seconds=max(interval_s, within_s / _SIMULATION_LIMIT))
    number = 0
    while time <= now + timedelta(seconds=within_s):
        number += 1
        yield attrs.evolve(newest, id=f"simulated {number}", name=None, time=time)
        time += step
