# SPDX-License-Identifier: GPL-3.0-or-later
"""gc: deletes unreferenced blocks and packs, and leftovers of failed uploads.

These are the steps of `GarbageCollector.collect`, and what a crash after each of them leaves. During all but the first
two, nobody else publishes or deletes snapshots. An object is deleted only if it was listed and classified before the
first deletion, and if a snapshot was published before in which it is not referenced any more.

 1. Publish: everything written is stored, and a snapshot references it. *One more snapshot.*
 2. Rewrite sparsely used packs, where that pays (`pack_selection`, `compaction`). *Some blocks have moved: both packs
    hold them, and the index has the new place.* A pack with a block that cannot be read stays as it is; the gc goes on.
 3. Take the inventory of the store: one complete listing and every manifest. Classify the objects that are there and
    unknown, and check that everything is there that has to be. *Nothing.*
 4. Merge in the packs that snapshots off the lineage need, and those of snapshots of an epoch of which the store has
    packs that the index does not know: the index may descend from an older state than those snapshots. *Rows that
    keep packs alive; the next gc merges them again.*
 5. Compare the chunks of the index with its checksums (`cas3fs.index.checksums`), and stop if some are lost, since the
    blocks that they reference would seem unreferenced. Then drop unreferenced blocks from the index, in batches, each
    decided again under the file system's lock, and mark packs without blocks as dead from the next snapshot on
    (`unreferenced_blocks`). *Some blocks are dropped: a storer that was about to reference one looks it up in its own
    transaction, does not find it, and stores it again. The next gc drops the others.*
 6. Read from the newest snapshot's index which packs it references, where that pays (`snapshot_index`). *Nothing, or
    an earlier death that is as true.*
 7. Publish a snapshot in which those packs are dead. It is acknowledged, so no other writer had taken over by then.
    *The objects are still there, marked dead: the next gc deletes them.*
 8. List the snapshots again: the one that was just published has to be there, or no listing is relied on. Of the
    objects that were unknown in step 3, those that are known or in flight by now are left alone. *Nothing.*
 9. Delete packs, in batches: check the fence, delete the objects, then delete their rows. *Objects are gone whose rows
    say that they are dead. Deleting them again does no harm, since no name of a pack ever recurs.* The row of an
    object that the store refuses to delete stays; all others go (`deletion`).
10. Delete orphans, in batches, each after a check of the fence. *Some are left for the next gc.*

A writer that takes over during step 9 goes on from a snapshot that was published in step 7 or later: it lists the
snapshots after its claim, and this writer looked for claims after its own snapshot. No snapshot that it could go on
from needs what is deleted.

Memory: the manifests, and some MiB. Packs and blocks are read by scans (`cas3fs.index.scans`). Of orphans, and of packs
to be rewritten, a bounded number is held; the next gc goes on with the rest. The file system's lock is held for some
milliseconds at a time.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from itertools import islice
from typing import Any, TypeVar

import attrs

from cas3fs.blockstore.pack_store import PackStore, pack_key, pack_name_in
from cas3fs.entries.kinds import PagesEntry
from cas3fs.errors import EntryError, SnapshotError, StoreError, VolumeError
from cas3fs.index import (
    LOST_PACK,
    DeadPack,
    DeadPackScan,
    IndexReader,
    PackRow,
    PackScan,
    PackUse,
    PackUseScan,
    ordinal_of,
)
from cas3fs.maintenance.context import ProgressCallback, VolumeContext, ignore_progress
from cas3fs.maintenance.gc.base import GcResult, GcSettings
from cas3fs.maintenance.gc.compaction import PackCompactor
from cas3fs.maintenance.gc.deletion import ObjectDeleter
from cas3fs.maintenance.gc.orphans import DELETABLE, NAMED, Orphan, OrphanClassifier, find_orphans, find_references
from cas3fs.maintenance.gc.pack_selection import RetentionTimes
from cas3fs.maintenance.gc.plan import (
    DELETE_BATCH,
    GcPlan,
    PackDeaths,
    PlanInputs,
    Sum,
    make_plan,
    select_packs_to_rewrite,
)
from cas3fs.maintenance.gc.unreferenced_blocks import drop_unreferenced_blocks
from cas3fs.maintenance.inventory import StoreInventory, list_quarantined, store_clock_now, take_inventory
from cas3fs.maintenance.lost_blocks import lost_packs
from cas3fs.maintenance.snapshot_index import check_chunk_sums, recorded_packs, referenced_packs
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.pages import find_lost_pages
from cas3fs.snapshots.retention import current_policy, remaining_lifetimes
from cas3fs.values import PagesNumber, SnapshotNumber

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


class GarbageCollector:
    """Collects the garbage of one open volume; one gc at a time."""

    def __init__(self, context: VolumeContext) -> None:
        self._context = context
        self._mutex = threading.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Ends a gc under way before its next step; the next one finishes its work."""
        self._stopping = True

    # -- the plan

    def plan(self, settings: GcSettings, report: ProgressCallback = ignore_progress) -> GcPlan:
        """What `collect` would do now; nothing is changed but that what was written is committed on this machine.

        Raises:
            StoreError, SnapshotError: the store could not be listed or read completely.
            IndexDatabaseError, OSError: the local disk failed.
        """
        with self._alone(), self._context.publisher.exclusively():
            self._step(report, "planning")
            self._context.filesystem.complete_index()
            with IndexReader(self._context.filesystem.index_path) as reader:
                check_chunk_sums(reader)
            inventory = self._take_inventory(report)
            orphans = self._orphans(inventory, inventory.snapshots, self._classifier(inventory, settings))
            inputs = PlanInputs(
                uses=(),
                young=ordinal_of(self._context.publisher.next_number),
                snapshots=inventory.snapshots,
                referenced=None,
                orphans=self._unnamed(inventory, orphans),
                list_requests=inventory.listing.requests,
                retention_times=self._retention_times(inventory.snapshots, inventory.aside),
            )
            with PackUseScan(self._context.filesystem.index_path) as uses:
                dead = (use for use in uses if use.born < inputs.young and not use.live_blocks)
                with self._newest_references(inventory, inputs.young, dead) as referenced:
                    return make_plan(attrs.evolve(inputs, uses=uses, referenced=referenced), settings)

    def _retention_times(self, snapshots: Sequence[SnapshotInfo], aside: Sequence[SnapshotNumber]) -> RetentionTimes:
        """For how long the snapshots will need what is in use now."""
        archive = self._context.archive
        try:
            policy = current_policy(archive.shelf)
        except EntryError as error:
            _log.error("the policy cannot be read, so every snapshot is taken to stay for good: %s", error)
            return RetentionTimes(snapshots, {}, aside)
        orphans = archive.diverged([one.id for one in snapshots])
        return RetentionTimes(
            snapshots, remaining_lifetimes(snapshots, policy, datetime.now(UTC), exempt=orphans), aside
        )

    @contextmanager
    def _newest_references(
        self, inventory: StoreInventory, young: int, dead: Iterable[PackUse | DeadPack]
    ) -> Iterator[tuple[int, Container[str]] | None]:
        """What the newest snapshot really needs, if finding out costs less than it may free of `dead`."""
        if not inventory.snapshots or inventory.aside:
            yield None
            return
        newest = inventory.snapshots[-1]
        number = ordinal_of(newest.number)
        deaths = PackDeaths(young, (), None)
        held_bytes = sum(pack.size for pack in dead if pack.born <= number < deaths.of(pack))
        with ExitStack() as resources:
            referenced = None
            if held_bytes > newest.index_size:
                try:
                    needed = referenced_packs(self._context.archive, newest.id, self._context.scratch)
                    referenced = number, resources.enter_context(needed)
                except SnapshotError as error:
                    _log.error("snapshot %s cannot be looked into, and is taken to need all: %s", newest.id, error)
            yield referenced

    def _classifier(self, inventory: StoreInventory, settings: GcSettings) -> OrphanClassifier:
        """Who says which strays may go; asked before anything more is published."""
        return OrphanClassifier(
            epoch=self._context.epoch,
            overruled=self._context.epochs.overruled(),
            claimed=inventory.listing.epochs,
            next_number=self._context.publisher.next_number,
            now=cache(partial(store_clock_now, self._context.store)),
            grace_s=settings.grace_s,
            aside=max((one.epoch for one in inventory.aside), default=0),
        )

    def _orphans(
        self, inventory: StoreInventory, snapshots: Iterable[SnapshotInfo], classifier: OrphanClassifier
    ) -> tuple[Orphan, ...]:
        """Everything in the survey that is not known by now, with what `judge` says of it.

        Args:
            snapshots: all that are retained by now.
        """
        aside = set(inventory.aside)
        pages = {use.id for info in snapshots for use in info.pages}
        pages |= {one for one in inventory.listing.pages if PagesNumber.parse(one).snapshot in aside}
        if (lost := inventory.lost) is not None:
            pages |= {one for one in inventory.listing.pages if PagesNumber.parse(one).snapshot <= lost}
        return find_orphans(inventory.listing, self._still_unknown(inventory.unknown), pages, classifier)

    def _still_unknown(self, packs: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Those of the packs in a listing that nobody knows, the open group and what is on its way included."""
        filesystem = self._context.filesystem
        for batch in _some(packs, DELETE_BATCH):
            under_way = filesystem.unrecorded_packs()
            with filesystem.index_transaction() as index:
                unknown = set(index.garbage.unknown_packs([pack_name_in(info.key) for info in batch]))
            yield from (info for info in batch if pack_name_in(info.key) in unknown - under_way)

    def _unnamed(self, inventory: StoreInventory, orphans: Sequence[Orphan]) -> tuple[Orphan, ...]:
        """The same, but that no pack goes which a snapshot of its epoch names."""
        named = find_references(orphans, inventory.snapshots, self._context)
        return tuple(attrs.evolve(one, verdict=NAMED) if named.spares(one) else one for one in orphans)

    # -- the execution

    def collect(self, settings: GcSettings, report: ProgressCallback = ignore_progress) -> GcResult:
        """Frees what can be freed.

        Raises:
            StoreError, SnapshotError: the store could not be listed, read or written. Nothing is lost, and another gc
                goes on. What the store refuses to delete, and blocks that cannot be read, end nothing: see `GcResult`.
            Fenced: another writer has taken over; the same.
            IndexDatabaseError, OSError: the local disk failed, or the index has lost chunks; the same.
        """
        with self._alone():
            self._step(report, "publishing")
            with self._context.publisher.exclusively():
                self._context.publisher.publish_locked(report)
                young = ordinal_of(self._context.publisher.next_number)
            compactor = self._rewrite(settings, young, report)
            with self._context.publisher.exclusively():
                result = self._collect(settings, report)
            return attrs.evolve(
                result,
                rewritten_packs=compactor.packs,
                rewritten_bytes=compactor.copied_bytes,
                unreadable_packs=compactor.unreadable,
                left=tuple(attrs.asdict(one) for one in compactor.left),
                problems=(*compactor.problems, *result.problems),
            )

    def _rewrite(self, settings: GcSettings, young: int, report: ProgressCallback) -> PackCompactor:
        compactor = PackCompactor(self._context, lambda told: self._told(report, told))
        if settings.min_live <= 0:
            return compactor
        with self._context.filesystem.index_transaction() as index:
            lost = lost_packs(index)
        damaged: list[str] = []
        snapshots = self._context.archive.list(lambda one, error: damaged.append(one))
        if damaged:  # the survey says so, and ends the gc
            return compactor
        retention_times = self._retention_times(snapshots, list_quarantined(self._context.store))
        with PackUseScan(self._context.filesystem.index_path) as uses:
            chosen = select_packs_to_rewrite(
                (use for use in uses if use.name not in lost), settings, retention_times, young
            )
        compactor.left = chosen.left
        if chosen.packs:
            compactor.rewrite([use.id for use in chosen.packs], chosen.live_bytes)
        return compactor

    def _collect(self, settings: GcSettings, report: ProgressCallback) -> GcResult:
        at = self._context
        inventory = self._take_inventory(report)
        classifier = self._classifier(inventory, settings)
        self._step(report, "merging")
        for one in inventory.diverged:
            self._merge(recorded_packs(at.archive, one.id, at.scratch), one.number)
        named = find_references(self._orphans(inventory, inventory.snapshots, classifier), inventory.snapshots, at)
        for number, rows in named.rows.items():
            self._merge(rows, number)
        young = ordinal_of(at.publisher.next_number)
        dropped = drop_unreferenced_blocks(at.filesystem, young, lambda told: self._told(report, told))
        self._settle_deaths(inventory, young)
        self._step(report, "publishing")
        newest = at.publisher.publish_locked(report)
        self._step(report, "listing snapshots")
        retained = self._retained(inventory, newest)
        orphans = self._orphans(inventory, retained, classifier)
        deleter = ObjectDeleter(at.store, at.publisher.check_fence)
        freed, held = self._delete_packs([one.number for one in retained], inventory.aside, newest, deleter, report)
        unnamed = (orphan for orphan in orphans if orphan.verdict == DELETABLE and not named.spares(orphan))
        removed = self._delete_strays({orphan.key: orphan.size for orphan in unnamed}, deleter, report)
        return GcResult(
            dropped_blocks=dropped,
            deleted_packs=freed.count,
            freed_bytes=freed.bytes,
            deleted_strays=removed.count,
            stray_bytes=removed.bytes,
            rewritten_packs=0,
            rewritten_bytes=0,
            held_bytes=held.bytes,
            strays_left=len(orphans) - removed.count,
            snapshot=newest,
            hurt_snapshots=self._hurt(inventory),
            refused_objects=deleter.refused,
            problems=(*((deleter.problem,) if deleter.refused else ()), *_problems_of(inventory)),
        )

    def _retained(self, inventory: StoreInventory, newest: str) -> list[SnapshotInfo]:
        """The snapshots that are retained by now: those of the survey, and what came since.

        Raises:
            StoreError: the one that was just published is not listed.
            SnapshotError: one cannot be read.
        """
        now = self._context.archive.list()
        if newest not in {one.id for one in now}:
            raise StoreError(
                f"{self._context.store.url} does not list snapshot {newest}, which is there: nothing is deleted"
            )
        return list(({one.id: one for one in inventory.snapshots} | {one.id: one for one in now}).values())

    def _take_inventory(self, report: ProgressCallback) -> StoreInventory:
        """A survey in which everything is that must be there; where one thing lacks, anything may."""
        self._step(report, "listing")
        at, filesystem = self._context, self._context.filesystem
        with filesystem.index_transaction() as index:
            lost = lost_packs(index) | {LOST_PACK}
        filesystem.commit()
        with PackScan(filesystem.index_path) as known:
            inventory = take_inventory(at.store, at.archive, known, lost)
        if inventory.listing.latest_epoch > at.epoch:
            at.epochs.note_epoch(inventory.listing.latest_epoch)
            at.publisher.check_fence()
        if foreign := [one.id for one in inventory.snapshots if one.number >= at.publisher.next_number]:
            raise SnapshotError(
                f"{at.store.url} has snapshot {foreign[-1]}, which is not of this mount, though it bears its epoch: "
                "was this machine set back to an earlier state? Nothing is deleted; unmount and mount again"
            )
        if unlisted := [one.id for one in inventory.snapshots if one.id not in inventory.listing.snapshots]:
            raise StoreError(f"{at.store.url} does not list snapshot {unlisted[0]}, which is there: nothing is deleted")
        if len(inventory.listing.snapshots) != len(inventory.snapshots):
            raise SnapshotError("two listings of the snapshots differ, so nothing is deleted")
        if inventory.missing:
            self._note_lost(inventory.missing)
            raise StoreError(
                f"{inventory.missing_count} packs that are in use are not listed by {at.store.url}, such as "
                f"{inventory.missing[0]}: nothing is deleted; `cas3fs fsck` tells more"
            )
        return inventory

    def _hurt(self, inventory: StoreInventory) -> tuple[str, ...]:
        """The snapshots of which the store has lost pages; the newest is never among them, as it was just published."""
        sizes = {pages: info.size for pages, info in inventory.listing.pages.items()}
        uses = {use for info in inventory.snapshots for use in info.pages}
        lost = find_lost_pages(self._context.store, uses, sizes)
        hurt = [one.id for one in inventory.snapshots if any(use.id in lost for use in one.pages)]
        if hurt:
            _log.error(
                "pages that %d snapshots need are lost: %s; `cas3fs fsck` tells more", len(hurt), ", ".join(hurt)
            )
        return tuple(hurt)

    def _note_lost(self, packs: Sequence[str]) -> None:
        """Of packs that a listing lacks, those that are not there by name either are lost."""
        pack_store = PackStore(self._context.store)
        for pack in packs:
            if not pack_store.exists(pack):
                self._context.filesystem.mark_pack_lost(pack)

    def _merge(self, rows: Iterable[PackRow], number: SnapshotNumber) -> None:
        """The index knows that the snapshot of that number may need these packs, some at a time."""
        filesystem = self._context.filesystem
        for batch in _some(rows, DELETE_BATCH):
            with filesystem.index_transaction() as index:
                index.garbage.merge_packs(batch, ordinal_of(number))

    def _settle_deaths(self, inventory: StoreInventory, young: int) -> None:
        """Corrects the deaths of packs of which a look tells that the newest snapshot does not need them."""
        filesystem = self._context.filesystem
        with DeadPackScan(filesystem.index_path) as dead, self._newest_references(inventory, young, dead) as referenced:
            if referenced is None:
                return
            deaths = PackDeaths(young, [ordinal_of(one.number) for one in inventory.snapshots], referenced)
            earlier = (pack.name for pack in dead if deaths.of(pack) < pack.died)
            for batch in _some(earlier, DELETE_BATCH):
                with filesystem.index_transaction() as index:
                    index.garbage.set_died(batch, referenced[0])

    # -- deleting

    def _delete_packs(
        self,
        retained: Iterable[SnapshotNumber],
        aside: Iterable[SnapshotNumber],
        newest: str,
        deleter: ObjectDeleter,
        report: ProgressCallback,
    ) -> tuple[Sum, Sum]:
        """Deletes the packs that are dead in the snapshot `newest` and that no retained one needs, nor one put aside,
        and then their rows; gives how many went, and how many others are dead and held. The row of one that the store
        refuses stays, so that the next gc finds it dead again."""
        filesystem = self._context.filesystem
        numbers = sorted(ordinal_of(one) for one in (*retained, *aside))
        published = ordinal_of(SnapshotNumber.parse(newest))
        freed, held = Sum(), Sum()

        def is_free(pack: DeadPack) -> bool:
            return pack.died <= published and bisect_left(numbers, pack.born) >= bisect_left(numbers, pack.died)

        filesystem.commit()
        with DeadPackScan(filesystem.index_path) as dead:
            total = sum(pack.size for pack in dead if is_free(pack))
            for pack in dead:
                if not is_free(pack):
                    held.add(pack.size)
            for batch in _some(filter(is_free, dead), DELETE_BATCH):
                self._told(report, {"what": "deleting packs", "done": freed.bytes, "total": total})
                sizes = {pack.name: pack.size for pack in batch}
                with filesystem.index_transaction() as index:
                    going = index.garbage.still_dead(sizes, published)
                gone = [pack_name_in(key) for key in deleter.delete([pack_key(name) for name in going])]
                self._step(report, "forgetting packs")
                with filesystem.index_transaction() as index:
                    index.garbage.delete_packs(gone)
                for name in gone:
                    freed.add(sizes[name])
        filesystem.commit()
        return freed, held

    def _delete_strays(self, orphans: Mapping[str, int], deleter: ObjectDeleter, report: ProgressCallback) -> Sum:
        """Deletes these, of which the sizes are given; gives how many went."""
        # pages after everything else: an object that a manifest could refer to goes last
        ordered = sorted(orphans, key=lambda key: (key.startswith(PagesEntry.prefix()), key))
        removed = Sum()
        for batch in _some(ordered, DELETE_BATCH):
            self._step(report, "deleting strays")
            for key in deleter.delete(batch):
                removed.add(orphans[key])
        return removed

    # -- steps

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._mutex.acquire(blocking=False):
            raise VolumeError("a gc of this volume is under way already")
        try:
            yield
        finally:
            self._mutex.release()

    def _step(self, report: ProgressCallback, what: str) -> None:
        self._told(report, {"what": what})

    def _told(self, report: ProgressCallback, told: Any) -> None:
        if self._stopping:
            raise VolumeError("the gc was stopped, as the volume is being closed; the next one goes on")
        report(told)


def _problems_of(inventory: StoreInventory) -> tuple[str, ...]:
    """What a person is told of the snapshots."""
    if not inventory.denied:
        return ()
    more = f", and {len(inventory.denied) - 1:,} more" if len(inventory.denied) > 1 else ""
    return (
        f"the store says that snapshot {inventory.denied[0]}{more} is not there, though nobody deleted it here: what "
        "it may need is kept; `cas3fs snapshot delete` gives up one, and `cas3fs fsck --repair` all",
    )


def _some(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """`items` in lists of `count`; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, count)):
        yield batch
