# SPDX-License-Identifier: GPL-3.0-or-later
"""Lifetimes: for how long snapshots will stay, by the policy, if snapshots are published from now on as they were.

Nobody knows what will be published. So it is played: snapshots are added at the distance in time that the last ones
had, and the policy judges all of them at some moments to come.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

import attrs

from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.retention import Policy, judge

_HOUR_S: Final = 3600.0
_DAY_S: Final = 24 * _HOUR_S
MOMENTS_S: Final = (_HOUR_S, _DAY_S, 7 * _DAY_S, 32 * _DAY_S, 92 * _DAY_S, 183 * _DAY_S, 367 * _DAY_S)
"""When the policy is asked again; a snapshot that it keeps at the last of these is taken to stay for ever."""
_MOST_ADDED: Final = 400
_LOOKED_BACK: Final = 30


def lifetimes(
    snapshots: Sequence[SnapshotInfo], policy: Policy, now: datetime, *, spared: Collection[str] = ()
) -> dict[str, float]:
    """For how many seconds more each of the snapshots, which are ascending, stays at most; by id, infinite for those
    that stay for good: those with a name that the policy keeps, and those `spared`, which no policy touches.
    """
    stays = dict.fromkeys((one.id for one in snapshots), math.inf)
    if not snapshots:
        return stays
    distance_s = _distance_s(snapshots)
    for after_s in MOMENTS_S:
        at = now + timedelta(seconds=after_s)
        added = list(_added(snapshots[-1], distance_s, now, after_s))
        for verdict in judge([*snapshots, *added], policy, at, spared=spared):
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
