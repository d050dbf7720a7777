# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads from index and store what a gc is decided by: the inventory, orphans, sparsely used packs, references.

A dry run is a plan made from all of that (`Planner.plan`). The execution asks for the parts one by one, as each has to
be decided by the state of that moment (`cas3fs.maintenance.gc.collector`). Nothing is changed here, except that a pack
that is found to be missing is recorded as lost.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from typing import Final

import attrs

from cas3fs.blockstore.pack_store import PackStore, pack_key, pack_name_in
from cas3fs.errors import EntryError, SnapshotError, StoreError
from cas3fs.index import LOST_PACK, DeadPack, IndexReader, PackUse, ordinal_of
from cas3fs.index.scans import PackScan, PackUseScan
from cas3fs.maintenance.context import ProgressCallback, VolumeContext
from cas3fs.maintenance.damaged_objects import list_quarantined
from cas3fs.maintenance.gc.deletion import batches
from cas3fs.maintenance.gc.orphans import REFERENCED, Orphan, OrphanClassifier, find_orphans, find_references
from cas3fs.maintenance.gc.pack_selection import PackSelection, RetentionTimes
from cas3fs.maintenance.gc.plan import (
    GcPlan,
    PackDeaths,
    PlanInputs,
    SnapshotReferences,
    make_plan,
    select_packs,
)
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.maintenance.inventory import StoreInventory, take_inventory
from cas3fs.maintenance.lost_blocks import lost_packs
from cas3fs.maintenance.snapshot_index import check_chunk_checksums, referenced_packs
from cas3fs.maintenance.store_clock import store_clock_now
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.retention import current_policy, remaining_lifetimes
from cas3fs.units import MIB
from cas3fs.values import PagesNumber, SnapshotNumber

SMALL_INDEX_BYTES: Final = 16 * MIB
"""An index of this size is read in about a second, for a thousandth of a dollar at most."""

_log = logging.getLogger(__name__)


