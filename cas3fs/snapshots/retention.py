# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: which snapshots are kept, as rules, and the policies of a volume.

A *rule* keeps snapshots: all that are young enough, the last few, one of each of the last hours, days, weeks or months
in which there were any (the newest of each, by UTC), or those whose names match a pattern. What no rule keeps may go.
A *policy* is a set of rules. The one of a volume lies with it, as an entry that is never changed: a new policy has the
next number, and the greatest is in force. A volume without any has `DEFAULT_POLICY`.

A snapshot bears the time of the machine that made it, and its manifest that of the store. Where they differ by more
than `CLOCK_TOLERANCE`, one clock was wrong, or the manifest took long, or was copied. One that claims to be younger
than its manifest is as old as that. One that claims to be older is kept if a rule keeps it by either time.

Nothing here deletes.

Lifetimes: for how long snapshots will stay, by the policy, if snapshots are published from now on as they were.

Nobody knows what will be published. So it is played: snapshots are added at the distance in time that the last ones
had, and the policy judges all of them at some moments to come.
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
"""By how much clocks may differ: as much as S3 takes in a request's signature."""

_HOUR_S: Final = 3600
_NUMBER_DIGITS: Final = 8


@attrs.frozen
class RetentionDecision:
    """What a policy says of a snapshot: the rules that keep it; without any it may go."""

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
    """What `policy` says of each of the snapshots, which are ascending. The head, which is the last of those not
    exempt, is always kept.

    Args:
        exempt: ids of snapshots that no rule may touch: those off the line.
        in_use: ids of snapshots that are being read, which stay as long as they are.
    """
    judged = [one for one in snapshots if one.id not in exempt]
    reasons: dict[str, list[str]] = {one.id: [] for one in judged}
    if judged:
        reasons[judged[-1].id].append("newest")
    for one in judged:
        if one.id in in_use:
            reasons[one.id].append("in use")
    for rule, kept in _rules(judged, policy, now, _made):
        for one in kept:
            reasons[one.id].append(rule)
    if doubtful := {one.id for one in judged if _differ(_made(one), _stored(one))}:
        for rule, kept in _rules(judged, policy, now, _stored):
            for one in kept:
                if one.id in doubtful and rule not in reasons[one.id]:
                    reasons[one.id].append(rule)
    return tuple(RetentionDecision(one, tuple(reasons.get(one.id, ["off the line"]))) for one in snapshots)


def current_policy(shelf: Shelf) -> RetentionPolicy:
    """The policy of the volume.

    Raises:
        EntryError: it is damaged, or of a newer cas3fs.
        StoreError: the store failed.
    """
    newest = _newest_id(shelf)
    if newest is None:
        return DEFAULT_POLICY
    entry = shelf.load(PolicyEntry, newest)
    known = {field.name for field in attrs.fields(RetentionPolicy)} - {"names"}
    return RetentionPolicy(
        **{rule: count for rule, count in entry.keep.items() if rule in known}, names=entry.keep_names
    )


def set_policy(shelf: Shelf, policy: RetentionPolicy, *, fenced: bool) -> None:
    """Make `policy` that of the volume, as of the next snapshot.

    Args:
        fenced: the store honours create-if-absent.

    Raises:
        ObjectExists: somebody else did so at the same time.
        StoreError: the store failed.
    """
    newest = _newest_id(shelf)
    number = 1 if newest is None else int(newest[:_NUMBER_DIGITS]) + 1
    rules = {name: value for name, value in attrs.asdict(policy).items() if name != "names"}
    entry = PolicyEntry(
        id=f"{number:0{_NUMBER_DIGITS}d}" + ("" if fenced else f"-{uuid.uuid4().hex}"),
        time=datetime.now(UTC),
        keep=rules,
        keep_names=policy.names,
    )
    try:
        shelf.save(entry)
    except ObjectExists as error:
        raise ObjectExists("another policy was set at this moment; look at it, and set yours again") from error


def _newest_id(shelf: Shelf) -> str | None:
    return max((one.id for one in shelf.listed(PolicyEntry)), default=None)


def check_clocks(policy: RetentionPolicy, here: datetime, store: datetime) -> None:
    """What rules about ages delete is decided while this machine and the store agree on the time.

    Raises:
        SnapshotError: they do not.
    """
    if policy.has_ages and _differ(here, store):
        raise SnapshotError(
            f"no snapshot is deleted by its age, as it is {here:%Y-%m-%d %H:%M:%S} by the clock of this machine and "
            f"{store:%Y-%m-%d %H:%M:%S} by that of the store (UTC): set right the one that is wrong"
        )


