# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a gc: what it would do, what that would free, and what it would cost. Pure; nothing is read or changed.

A pack is *used* while a chunk references one of its blocks; otherwise it is *dead*. Two numbers say which snapshots
need a dead pack: the snapshot it was born with, and the first one that does not need it. Of the newest snapshot more
may be known: which packs its chunks really reference (`SnapshotReferences`).
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import attrs

from cas3fs.index import DeadPack, PackUse, ordinal_of
from cas3fs.maintenance.gc.orphans import DELETABLE, Orphan
from cas3fs.maintenance.gc.pack_selection import PackSelection, PackSelector, RetentionTimes, SkippedPacks
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.objectstores.base import DELETE_BATCH
from cas3fs.prices import PriceTable
from cas3fs.snapshots.manifests import SnapshotInfo

_READ_BYTES: Final = 4 << 20


@attrs.frozen
class HeldBySnapshot:
    """What a retained snapshot keeps from being freed. The attributes are the keys of ``--json``.

    Attributes:
        bytes: of dead packs that it may need.
        bytes_alone: of those that no other snapshot may need: freed when this one is deleted.
        bytes_with_older: of those that no newer snapshot may need: freed when this one and all older ones are deleted.
    """

    snapshot: str
    bytes: int
    bytes_alone: int
    bytes_with_older: int


@attrs.frozen
class RequestEstimate:
    """About how many requests the execution takes."""

    lists: int
    gets: int
    puts: int
    deletes: int

    @property
    def price_usd(self) -> float:
        """What they cost by the default prices; a request that deletes many objects is one."""
        return PriceTable().of_requests(
            {"list": self.lists, "get": self.gets, "put": self.puts, "delete": self.deletes}
        )


@attrs.frozen
class GcPlan:
    """What a gc would do now; sizes are in bytes in the store.

    Attributes:
        free_packs: the dead packs that no retained snapshot needs.
        rewrites: the names of the packs to be rewritten.
        rewrite_bytes: to be copied for that.
        rewrite_frees_bytes: freed by that, once no snapshot needs the old packs any more.
        skipped: sparsely used packs that are not rewritten.
    """

    dead_blocks: int
    dead_block_bytes: int
    dead_packs: int
    dead_pack_bytes: int
    free_packs: int
    free_bytes: int
    held: tuple[HeldBySnapshot, ...]
    rewrites: tuple[str, ...]
    rewrite_bytes: int
    rewrite_frees_bytes: int
    skipped: tuple[SkippedPacks, ...]
    orphans: tuple[Orphan, ...]
    requests: RequestEstimate

    @property
    def deletable_orphan_bytes(self) -> int:
        """The size of the orphans that may be deleted."""
        return sum(one.size for one in self.orphans if one.status == DELETABLE)

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints; packs are counted, not named."""
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
            "left": [attrs.asdict(one) for one in self.skipped],
            "stray_bytes": self.deletable_orphan_bytes,
            "strays": dict(Counter(one.status for one in self.orphans)),
            "requests": attrs.asdict(self.requests) | {"price_usd": round(self.requests.price_usd, 6)},
        }


@attrs.frozen
class SnapshotReferences:
    """The packs that the newest snapshot references, and its ordinal."""

    ordinal: int
    packs: Container[str]


class PackDeaths:
    """With which snapshot packs have died that no file uses any more.

    Args:
        next_ordinal: of the next snapshot.
        ordinals: of the retained snapshots, ascending.
        references: of the newest snapshot, if they are known.
    """

    def __init__(self, next_ordinal: int, ordinals: Sequence[int], references: SnapshotReferences | None) -> None:
        self._next_ordinal = next_ordinal
        self._references = references
        newer = ordinals[bisect_right(ordinals, references.ordinal) :] if references is not None else ()
        self._next_newer = newer[0] if newer else None

    def of_pack(self, pack: PackUse | DeadPack) -> int:
        """The ordinal of the first snapshot that does not need a dead pack."""
        death = self._next_ordinal if pack.died is None else pack.died
        references = self._references
        if references is None or references.ordinal >= death or pack.name in references.packs:
            return death
        return references.ordinal if self._next_newer is None or self._next_newer >= death else death


@attrs.frozen
class PlanInputs:
    """What a plan is made from.

    Attributes:
        uses: all packs; read once.
        next_ordinal: of the next snapshot: packs that are born with it are left alone.
        snapshots: ascending.
        references: of the newest snapshot, if they are known.
        list_requests: how many requests listing the store takes.
        retention_times: for how long snapshots need the packs that are in use.
        is_outdated: whether a pack, by its name, is rewritten in any case.
    """

    uses: Iterable[PackUse]
    next_ordinal: int
    snapshots: Sequence[SnapshotInfo]
    references: SnapshotReferences | None
    orphans: tuple[Orphan, ...]
    list_requests: int
    retention_times: RetentionTimes = attrs.field(factory=lambda: RetentionTimes((), {}))
    is_outdated: Callable[[str], bool] = lambda name: False

    @property
    def ordinals(self) -> list[int]:
        """The ordinals of the snapshots."""
        return [ordinal_of(one.number) for one in self.snapshots]


def make_plan(inputs: PlanInputs, settings: GcSettings) -> GcPlan:
    """Makes the plan from all that was read for it."""
    ordinals = inputs.ordinals
    deaths = PackDeaths(inputs.next_ordinal, ordinals, inputs.references)
    selector = PackSelector(
        settings.min_live,
        settings.max_rewrite_bytes,
        inputs.retention_times,
        inputs.next_ordinal,
        is_outdated=inputs.is_outdated,
    )
    blocks, block_bytes, dead, free = 0, 0, Tally(), Tally()
    held = _HeldBytes(ordinals)
    for use in inputs.uses:
        if use.born >= inputs.next_ordinal:
            continue
        blocks += use.blocks - use.live_blocks
        block_bytes += use.block_bytes - use.live_bytes
        if use.live_blocks:
            selector.add(use)
            continue
        dead.add(use.size)
        if not held.add(use.born, deaths.of_pack(use), use.size):
            free.add(use.size)
    selection = selector.selection()
    deletable = sum(1 for one in inputs.orphans if one.status == DELETABLE)
    return GcPlan(
        dead_blocks=blocks,
        dead_block_bytes=block_bytes,
        dead_packs=dead.count,
        dead_pack_bytes=dead.bytes,
        free_packs=free.count,
        free_bytes=free.bytes,
        held=held.by_snapshot({ordinal_of(one.number): one.id for one in inputs.snapshots}),
        rewrites=tuple(use.name for use in selection.packs),
        rewrite_bytes=selection.live_bytes,
        rewrite_frees_bytes=sum(use.size for use in selection.packs) - selection.live_bytes,
        skipped=selection.skipped,
        orphans=inputs.orphans,
        requests=_estimate_requests(inputs, selection.packs, free.count + deletable),
    )


def select_packs(
    uses: Iterable[PackUse],
    settings: GcSettings,
    retention_times: RetentionTimes,
    next_ordinal: int,
    is_outdated: Callable[[str], bool] = lambda name: False,
) -> PackSelection:
    """Selects the packs that are to be rewritten."""
    selector = PackSelector(
        settings.min_live, settings.max_rewrite_bytes, retention_times, next_ordinal, is_outdated=is_outdated
    )
    for use in uses:
        selector.add(use)
    return selector.selection()


@attrs.define
class Tally:
    """How many objects there are, and how many bytes they have."""

    count: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Counts one more."""
        self.count += 1
        self.bytes += size


