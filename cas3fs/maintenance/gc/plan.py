# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a gc: what would be done, what it would free and what it would cost. Pure; nothing is read or changed.

A pack is *used* while a chunk names one of its blocks. Which snapshots need a pack that is not used any more follows
from two numbers: the snapshot it was born with, and the one it has died before. Of the newest snapshot more may be
known (`looked`): which packs its chunks really need.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import attrs

from cas3fs.index import DeadPack, PackUse, ordinal_of
from cas3fs.maintenance.gc.base import GcSettings
from cas3fs.maintenance.gc.orphans import DELETABLE, Orphan
from cas3fs.maintenance.gc.pack_selection import PackSelection, PackSelector, RetentionTimes, SkippedPacks
from cas3fs.prices import PriceTable
from cas3fs.snapshots.manifests import SnapshotInfo

DELETE_BATCH: Final = 1000
RUN_BYTES: Final = 4 << 20


@attrs.frozen
class HeldBySnapshot:
    """What a retained snapshot keeps from being freed."""

    snapshot: str
    bytes: int
    """Of dead packs that it may need."""
    bytes_alone: int
    """Of those that no other snapshot may need: freed when this one goes."""
    bytes_with_older: int
    """Of those that no newer snapshot may need: freed when this one and all older ones go."""


@attrs.frozen
class RequestEstimate:
    """How many requests the execution takes, about."""

    lists: int
    gets: int
    puts: int
    deletes: int

    @property
    def price_usd(self) -> float:
        """What they cost by the default prices; a DELETE-MANY is one request."""
        return PriceTable().of_requests(
            {"list": self.lists, "get": self.gets, "put": self.puts, "delete": self.deletes}
        )


