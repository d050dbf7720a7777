# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that neither the index nor a snapshot knows: which of them may go, and why the others may not.

A pack or pages object comes from an upload that was broken off, or is on its way just now. It may go when

- its epoch is our own, or an earlier one whose writer is known to have ended: released, or followed by a claim of the
  same state folder; and
- it is older than the grace period, by the store's own clock; and
- nobody is putting it at this moment: what is in flight was read after the listing; and
- no snapshot of its epoch names it (`find_references`).

Whatever else is there stays, and is told: packs of a writer that was taken over (he may not know it yet, and his data
may have to be rescued), of a later epoch, of an epoch that nobody claimed, of no later epoch than a damaged snapshot
that was put aside, as that may be all that names them, and objects of no kind.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs

from cas3fs.blockstore.pack_store import epoch_of_pack, pack_name_in
from cas3fs.errors import SnapshotArchived, SnapshotDamaged
from cas3fs.index import PackRow
from cas3fs.maintenance.context import VolumeContext
from cas3fs.maintenance.inventory import VolumeListing
from cas3fs.maintenance.snapshot_index import recorded_packs
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import PagesNumber, SnapshotNumber

_log = logging.getLogger(__name__)

DELETABLE: Final = "may go"
YOUNG: Final = "younger than the grace period"
TAKEN_OVER: Final = "of a writer that was taken over and has not released"
LATER: Final = "of a later epoch"
UNCLAIMED: Final = "of an epoch that nobody claimed"
UNDER_WAY: Final = "of a snapshot that is still to come"
QUARANTINED: Final = "perhaps of a damaged snapshot that was put aside, or gone around"
NAMED: Final = "named by a snapshot of its epoch, or perhaps so"
STRANGE: Final = "of no kind that this version of cas3fs knows"


@attrs.frozen
class Orphan:
    """An object that nothing explains; `verdict` is one of the texts above."""

    key: str
    size: int
    verdict: str


@attrs.frozen
class OrphanClassifier:
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

    def pack(self, name: str, info: ObjectInfo) -> Orphan:
        """What is to be done with a pack."""
        epoch = epoch_of_pack(name)
        assert epoch is not None
        aside = QUARANTINED if epoch <= self.aside else ""
        return Orphan(info.key, info.size, self._of_epoch(epoch) or aside or self._of_age(info))

    def pages(self, pages_id: str, info: ObjectInfo) -> Orphan:
        """What is to be done with a pages object that no retained manifest refers to."""
        number = PagesNumber.parse(pages_id).snapshot
        verdict = self._of_epoch(number.epoch)
        if not verdict and number >= self.next_number:
            verdict = UNDER_WAY
        return Orphan(info.key, info.size, verdict or self._of_age(info))

    def probe(self, info: ObjectInfo) -> Orphan:
        """What is to be done with what a probe has left."""
        return Orphan(info.key, info.size, self._of_age(info))

    def _of_epoch(self, epoch: int) -> str:
        if epoch > self.epoch:
            return LATER
        if epoch in self.overruled:
            return TAKEN_OVER
        return "" if epoch in self.claimed else UNCLAIMED

    def _of_age(self, info: ObjectInfo) -> str:
        return DELETABLE if (self.now() - info.modified).total_seconds() >= self.grace_s else YOUNG


def find_orphans(
    listing: VolumeListing,
    unknown_packs: Iterable[ObjectInfo],
    needed_pages: Collection[str],
    classifier: OrphanClassifier,
) -> tuple[Orphan, ...]:
    """Every stray in the listing with its verdict."""

    def found() -> Iterable[Orphan]:
        for info in unknown_packs:
            yield classifier.pack(pack_name_in(info.key), info)
        for pages_id, info in listing.pages.items():
            if pages_id not in needed_pages:
                yield classifier.pages(pages_id, info)
        for info in listing.probes:
            yield classifier.probe(info)
        for info in listing.unrecognized:
            yield Orphan(info.key, info.size, STRANGE)

    return tuple(found())


@attrs.frozen
class OrphanReferences:
    """What the last snapshots of earlier epochs know."""

    rows: Mapping[SnapshotNumber, Sequence[PackRow]]
    """The packs among the strays that a snapshot knows, by its number."""
    known: Mapping[int, frozenset[str]]
    """Those of the strays that the last snapshot of an epoch knows, by epoch, of the epochs that were looked into."""
    last: Mapping[int, SnapshotInfo]
    """The last snapshot of each earlier epoch."""

    def spares(self, orphan: Orphan) -> bool:
        """Whether it is a pack that a snapshot of its epoch needs, or may need for all that is known."""
        name = pack_name_in(orphan.key)
        epoch = epoch_of_pack(name)
        if epoch is None or epoch not in self.last:
            return False
        return epoch not in self.known or name in self.known[epoch]


def find_references(
    orphans: Iterable[Orphan], snapshots: Sequence[SnapshotInfo], at: VolumeContext
) -> OrphanReferences:
    """Looks into the last snapshot of every earlier epoch of which a pack among `strays` is to go.

    Args:
        snapshots: all that are retained, ascending.

    Raises:
        StoreError, IndexDatabaseError: the store or the local disk failed.
    """
    last = {one.number.epoch: one for one in snapshots if one.number.epoch < at.epoch}
    names = {pack_name_in(one.key) for one in orphans if one.verdict == DELETABLE}
    rows: dict[SnapshotNumber, Sequence[PackRow]] = {}
    known: dict[int, frozenset[str]] = {}
    for each in sorted({found for name in names if (found := epoch_of_pack(name)) in last and found is not None}):
        try:
            packs = [row for row in recorded_packs(at.archive, last[each].id, at.scratch) if row.name in names]
        except (SnapshotDamaged, SnapshotArchived) as error:
            _log.warning("packs of epoch %d that nothing else names are kept: %s", each, error)
            continue
        known[each] = frozenset(row.name for row in packs)
        # whatever it still lists may be needed by an earlier one, too, so it counts as needed up to here
        rows[last[each].number] = [row._replace(died=None) for row in packs]
    return OrphanReferences(rows, known, last)