class _HeldBytes:
    """Adds up what each retained snapshot keeps from being freed.

    A dead pack is needed by the snapshots of a range of ordinals, so its size is added where the range begins, and
    subtracted where it ends.
    """

    def __init__(self, ordinals: Sequence[int]) -> None:
        self._ordinals = ordinals
        self._steps = [0] * (len(ordinals) + 1)
        self._alone = [0] * len(ordinals)
        self._last = [0] * len(ordinals)

    def add(self, born: int, died: int, size: int) -> bool:
        """Takes a dead pack; whether any snapshot needs it."""
        first, end = bisect_left(self._ordinals, born), bisect_left(self._ordinals, died)
        if first >= end:
            return False
        self._steps[first] += size
        self._steps[end] -= size
        self._last[end - 1] += size
        if end - first == 1:
            self._alone[first] += size
        return True

    def by_snapshot(self, ids: Mapping[int, str]) -> tuple[HeldBySnapshot, ...]:
        """What each snapshot holds, ascending, without those that hold nothing."""
        all_held, with_older = accumulate(self._steps), accumulate(self._last)
        rows = zip(self._ordinals, all_held, self._alone, with_older, strict=False)
        return tuple(HeldBySnapshot(ids[ordinal], held, alone, older) for ordinal, held, alone, older in rows if held)


def _estimate_requests(inputs: PlanInputs, rewrites: Sequence[PackUse], deletions: int) -> RequestEstimate:
    copied_bytes = sum(use.live_bytes for use in rewrites)
    return RequestEstimate(
        lists=inputs.list_requests + 6 + deletions // DELETE_BATCH,
        gets=sum(1 + use.size // _READ_BYTES for use in rewrites) + len(inputs.snapshots),
        puts=4 + (copied_bytes // (16 << 20) + 1 if rewrites else 0),
        deletes=-(-deletions // DELETE_BATCH),
    )
