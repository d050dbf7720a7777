# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a gc: what would be done, what it would free and what it would cost. Pure; nothing is read or changed.

A pack is *used* while a chunk names one of its blocks. Which snapshots need a pack that is not used any more follows
from two numbers: the snapshot it was born with, and the one it has died before. Of the newest snapshot more may be
known (`looked`): which packs its chunks really need.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import attrs

from cas3fs.index import PackUse, ordinal_of
from cas3fs.maintenance.choosing import Choice, Chooser, Left, Stays
from cas3fs.maintenance.strays import COLLECT, Stray
from cas3fs.prices import PriceTable
from cas3fs.snapshots.manifests import SnapshotInfo

DELETE_BATCH: Final = 1000
RUN_BYTES: Final = 4 << 20


@attrs.frozen
class GcSettings:
    """How a gc is to be done.

    min_live: packs of which less is used are rewritten; 0 for none.
    max_rewrite_bytes: no more than that is copied; None for no limit.
    grace_s: what is unknown and younger stays.
    """

    min_live: float = 0.7
    max_rewrite_bytes: int | None = None
    grace_s: float = 3600.0


@attrs.frozen
class Held:
    """What a retained snapshot keeps from being freed."""

    snapshot: str
    bytes: int
    """Of dead packs that it may need."""
    bytes_alone: int
    """Of those that no other snapshot may need: freed when this one goes."""
    bytes_with_older: int
    """Of those that no newer snapshot may need: freed when this one and all older ones go."""


@attrs.frozen
class Requests:
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
    free_packs: tuple[str, ...]
    """Dead packs that no retained snapshot needs."""
    free_bytes: int
    held: tuple[Held, ...]
    rewrites: tuple[str, ...]
    rewrite_bytes: int
    """To be copied."""
    rewrite_frees_bytes: int
    """Freed by it, when no snapshot needs the old packs any more."""
    left: tuple[Left, ...]
    """What is not rewritten, though little of it is used."""
    strays: tuple[Stray, ...]
    requests: Requests

    @property
    def stray_bytes(self) -> int:
        """Of strays that may go."""
        return sum(one.size for one in self.strays if one.verdict == COLLECT)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints; packs are counted, not named."""
        return {
            "dead_blocks": self.dead_blocks,
            "dead_block_bytes": self.dead_block_bytes,
            "dead_packs": self.dead_packs,
            "dead_pack_bytes": self.dead_pack_bytes,
            "free_packs": len(self.free_packs),
            "free_bytes": self.free_bytes,
            "held": [attrs.asdict(one) for one in self.held],
            "rewrite_packs": len(self.rewrites),
            "rewrite_bytes": self.rewrite_bytes,
            "rewrite_frees_bytes": self.rewrite_frees_bytes,
            "left": [attrs.asdict(one) for one in self.left],
            "stray_bytes": self.stray_bytes,
            "strays": tally(self.strays),
            "requests": attrs.asdict(self.requests) | {"price_usd": round(self.requests.price_usd, 6)},
        }


@attrs.frozen
class Facts:
    """What a plan is made from."""

    uses: Sequence[PackUse]
    young: int
    """Ordinal of the next snapshot: packs born with it are left alone."""
    snapshots: Sequence[SnapshotInfo]
    looked: tuple[int, Collection[str]] | None
    """Ordinal of the newest snapshot and the packs that it needs, if it was looked into."""
    strays: tuple[Stray, ...]
    list_requests: int
    stays: Stays = attrs.field(factory=lambda: Stays((), {}))
    """For how long snapshots need what is in use."""


def make_plan(facts: Facts, settings: GcSettings) -> GcPlan:
    """The plan."""
    old = [use for use in facts.uses if use.born < facts.young]
    dead = [use for use in old if not use.live_blocks]
    deaths = {use.name: death_of(use, facts) for use in dead}
    numbers = [ordinal_of(one.number) for one in facts.snapshots]
    needers = {use.name: [n for n in numbers if use.born <= n < deaths[use.name]] for use in dead}
    free = [use for use in dead if not needers[use.name]]
    choice = choose_rewrites(old, settings, facts.stays, facts.young)
    rewrites, rewrite_bytes = choice.packs, choice.live_bytes
    strays = [one for one in facts.strays if one.verdict == COLLECT]
    return GcPlan(
        dead_blocks=sum(use.blocks - use.live_blocks for use in old),
        dead_block_bytes=sum(use.block_bytes - use.live_bytes for use in old),
        dead_packs=len(dead),
        dead_pack_bytes=sum(use.size for use in dead),
        free_packs=tuple(use.name for use in free),
        free_bytes=sum(use.size for use in free),
        held=_held(dead, needers, facts.snapshots),
        rewrites=tuple(use.name for use in rewrites),
        rewrite_bytes=rewrite_bytes,
        rewrite_frees_bytes=sum(use.size for use in rewrites) - rewrite_bytes,
        left=choice.left,
        strays=facts.strays,
        requests=_requests(facts, rewrites, len(free) + len(strays)),
    )


def death_of(use: PackUse, facts: Facts) -> int:
    """The ordinal of the first snapshot that does not need an unused pack."""
    death = facts.young if use.died is None else use.died
    if facts.looked is not None and facts.looked[0] < death and use.name not in facts.looked[1]:
        newer = [n for one in facts.snapshots if (n := ordinal_of(one.number)) > facts.looked[0]]
        if not any(n < death for n in newer):
            return facts.looked[0]
    return death


def choose_rewrites(uses: Iterable[PackUse], settings: GcSettings, stays: Stays, young: int) -> Choice:
    """Which of these packs are to be rewritten."""
    chooser = Chooser(settings.min_live, settings.max_rewrite_bytes, stays, young)
    for use in uses:
        chooser.see(use)
    return chooser.choice()


def tally(strays: Sequence[Stray]) -> dict[str, int]:
    """How many strays there are of each verdict."""
    return dict(Counter(one.verdict for one in strays))


def _held(
    dead: Sequence[PackUse], needers: Mapping[str, Sequence[int]], snapshots: Sequence[SnapshotInfo]
) -> tuple[Held, ...]:
    every: Counter[int] = Counter()
    alone: Counter[int] = Counter()
    last: Counter[int] = Counter()
    for use in dead:
        numbers = needers[use.name]
        every.update(dict.fromkeys(numbers, use.size))
        if numbers:
            last[max(numbers)] += use.size
        if len(numbers) == 1:
            alone[numbers[0]] += use.size
    by_number = {ordinal_of(one.number): one.id for one in snapshots}
    held = sorted(every)
    with_older = accumulate(last[number] for number in held)
    return tuple(
        Held(by_number[number], every[number], alone[number], older)
        for number, older in zip(held, with_older, strict=True)
    )


def _requests(facts: Facts, rewrites: Sequence[PackUse], deletions: int) -> Requests:
    copied = sum(use.live_bytes for use in rewrites)
    return Requests(
        lists=2 * facts.list_requests + 3 + deletions // DELETE_BATCH,
        gets=sum(1 + use.size // RUN_BYTES for use in rewrites) + 2 * len(facts.snapshots),
        puts=4 + (copied // (16 << 20) + 1 if rewrites else 0),
        deletes=-(-deletions // DELETE_BATCH),
    )
