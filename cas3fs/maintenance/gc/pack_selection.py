# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packs are rewritten: a pure decision; nothing is read or changed.

Rewriting copies the used part of a pack, and frees the pack when the last snapshot that needs it is deleted; until then
the store holds both. So it pays where keeping the copy, for as long as those snapshots are retained, costs less than
the freed space saves in the half year after that. A pack that is needed by a snapshot which is kept for good is never
rewritten, as that would never free anything.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from cas3fs.index import PackUse, ordinal_of
from cas3fs.maintenance.pack_usage import live_share
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import SnapshotNumber

SAVING_S: Final = 183 * 86400.0
"""Freed space counts as saved for so long."""
MAX_PACKS: Final = 20_000
"""The most packs that one gc rewrites, and so holds in memory."""
NEEDED_FOR_LONG: Final = "needed by a snapshot that is kept for long"
OVER_LIMIT: Final = "over the limit of bytes to copy"


@attrs.frozen
class SkippedPacks:
    """Sparsely used packs that are not rewritten. The attributes are the keys of ``--json``.

    Attributes:
        why: the reason, for people.
        bytes: what is not used of them.
        snapshot: of the snapshots that need some of them, the one that is kept for the longest time.
    """

    why: str
    packs: int
    bytes: int
    snapshot: str | None = None


@attrs.frozen
class PackSelection:
    """The packs to be rewritten, the emptiest first, and the sparsely used ones that are not."""

    packs: Sequence[PackUse] = ()
    skipped: tuple[SkippedPacks, ...] = ()

    @property
    def live_bytes(self) -> int:
        """The number of bytes to be copied."""
        return sum(use.live_bytes for use in self.packs)


class RetentionTimes:
    """For how long packs are needed by the snapshots of now.

    Args:
        snapshots: ascending.
        remaining_s: for how many seconds more each snapshot is retained, by id; one without an entry is kept for good.
        kept_for_good: the numbers of other snapshots that are kept for good, such as quarantined ones.
    """

    def __init__(
        self,
        snapshots: Sequence[SnapshotInfo],
        remaining_s: Mapping[str, float],
        kept_for_good: Sequence[SnapshotNumber] = (),
    ) -> None:
        ends = [(ordinal_of(one.number), remaining_s.get(one.id, math.inf), one.id) for one in snapshots]
        ends += [(ordinal_of(number), math.inf, str(number)) for number in kept_for_good]
        self._ordinals = sorted(end[0] for end in ends)
        self._longest: list[tuple[float, str]] = []
        longest = (0.0, "")
        for _, seconds, snapshot in sorted(ends, reverse=True):
            longest = max(longest, (seconds, snapshot), key=lambda one: one[0])
            self._longest.append(longest)
        self._longest.reverse()

    def of_pack(self, born: int) -> tuple[float, str]:
        """For how many seconds the snapshots of now need a used pack that was born with the snapshot of that ordinal,
        and which of them needs it for the longest time; 0 seconds if none needs it."""
        first = bisect_left(self._ordinals, born)
        return self._longest[first] if first < len(self._longest) else (0.0, "")


class PackSelector:
    """Takes all packs one by one, and selects those to be rewritten.

    Args:
        min_live: packs of which less is used are rewritten; 0 for none.
        max_bytes: the most bytes that may be copied; None for no limit.
        next_ordinal: packs that are born with that snapshot or later are left alone.
        is_outdated: whether the pack with that name is rewritten in any case.
    """

    def __init__(
        self,
        min_live: float,
        max_bytes: int | None,
        retention_times: RetentionTimes,
        next_ordinal: int,
        *,
        is_outdated: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self._min_live = min_live
        self._max_bytes = max_bytes
        self._retention_times = retention_times
        self._next_ordinal = next_ordinal
        self._is_outdated = is_outdated
        self._sparse: list[PackUse] = []
        self._needed = SkippedPacks(NEEDED_FOR_LONG, 0, 0)
        self._needed_longest_s = 0.0
        self._over_packs = self._over_bytes = 0

    def add(self, use: PackUse) -> None:
        """Takes one of all packs."""
        if use.born >= self._next_ordinal or not use.live_blocks or use.died is not None:
            return
        is_outdated = self._is_outdated(use.name)
        if live_share(use) >= self._min_live and not is_outdated:
            return
        needed_s, snapshot = self._retention_times.of_pack(use.born)
        if is_outdated or use.live_bytes * needed_s <= (use.size - use.live_bytes) * SAVING_S:
            self._sparse.append(use)
            if len(self._sparse) >= 2 * MAX_PACKS:
                self._drop_fullest()
            return
        longest = snapshot if needed_s > self._needed_longest_s else self._needed.snapshot
        self._needed_longest_s = max(needed_s, self._needed_longest_s)
        unused_bytes = self._needed.bytes + use.size - use.live_bytes
        self._needed = SkippedPacks(NEEDED_FOR_LONG, self._needed.packs + 1, unused_bytes, longest)

    def _drop_fullest(self) -> None:
        """Sorts the emptiest packs to the front, and leaves those beyond `MAX_PACKS` to a later gc."""
        self._sparse.sort(key=lambda use: (live_share(use), use.id))
        for use in self._sparse[MAX_PACKS:]:
            self._over_packs += 1
            self._over_bytes += use.size - use.live_bytes
        del self._sparse[MAX_PACKS:]

    def selection(self) -> PackSelection:
        """The selected packs, the emptiest first, as far as the limit of bytes allows."""
        self._drop_fullest()
        selected, copied_bytes = 0, 0
        for use in self._sparse:
            copied_bytes += use.live_bytes
            if self._max_bytes is not None and copied_bytes > self._max_bytes:
                break
            selected += 1
        over = self._sparse[selected:]
        unused_bytes = self._over_bytes + sum(use.size - use.live_bytes for use in over)
        over_limit = SkippedPacks(OVER_LIMIT, self._over_packs + len(over), unused_bytes)
        return PackSelection(self._sparse[:selected], tuple(one for one in (self._needed, over_limit) if one.packs))
