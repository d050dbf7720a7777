# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packs are rewritten. Pure; nothing is read or changed.

Rewriting copies what is used of a pack, and frees the pack when the last snapshot that needs it has gone: until then
both are in the store. So it pays only where the copy costs less, for as long as those snapshots stay, than what comes
free saves afterwards, in half a year. A pack that a snapshot needs which stays for good is never rewritten: nothing
would ever come free.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from cas3fs.index import PackUse, ordinal_of
from cas3fs.maintenance.pack_usage import live_share
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import SnapshotNumber

SAVING_S: Final = 183 * 86400.0
"""What comes free is taken to save room for so long."""
MAX_PACKS: Final = 20_000
"""That one gc rewrites: as many are held in memory."""
KEPT: Final = "a snapshot that stays for long needs them"
LIMITED: Final = "more than is to be copied"


@attrs.frozen
class SkippedPacks:
    """Packs of which little is used, and that stay as they are."""

    why: str
    packs: int
    bytes: int
    """Of them, what is not used."""
    snapshot: str | None = None
    """One that needs some of them, and stays for the longest."""


@attrs.frozen
class PackSelection:
    """The packs to be rewritten, the emptiest first, and those that are not, though little of them is used."""

    packs: Sequence[PackUse] = ()
    left: tuple[SkippedPacks, ...] = ()

    @property
    def live_bytes(self) -> int:
        """What is to be copied."""
        return sum(use.live_bytes for use in self.packs)


class RetentionTimes:
    """For how long packs are needed by snapshots that are retained now."""

    def __init__(
        self, snapshots: Sequence[SnapshotInfo], stays_s: Mapping[str, float], aside: Sequence[SnapshotNumber] = ()
    ) -> None:
        """`stays_s` tells for how many seconds each of the snapshots, which are ascending, stays; those put aside,
        `aside`, do for good."""
        ends = [(ordinal_of(one.number), stays_s.get(one.id, math.inf), one.id) for one in snapshots]
        ends += [(ordinal_of(number), math.inf, str(number)) for number in aside]
        self._ordinals = sorted(end[0] for end in ends)
        self._longest: list[tuple[float, str]] = []
        longest = (0.0, "")
        for _, stay_s, snapshot in sorted(ends, reverse=True):
            longest = max(longest, (stay_s, snapshot), key=lambda one: one[0])
            self._longest.append(longest)
        self._longest.reverse()

    def of(self, born: int) -> tuple[float, str]:
        """For how many seconds a pack that is in use, and was born with that snapshot, is needed by snapshots of now,
        and by which for the longest; 0 where none needs it."""
        place = bisect_left(self._ordinals, born)
        return self._longest[place] if place < len(self._longest) else (0.0, "")


class PackSelector:
    """Takes the packs one by one, and chooses.

    Args:
        min_live: packs of which less is used are rewritten; 0 for none.
        max_bytes: no more than that is copied; None for no limit.
        young: packs that are born with that snapshot or later are left alone.
    """

    def __init__(self, min_live: float, max_bytes: int | None, retention_times: RetentionTimes, young: int) -> None:
        self._min_live = min_live
        self._max_bytes = max_bytes
        self._retention_times = retention_times
        self._young = young
        self._sparse: list[PackUse] = []
        self._kept = SkippedPacks(KEPT, 0, 0)
        self._kept_longest_s = 0.0
        self._over_packs = self._over_bytes = 0

    def see(self, use: PackUse) -> None:
        """One of all packs."""
        if use.born >= self._young or not use.live_blocks or use.died is not None:
            return
        if live_share(use) >= self._min_live:
            return
        stay_s, snapshot = self._retention_times.of(use.born)
        if use.live_bytes * stay_s <= (use.size - use.live_bytes) * SAVING_S:
            self._sparse.append(use)
            if len(self._sparse) >= 2 * MAX_PACKS:
                self._leave_fullest()
            return
        told = snapshot if stay_s > self._kept_longest_s else self._kept.snapshot
        self._kept_longest_s = max(stay_s, self._kept_longest_s)
        self._kept = SkippedPacks(KEPT, self._kept.packs + 1, self._kept.bytes + use.size - use.live_bytes, told)

    def _leave_fullest(self) -> None:
        """Brings the emptiest to the front, and leaves to a later gc what would be too many."""
        self._sparse.sort(key=lambda use: (live_share(use), use.id))
        for use in self._sparse[MAX_PACKS:]:
            self._over_packs += 1
            self._over_bytes += use.size - use.live_bytes
        del self._sparse[MAX_PACKS:]

    def choice(self) -> PackSelection:
        """What was chosen of those seen, the emptiest first, while the bytes to be copied are within the limit."""
        self._leave_fullest()
        chosen, size_bytes = 0, 0
        for use in self._sparse:
            size_bytes += use.live_bytes
            if self._max_bytes is not None and size_bytes > self._max_bytes:
                break
            chosen += 1
        over = self._sparse[chosen:]
        unused_bytes = self._over_bytes + sum(use.size - use.live_bytes for use in over)
        limited = SkippedPacks(LIMITED, self._over_packs + len(over), unused_bytes)
        return PackSelection(self._sparse[:chosen], tuple(one for one in (self._kept, limited) if one.packs))