@attrs.frozen
class GcPlan:
    """What a gc would do now; sizes are in bytes of the store."""

    dead_blocks: int
    dead_block_bytes: int
    dead_packs: int
    dead_pack_bytes: int
    free_packs: int
    """Dead packs that no retained snapshot needs."""
    free_bytes: int
    held: tuple[HeldBySnapshot, ...]
    rewrites: tuple[str, ...]
    rewrite_bytes: int
    """To be copied."""
    rewrite_frees_bytes: int
    """Freed by it, when no snapshot needs the old packs any more."""
    left: tuple[SkippedPacks, ...]
    """What is not rewritten, though little of it is used."""
    orphans: tuple[Orphan, ...]
    requests: RequestEstimate

    @property
    def stray_bytes(self) -> int:
        """Of strays that may go."""
        return sum(one.size for one in self.orphans if one.verdict == DELETABLE)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints; packs are counted, not named."""
        return {
            "dead_blocks": self.dead_blocks,
            "dead_block_bytes": self.dead_block_bytes,
            "dead_packs": self.dead_packs,
            "dead_pack_bytes": self.dead_pack_bytes,
            "free_packs": self.free_packs,
            "free_bytes": self.free_bytes,
            "held": [attrs.asdict(one) for one in self.held],
            "rewrite_packs": len(self.rewrites),
            "rewrite_bytes": self.rewrite_bytes,
            "rewrite_frees_bytes": self.rewrite_frees_bytes,
            "left": [attrs.asdict(one) for one in self.left],
            "stray_bytes": self.stray_bytes,
            "strays": count_by_status(self.orphans),
            "requests": attrs.asdict(self.requests) | {"price_usd": round(self.requests.price_usd, 6)},
        }


class PackDeaths:
    """When packs that no file uses any more have died.

    Args:
        young: ordinal of the next snapshot.
        numbers: ordinals of the retained snapshots, ascending.
        looked: ordinal of the newest snapshot and the packs that it needs, if it was looked into.
    """

    def __init__(self, young: int, numbers: Sequence[int], referenced: tuple[int, Container[str]] | None) -> None:
        self._young = young
        self._newest_references = referenced
        newer = numbers[bisect_right(numbers, referenced[0]) :] if referenced is not None else ()
        self._next_newer = newer[0] if newer else None

    def of(self, use: PackUse | DeadPack) -> int:
        """The ordinal of the first snapshot that does not need an unused pack."""
        death = self._young if use.died is None else use.died
        if (
            self._newest_references is None
            or self._newest_references[0] >= death
            or use.name in self._newest_references[1]
        ):
            return death
        return self._newest_references[0] if self._next_newer is None or self._next_newer >= death else death


@attrs.frozen
class PlanInputs:
    """What a plan is made from."""

    uses: Iterable[PackUse]
    """Of all packs; gone through once."""
    young: int
    """Ordinal of the next snapshot: packs born with it are left alone."""
    snapshots: Sequence[SnapshotInfo]
    """Ascending."""
    referenced: tuple[int, Container[str]] | None
    """Ordinal of the newest snapshot and the packs that it needs, if it was looked into."""
    orphans: tuple[Orphan, ...]
    list_requests: int
    retention_times: RetentionTimes = attrs.field(factory=lambda: RetentionTimes((), {}))
    """For how long snapshots need what is in use."""

    @property
    def numbers(self) -> list[int]:
        """The ordinals of the snapshots."""
        return [ordinal_of(one.number) for one in self.snapshots]


def make_plan(inputs: PlanInputs, settings: GcSettings) -> GcPlan:
    """The plan."""
    numbers = inputs.numbers
    deaths = PackDeaths(inputs.young, numbers, inputs.referenced)
    selector = PackSelector(settings.min_live, settings.max_rewrite_bytes, inputs.retention_times, inputs.young)
    blocks, block_bytes, dead, free = 0, 0, Sum(), Sum()
    holding = _HeldBytes(numbers)
    for use in inputs.uses:
        if use.born >= inputs.young:
            continue
        blocks += use.blocks - use.live_blocks
        block_bytes += use.block_bytes - use.live_bytes
        if use.live_blocks:
            selector.see(use)
            continue
        dead.add(use.size)
        if not holding.see(use.born, deaths.of(use), use.size):
            free.add(use.size)
    choice = selector.choice()
    orphans = [one for one in inputs.orphans if one.verdict == DELETABLE]
    return GcPlan(
        dead_blocks=blocks,
        dead_block_bytes=block_bytes,
        dead_packs=dead.count,
        dead_pack_bytes=dead.bytes,
        free_packs=free.count,
        free_bytes=free.bytes,
        held=holding.held({ordinal_of(one.number): one.id for one in inputs.snapshots}),
        rewrites=tuple(use.name for use in choice.packs),
        rewrite_bytes=choice.live_bytes,
        rewrite_frees_bytes=sum(use.size for use in choice.packs) - choice.live_bytes,
        left=choice.left,
        orphans=inputs.orphans,
        requests=_requests(inputs, choice.packs, free.count + len(orphans)),
    )


def select_packs_to_rewrite(
    uses: Iterable[PackUse], settings: GcSettings, retention_times: RetentionTimes, young: int
) -> PackSelection:
    """Which of these packs are to be rewritten."""
    selector = PackSelector(settings.min_live, settings.max_rewrite_bytes, retention_times, young)
    for use in uses:
        selector.see(use)
    return selector.choice()


def count_by_status(orphans: Sequence[Orphan]) -> dict[str, int]:
    """How many strays there are of each verdict."""
    return dict(Counter(one.verdict for one in orphans))


@attrs.define
class Sum:
    """How many there are, and how many bytes they have."""

    count: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """One more."""
        self.count += 1
        self.bytes += size


class _HeldBytes:
    """Adds up what each retained snapshot keeps from being freed.

    A pack is needed by the snapshots of a range of numbers, so its size is noted where the range begins and ends.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._steps = [0] * (len(numbers) + 1)
        self._alone = [0] * len(numbers)
        self._last = [0] * len(numbers)

    def see(self, born: int, death: int, size: int) -> bool:
        """A dead pack; whether any snapshot needs it."""
        first, end = bisect_left(self._numbers, born), bisect_left(self._numbers, death)
        if first >= end:
            return False
        self._steps[first] += size
        self._steps[end] -= size
        self._last[end - 1] += size
        if end - first == 1:
            self._alone[first] += size
        return True

    def held(self, ids: Mapping[int, str]) -> tuple[HeldBySnapshot, ...]:
        """What those that hold anything hold, ascending."""
        every, older = accumulate(self._steps), accumulate(self._last)
        rows = zip(self._numbers, every, self._alone, older, strict=False)
        return tuple(
            HeldBySnapshot(ids[number], held, alone, with_older) for number, held, alone, with_older in rows if held
        )


def _requests(inputs: PlanInputs, rewrites: Sequence[PackUse], deletions: int) -> RequestEstimate:
    copied = sum(use.live_bytes for use in rewrites)
    return RequestEstimate(
        lists=inputs.list_requests + 6 + deletions // DELETE_BATCH,
        gets=sum(1 + use.size // RUN_BYTES for use in rewrites) + len(inputs.snapshots),
        puts=4 + (copied // (16 << 20) + 1 if rewrites else 0),
        deletes=-(-deletions // DELETE_BATCH),
    )
