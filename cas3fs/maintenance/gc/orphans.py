# SPDX-License-Identifier: GPL-3.0-or-later
"""Orphans: objects that neither the index nor a snapshot references. Which may be deleted, and why the others may not.

An orphaned pack or pages object comes from an upload that failed, or that is still under way. It may be deleted if

- its epoch is this writer's own, or an earlier one whose writer is known to have ended: it released the epoch, or the
  same state directory has claimed a later one; and
- it is older than the grace period, by the store's own clock; and
- nobody is storing it at this moment: what is in flight was read after the listing; and
- no snapshot of its epoch references it (`find_references`).

All other orphans stay, and are reported: objects of a writer that was taken over (it may not know that yet, and its
data may have to be rescued), of a later epoch, or of an epoch that nobody claimed; packs that a quarantined snapshot
may reference, which are those of its own epoch and of earlier ones; and objects of an unknown kind.

The index descends from every snapshot of its lineage, so a pack that the index does not know is needed by none of
them. But a version of cas3fs without that check may have gone on from an old copy of a state directory, and published
after snapshots that the copy had never seen. So before a pack of an earlier epoch is deleted, the last snapshot of that
epoch is restored and searched. That costs as much as its index is large; unknown packs of an earlier epoch are rare.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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

# These texts are keys of --json.
DELETABLE: Final = "may go"
YOUNG: Final = "younger than the grace period"
TAKEN_OVER: Final = "of a writer that was taken over and has not released"
LATER: Final = "of a later epoch"
UNCLAIMED: Final = "of an epoch that nobody claimed"
UNDER_WAY: Final = "of a snapshot that is still to come"
QUARANTINED: Final = "perhaps of a damaged snapshot that was put aside, or gone around"
REFERENCED: Final = "named by a snapshot of its epoch, or perhaps so"
UNRECOGNIZED: Final = "of no kind that this version of cas3fs knows"

_log = logging.getLogger(__name__)


@attrs.frozen
class Orphan:
    """An object that nothing references; `status` is one of the texts above."""

    key: str
    size: int
    status: str


@attrs.frozen
class OrphanClassifier:
    """Decides which orphans may be deleted.

    Attributes:
        epoch: of this writer.
        taken_over: the epochs that were taken over and not released.
        claimed: the epochs that were claimed.
        next_number: the least number of a future snapshot.
        now: asks the store for its time; called only if an object is to be classified by its age.
        quarantined_epoch: the greatest epoch of a snapshot that cannot be read; 0 if there is none.
    """

    epoch: int
    taken_over: Collection[int]
    claimed: Collection[int]
    next_number: SnapshotNumber
    now: Callable[[], datetime]
    grace_s: float
    quarantined_epoch: int = 0

    def pack(self, name: str, info: ObjectInfo) -> Orphan:
        """Classifies a pack."""
        epoch = epoch_of_pack(name)
        assert epoch is not None
        quarantined = QUARANTINED if epoch <= self.quarantined_epoch else ""
        return Orphan(info.key, info.size, self._by_epoch(epoch) or quarantined or self._by_age(info))

    def pages(self, pages_id: str, info: ObjectInfo) -> Orphan:
        """Classifies a pages object that no retained manifest refers to."""
        number = PagesNumber.parse(pages_id).snapshot
        status = self._by_epoch(number.epoch)
        if not status and number >= self.next_number:
            status = UNDER_WAY
        return Orphan(info.key, info.size, status or self._by_age(info))

    def probe(self, info: ObjectInfo) -> Orphan:
        """Classifies a leftover of a test of how the store behaves."""
        return Orphan(info.key, info.size, self._by_age(info))

    def _by_epoch(self, epoch: int) -> str:
        if epoch > self.epoch:
            return LATER
        if epoch in self.taken_over:
            return TAKEN_OVER
        return "" if epoch in self.claimed else UNCLAIMED

    def _by_age(self, info: ObjectInfo) -> str:
        return DELETABLE if (self.now() - info.modified).total_seconds() >= self.grace_s else YOUNG


def find_orphans(
    listing: VolumeListing,
    unknown_packs: Iterable[ObjectInfo],
    needed_pages: Collection[str],
    classifier: OrphanClassifier,
) -> tuple[Orphan, ...]:
    """Classifies every orphan of a listing."""

    def classify() -> Iterator[Orphan]:
        for info in unknown_packs:
            yield classifier.pack(pack_name_in(info.key), info)
        for pages_id, info in listing.pages.items():
            if pages_id not in needed_pages:
                yield classifier.pages(pages_id, info)
        for info in listing.probes:
            yield classifier.probe(info)
        for info in listing.unrecognized:
            yield Orphan(info.key, info.size, UNRECOGNIZED)

    return tuple(classify())


@attrs.frozen
class OrphanReferences:
    """What the last snapshots of earlier epochs know of orphaned packs.

    Attributes:
        rows: the packs among the orphans that a snapshot records, by its number.
        recorded: their names by epoch, of the epochs whose last snapshot could be read.
        last: the last snapshot of each earlier epoch.
    """

    rows: Mapping[SnapshotNumber, Sequence[PackRow]]
    recorded: Mapping[int, frozenset[str]]
    last: Mapping[int, SnapshotInfo]

    def may_need(self, orphan: Orphan) -> bool:
        """Whether it is a pack that a snapshot of its epoch needs, or may need because it cannot be read."""
        name = pack_name_in(orphan.key)
        epoch = epoch_of_pack(name)
        if epoch is None or epoch not in self.last:
            return False
        return epoch not in self.recorded or name in self.recorded[epoch]


def find_references(
    orphans: Iterable[Orphan], snapshots: Sequence[SnapshotInfo], context: VolumeContext
) -> OrphanReferences:
    """Searches the last snapshot of each earlier epoch of which a pack among the orphans may be deleted.

    Args:
        snapshots: all that are retained, ascending.

    Raises:
        StoreError, IndexDatabaseError: the store or the local disk failed.
    """
    last = {one.number.epoch: one for one in snapshots if one.number.epoch < context.epoch}
    names = {pack_name_in(one.key) for one in orphans if one.status == DELETABLE}
    rows: dict[SnapshotNumber, Sequence[PackRow]] = {}
    recorded: dict[int, frozenset[str]] = {}
    for epoch in sorted({found for name in names if (found := epoch_of_pack(name)) in last and found is not None}):
        snapshot = last[epoch]
        try:
            packs = [row for row in recorded_packs(context.archive, snapshot.id, context.scratch) if row.name in names]
        except (SnapshotDamaged, SnapshotArchived) as error:
            _log.warning(
                "unreferenced packs of epoch %d are kept, as its last snapshot cannot be read: %s", epoch, error
            )
            continue
        recorded[epoch] = frozenset(row.name for row in packs)
        # an earlier snapshot may need a pack that this one only records, so it counts as needed up to here
        rows[snapshot.number] = [row._replace(died=None) for row in packs]
    return OrphanReferences(rows, recorded, last)
