# SPDX-License-Identifier: GPL-3.0-or-later
"""What each snapshot has added to the store, and what deleting it would free.

A retained snapshot S needs a pack if ``born <= S < died``; the newest index knows both numbers of every pack. So one
query over its packs answers for all snapshots, and none of them is restored. Of pages entries the manifests say which
snapshots need them.

What deleting a snapshot frees is a lower bound: a pack dies with the first gc that finds it without live blocks, so
what was deleted since the last gc still counts as needed by the newest snapshot.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cas3fs.index import ordinal_of
from cas3fs.index.reader import PackLifetime
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import SnapshotNumber


class SnapshotSizes(NamedTuple):
    """Of one snapshot; packs and pages entries, in bytes."""

    added_bytes: int
    """What it needs and no retained snapshot before it does."""
    frees_bytes: int
    """What it needs and no other retained snapshot, nor the volume: the next gc frees it once the snapshot is gone."""


def snapshot_sizes(
    snapshots: Sequence[SnapshotInfo], unreadable: Iterable[str], lifetimes: Iterable[PackLifetime]
) -> Mapping[str, SnapshotSizes]:
    """The sizes of all snapshots that can be read, by id.

    Args:
        snapshots: those whose manifests can be read, ascending.
        unreadable: the ids of the others, which need packs too.
        lifetimes: of all packs, as the index of the newest snapshot has them.
    """
    numbers = sorted([*(one.number for one in snapshots), *map(SnapshotNumber.parse, unreadable)])
    added, only = dict.fromkeys(numbers, 0), dict.fromkeys(numbers, 0)
    ordinals = [ordinal_of(one) for one in numbers]
    for born, died, size_bytes in lifetimes:
        first = bisect_left(ordinals, born)
        end = len(ordinals) if died is None else bisect_left(ordinals, died)
        if first < end:
            added[numbers[first]] += size_bytes
        if first + 1 == end and died is not None:
            only[numbers[first]] += size_bytes
    for users, size_bytes in _uses_of_pages(snapshots):
        added[users[0]] += size_bytes
        if len(users) == 1:
            only[users[0]] += size_bytes
    return {one.id: SnapshotSizes(added[one.number], only[one.number]) for one in snapshots}


def _uses_of_pages(snapshots: Sequence[SnapshotInfo]) -> Iterable[tuple[list[SnapshotNumber], int]]:
    """For each pages entry the snapshots that need it, ascending, and its size."""
    users: dict[str, list[SnapshotNumber]] = {}
    sizes: dict[str, int] = {}
    for one in snapshots:
        for use in one.pages:
            users.setdefault(use.id, []).append(one.number)
            sizes[use.id] = use.total_size
    return [(found, sizes[pages]) for pages, found in users.items()]