class Planner:
    """Plans the gc of one open volume."""

    def __init__(self, context: VolumeContext) -> None:
        self._context = context

    def plan(self, settings: GcSettings, report: ProgressCallback) -> GcPlan:
        """Makes the plan that a dry run prints; called while nobody else publishes."""
        context, index_path = self._context, self._context.filesystem.index_path
        report({"what": "planning"})
        context.filesystem.complete_index()
        with IndexReader(index_path) as reader:
            check_chunk_checksums(reader)
        inventory = self.take_inventory(report)
        orphans = self.find_orphans(inventory, inventory.snapshots, self.classifier(inventory, settings))
        orphans = self._without_referenced(orphans, inventory.snapshots)
        retention_times = self._retention_times(inventory.snapshots, inventory.unreadable)
        next_ordinal = ordinal_of(context.publisher.next_number)
        with PackUseScan(index_path) as uses:
            dead = (use for use in uses if use.born < next_ordinal and not use.live_blocks)
            with self.newest_references(inventory, next_ordinal, dead) as references:
                inputs = PlanInputs(
                    uses=uses,
                    next_ordinal=next_ordinal,
                    snapshots=inventory.snapshots,
                    references=references,
                    orphans=orphans,
                    list_requests=inventory.listing.requests,
                    retention_times=retention_times,
                    is_outdated=self._outdated_by(settings),
                )
                return make_plan(inputs, settings)

    # -- packs to be rewritten

    def select_packs(self, settings: GcSettings, next_ordinal: int) -> PackSelection:
        """Selects the packs that are to be rewritten now; none if a snapshot cannot be read."""
        context = self._context
        if settings.min_live <= 0 and not settings.reencrypt:
            return PackSelection()
        with context.filesystem.index_transaction() as index:
            lost = lost_packs(index)
        unreadable: list[str] = []
        snapshots = context.archive.list(lambda one, error: unreadable.append(one))
        if unreadable:  # taking the inventory reports that, and ends the gc
            return PackSelection()
        retention_times = self._retention_times(snapshots, list_quarantined(context.store))
        with PackUseScan(context.filesystem.index_path) as uses:
            present = (use for use in uses if use.name not in lost)
            return select_packs(present, settings, retention_times, next_ordinal, self._outdated_by(settings))

    def _outdated_by(self, settings: GcSettings) -> Callable[[str], bool]:
        """Whether the pack of a name is to be rewritten because it is sealed with an older generation of the keys."""
        store = self._context.store
        if not settings.reencrypt or not store.generation:
            return lambda name: False
        return lambda name: store.generation_of(pack_key(name)) < store.generation

    def _retention_times(
        self, snapshots: Sequence[SnapshotInfo], unreadable: Sequence[SnapshotNumber]
    ) -> RetentionTimes:
        """For how long the snapshots need the packs that are in use now."""
        archive = self._context.archive
        try:
            policy = current_policy(archive.shelf)
        except EntryError as error:
            _log.error("the retention policy cannot be read, so every snapshot counts as kept for good: %s", error)
            return RetentionTimes(snapshots, {}, unreadable)
        diverged = archive.diverged([one.id for one in snapshots])
        remaining_s = remaining_lifetimes(snapshots, policy, datetime.now(UTC), exempt=diverged)
        return RetentionTimes(snapshots, remaining_s, unreadable)

    # -- the inventory

    def take_inventory(self, report: ProgressCallback) -> StoreInventory:
        """Takes the inventory of the store, and checks that everything is listed that has to be: where one object is
        not listed, any may be missing from the listing.

        Raises:
            StoreError, SnapshotError: the store could not be listed or read completely.
            Fenced: another writer has taken over.
        """
        report({"what": "listing"})
        context, filesystem = self._context, self._context.filesystem
        with filesystem.index_transaction() as index:
            lost = lost_packs(index) | {LOST_PACK}
        filesystem.commit()
        with PackScan(filesystem.index_path) as known:
            inventory = take_inventory(context.store, context.archive, known, lost)
        if inventory.listing.latest_epoch > context.epoch:
            context.epochs.note_epoch(inventory.listing.latest_epoch)
            context.publisher.check_fence()
        self._check_snapshots(inventory)
        if inventory.missing_packs:
            self._record_lost(inventory.missing_packs)
            raise StoreError(
                f"{context.store.url} does not list {inventory.missing_pack_count} packs that are in use, such as "
                f"{inventory.missing_packs[0]}: nothing is deleted; `cas3fs fsck` shows the files"
            )
        return inventory

    def _check_snapshots(self, inventory: StoreInventory) -> None:
        url, listed = self._context.store.url, inventory.listing.snapshots
        if foreign := [one.id for one in inventory.snapshots if one.number >= self._context.publisher.next_number]:
            raise SnapshotError(
                f"{url} has snapshot {foreign[-1]}, which this mount did not publish, though it has this mount's "
                "epoch: was this machine set back to an earlier state? Nothing is deleted; unmount and mount again"
            )
        if unlisted := [one.id for one in inventory.snapshots if one.id not in listed]:
            raise StoreError(f"{url} does not list snapshot {unlisted[0]}, which is there: nothing is deleted")
        if len(listed) != len(inventory.snapshots):
            raise SnapshotError("two listings of the snapshots differ, so nothing is deleted")

    def _record_lost(self, packs: Iterable[str]) -> None:
        """Records as lost the packs that are not in the store when asked for by name either."""
        pack_store = PackStore(self._context.store)
        for pack in packs:
            if not pack_store.exists(pack):
                self._context.filesystem.packs.mark_pack_lost(pack)

    # -- orphans

    def classifier(self, inventory: StoreInventory, settings: GcSettings) -> OrphanClassifier:
        """Decides which orphans may be deleted; to be made before anything more is published."""
        context = self._context
        return OrphanClassifier(
            epoch=context.epoch,
            taken_over=context.epochs.overruled(),
            claimed=inventory.listing.epochs,
            next_number=context.publisher.next_number,
            now=cache(partial(store_clock_now, context.store)),
            grace_s=settings.grace_s,
            quarantined_epoch=max((one.epoch for one in inventory.unreadable), default=0),
        )

    def find_orphans(
        self, inventory: StoreInventory, snapshots: Iterable[SnapshotInfo], classifier: OrphanClassifier
    ) -> tuple[Orphan, ...]:
        """Classifies every object of the inventory that is an orphan still.

        Args:
            snapshots: all that are retained by now.
        """
        unreadable, keep_through = set(inventory.unreadable), inventory.keep_pages_through
        needed = {use.id for info in snapshots for use in info.pages}
        for pages in inventory.listing.pages:
            number = PagesNumber.parse(pages).snapshot
            if number in unreadable or (keep_through is not None and number <= keep_through):
                needed.add(pages)
        return find_orphans(inventory.listing, self._still_unknown(inventory.unknown_packs), needed, classifier)

    def _still_unknown(self, packs: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Those of the packs in a listing that the index does not have now, and that are not in flight."""
        filesystem = self._context.filesystem
        for batch in batches(packs):
            in_flight = filesystem.unrecorded_packs()
            with filesystem.index_transaction() as index:
                unknown = set(index.garbage.unknown_packs([pack_name_in(info.key) for info in batch]))
            yield from (info for info in batch if pack_name_in(info.key) in unknown - in_flight)

    def _without_referenced(self, orphans: Sequence[Orphan], snapshots: Sequence[SnapshotInfo]) -> tuple[Orphan, ...]:
        """The orphans, where packs stay that a snapshot of their epoch may need."""
        references = find_references(orphans, snapshots, self._context)
        return tuple(attrs.evolve(one, status=REFERENCED) if references.may_need(one) else one for one in orphans)

    # -- the newest snapshot

    @contextmanager
    def newest_references(
        self, inventory: StoreInventory, next_ordinal: int, dead: Iterable[PackUse | DeadPack]
    ) -> Iterator[SnapshotReferences | None]:
        """The packs that the newest snapshot references, if that may free some of the `dead` packs, and reading its
        index costs little, or less than it may free; None otherwise."""
        if not inventory.snapshots or inventory.unreadable:
            yield None
            return
        newest = inventory.snapshots[-1]
        ordinal = ordinal_of(newest.number)
        deaths = PackDeaths(next_ordinal, (), None)
        held_bytes = sum(pack.size for pack in dead if pack.born <= ordinal < deaths.of_pack(pack))
        with ExitStack() as resources:
            references = None
            if held_bytes > (0 if newest.index_size <= SMALL_INDEX_BYTES else newest.index_size):
                try:
                    packs = referenced_packs(self._context.archive, newest.id, self._context.scratch)
                    references = SnapshotReferences(ordinal, resources.enter_context(packs))
                except SnapshotError as error:
                    _log.error(
                        "snapshot %s cannot be searched, so it counts as needing all packs: %s", newest.id, error
                    )
            yield references
