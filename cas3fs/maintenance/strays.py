# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that neither the index nor a snapshot knows: which of them may go, and why the others may not.

A pack or pages object comes from an upload that was broken off, or is on its way just now. It may go when

- its epoch is our own, or an earlier one whose writer is known to have ended: released, or followed by a claim of the
  same state folder; and
- it is older than the grace period, by the store's own clock; and
- nobody is putting it at this moment: what is in flight was read after the listing; and
- no snapshot of its epoch names it (module `naming`).

Whatever else is there stays, and is told: packs of a writer that was taken over (he may not know it yet, and his data
may have to be rescued), of a later epoch, of an epoch that nobody claimed, of no later epoch than a damaged snapshot
that was put aside, as that may be all that names them, and objects of no kind.
"""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Final

import attrs

from cas3fs.maintenance.survey import Listing, epoch_of_pack, name_of_pack
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.values import PagesNumber, SnapshotNumber

COLLECT: Final = "may go"
YOUNG: Final = "younger than the grace period"
OVERRULED: Final = "of a writer that was taken over and has not released"
LATER: Final = "of a later epoch"
UNCLAIMED: Final = "of an epoch that nobody claimed"
UNDER_WAY: Final = "of a snapshot that is still to come"
ASIDE: Final = "perhaps of a damaged snapshot that was put aside, or gone around"
NAMED: Final = "named by a snapshot of its epoch, or perhaps so"
STRANGE: Final = "of no kind that this version of cas3fs knows"


@attrs.frozen
class Stray:
    """An object that nothing explains; `verdict` is one of the texts above."""

    key: str
    size: int
    verdict: str


@attrs.frozen
class Judge:
    """Says of strays whether they may go.

    overruled: epochs that were taken over and not released.
    next_number: the least number of a snapshot yet to come.
    aside: the greatest epoch of a snapshot that was put aside; 0 for none.
    now: asks the store for its time; called only where something is to be judged by its age.
    """

    epoch: int
    overruled: Collection[int]
    claimed: Collection[int]
    next_number: SnapshotNumber
    now: Callable[[], datetime]
    grace_s: float
    aside: int = 0

    def pack(self, name: str, info: ObjectInfo) -> Stray:
        """What is to be done with a pack."""
        epoch = epoch_of_pack(name)
        assert epoch is not None
        aside = ASIDE if epoch <= self.aside else ""
        return Stray(info.key, info.size, self._of_epoch(epoch) or aside or self._of_age(info))

    def pages(self, pages_id: str, info: ObjectInfo) -> Stray:
        """What is to be done with a pages object that no retained manifest refers to."""
        number = PagesNumber.parse(pages_id).snapshot
        verdict = self._of_epoch(number.epoch)
        if not verdict and number >= self.next_number:
            verdict = UNDER_WAY
        return Stray(info.key, info.size, verdict or self._of_age(info))

    def probe(self, info: ObjectInfo) -> Stray:
        """What is to be done with what a probe has left."""
        return Stray(info.key, info.size, self._of_age(info))

    def _of_epoch(self, epoch: int) -> str:
        if epoch > self.epoch:
            return LATER
        if epoch in self.overruled:
            return OVERRULED
        return "" if epoch in self.claimed else UNCLAIMED

    def _of_age(self, info: ObjectInfo) -> str:
        return COLLECT if (self.now() - info.modified).total_seconds() >= self.grace_s else YOUNG


def find_strays(
    listing: Listing, unknown_packs: Iterable[ObjectInfo], needed_pages: Collection[str], judge: Judge
) -> tuple[Stray, ...]:
    """Every stray in the listing with its verdict."""

    def found() -> Iterable[Stray]:
        for info in unknown_packs:
            yield judge.pack(name_of_pack(info.key), info)
        for pages_id, info in listing.pages.items():
            if pages_id not in needed_pages:
                yield judge.pages(pages_id, info)
        for info in listing.probes:
            yield judge.probe(info)
        for info in listing.strange:
            yield Stray(info.key, info.size, STRANGE)

    return tuple(found())