def _differ(one: datetime, other: datetime) -> bool:
    return abs(one - other) > CLOCK_TOLERANCE


def _made(one: SnapshotInfo) -> datetime:
    """When a snapshot was made; by the store's clock where it claims to be younger than its manifest."""
    stored = _stored(one)
    return stored if one.time > stored + CLOCK_TOLERANCE else one.time


def _stored(one: SnapshotInfo) -> datetime:
    """When its manifest was stored, where that was told."""
    return one.time if one.stored_at is None else one.stored_at


def _rules(
    snapshots: Sequence[SnapshotInfo],
    policy: RetentionPolicy,
    now: datetime,
    moment: Callable[[SnapshotInfo], datetime],
) -> Iterable[tuple[str, Iterable[SnapshotInfo]]]:
    """Each rule's name and what it keeps; `moment` is when a snapshot was made."""
    youngest = now - timedelta(seconds=policy.within_s)
    if policy.within_s:
        yield "recent", [one for one in snapshots if moment(one) >= youngest]
    yield "last", snapshots[-policy.last :] if policy.last else ()
    yield "hourly", _newest_of_each(snapshots, policy.hourly, moment, lambda time: (time.date(), time.hour))
    yield "daily", _newest_of_each(snapshots, policy.daily, moment, lambda time: time.date())
    yield "weekly", _newest_of_each(snapshots, policy.weekly, moment, lambda time: time.isocalendar()[:2])
    yield "monthly", _newest_of_each(snapshots, policy.monthly, moment, lambda time: (time.year, time.month))
    named = [one for one in snapshots if one.name is not None]
    yield (
        "name",
        [one for one in named if any(fnmatch.fnmatchcase(one.name or "", pattern) for pattern in policy.names)],
    )


def _newest_of_each(
    snapshots: Sequence[SnapshotInfo],
    count: int,
    moment: Callable[[SnapshotInfo], datetime],
    period: Callable[[datetime], object],
) -> list[SnapshotInfo]:
    """The newest snapshot of each of the last `count` periods that have any."""
    newest: dict[object, SnapshotInfo] = {}
    for one in reversed(snapshots):
        when = period(moment(one).astimezone(UTC))
        if len(newest) == count and when not in newest:
            break
        if count:
            newest.setdefault(when, one)
    return list(newest.values())


_DAY_S: Final = 24.0 * _HOUR_S
MOMENTS_S: Final = (_HOUR_S, _DAY_S, 7 * _DAY_S, 32 * _DAY_S, 92 * _DAY_S, 183 * _DAY_S, 367 * _DAY_S)
"""When the policy is asked again; a snapshot that it keeps at the last of these is taken to stay for ever."""
_MOST_ADDED: Final = 400
_LOOKED_BACK: Final = 30


def remaining_lifetimes(
    snapshots: Sequence[SnapshotInfo], policy: RetentionPolicy, now: datetime, *, exempt: Collection[str] = ()
) -> dict[str, float]:
    """For how many seconds more each of the snapshots, which are ascending, stays at most; by id, infinite for those
    that stay for good: those with a name that the policy keeps, and those `exempt`, which no policy touches.
    """
    stays = dict.fromkeys((one.id for one in snapshots), math.inf)
    if not snapshots:
        return stays
    distance_s = _distance_s(snapshots)
    for after_s in MOMENTS_S:
        at = now + timedelta(seconds=after_s)
        added = list(_added(snapshots[-1], distance_s, now, after_s))
        for verdict in apply_policy([*snapshots, *added], policy, at, exempt=exempt):
            if not verdict.kept_by and stays.get(verdict.snapshot.id) == math.inf:
                stays[verdict.snapshot.id] = after_s
    return stays


def _distance_s(snapshots: Sequence[SnapshotInfo]) -> float:
    """The usual time between two snapshots."""
    last = snapshots[-_LOOKED_BACK:]
    distances = [abs((later.time - earlier.time).total_seconds()) for earlier, later in pairwise(last)]
    return max(1.0, sum(distances) / len(distances)) if distances else 1.0


def _added(newest: SnapshotInfo, distance_s: float, now: datetime, within_s: float) -> Iterator[SnapshotInfo]:
    """Snapshots that will have come in that time: the next one, and then about as many as are needed to play it."""
    time = max(now, newest.time + timedelta(seconds=distance_s))
    step = timedelta(seconds=max(distance_s, within_s / _MOST_ADDED))
    number = 0
    while time <= now + timedelta(seconds=within_s):
        number += 1
        yield attrs.evolve(newest, id=f"to come {number}", name=None, time=time)
        time += step
