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
 4. Merge in the packs that diverged snapshots need, and those of snapshots of an epoch of which the store has
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
11. When the volume is re-encrypted: drop the generations of the keys that nothing is sealed with (`reencryption`).
    *Nothing, or a keyring without them.* Then step 2 also rewrites all packs that are sealed with older generations.

A writer that takes over during step 9 continues from a snapshot that was published in step 7 or later: it lists the
snapshots after its claim, and this writer looked for claims after its own snapshot. No snapshot that it could go on
from needs what is deleted.

Memory: the manifests, and some MiB. Packs and blocks are read by scans (`cas3fs.index.scans`). Of orphans, and of packs
to be rewritten, a bounded number is held; the next gc goes on with the rest. The file system's lock is held for some
milliseconds at a time.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from cas3fs.errors import StoreError, UsageError, VolumeError
from cas3fs.index import PackRow, ordinal_of
from cas3fs.index.scans import DeadPackScan
from cas3fs.maintenance.context import ProgressCallback, VolumeContext, ignore_progress
from cas3fs.maintenance.gc.compaction import PackCompactor
from cas3fs.maintenance.gc.deletion import ObjectDeleter, batches, delete_dead_packs, delete_orphans
from cas3fs.maintenance.gc.orphans import DELETABLE, OrphanReferences, find_references
from cas3fs.maintenance.gc.plan import GcPlan, PackDeaths
from cas3fs.maintenance.gc.planner import Planner
from cas3fs.maintenance.gc.reencryption import finish_reencryption, keys_of_snapshot
from cas3fs.maintenance.gc.request import GcResult, GcSettings
from cas3fs.maintenance.gc.unreferenced_blocks import drop_unreferenced_blocks
from cas3fs.maintenance.inventory import StoreInventory
from cas3fs.maintenance.snapshot_index import recorded_packs
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.pages import find_lost_pages
from cas3fs.values import SnapshotNumber

_log = logging.getLogger(__name__)


class GarbageCollector:
    """Collects the garbage of one open volume; one gc at a time."""

    def __init__(self, context: VolumeContext) -> None:
        self._context = context
        self._planner = Planner(context)
        self._mutex = threading.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Ends a running gc before its next step; the next gc finishes its work."""
        self._stopping = True

    def plan(self, settings: GcSettings, report: ProgressCallback = ignore_progress) -> GcPlan:
        """Plans what `collect` would do now. Nothing is changed, except that everything written is committed on this
        machine.

        Raises:
            StoreError, SnapshotError: the store could not be listed or read completely.
            IndexDatabaseError, OSError: the local disk failed.
        """
        self._check(settings)
        with self._alone(), self._context.publisher.exclusively():
            return self._planner.plan(settings, self._stoppable(report))

    def collect(self, settings: GcSettings, report: ProgressCallback = ignore_progress) -> GcResult:
        """Deletes what can be deleted.

        A block that cannot be read, and an object that the store refuses to delete, do not end it: see `GcResult`.

        Raises:
            StoreError, SnapshotError: the store could not be listed, read or written. Nothing is lost, and another gc
                goes on.
            Fenced: another writer has taken over; the same.
            IndexDatabaseError, OSError: the local disk failed, or the index has lost chunks; the same.
        """
        publisher, step = self._context.publisher, self._stoppable(report)
        self._check(settings)
        with self._alone():
            step({"what": "publishing"})
            with publisher.exclusively():
                publisher.publish_locked(report)
                next_ordinal = ordinal_of(publisher.next_number)
            selection = self._planner.select_packs(settings, next_ordinal)
            compactor = PackCompactor(self._context, step)
            if selection.packs:
                compactor.rewrite([use.id for use in selection.packs], selection.live_bytes)
            with publisher.exclusively():
                result = self._delete_garbage(settings, report)
            return attrs.evolve(
                result,
                rewritten_packs=compactor.packs,
                rewritten_bytes=compactor.copied_bytes,
                unreadable_packs=compactor.unreadable,
                left=tuple(attrs.asdict(one) for one in selection.skipped),
                problems=(*compactor.problems, *result.problems),
            )

    def _delete_garbage(self, settings: GcSettings, report: ProgressCallback) -> GcResult:
        """Steps 3 to 10: drops unreferenced blocks, publishes, and deletes dead packs and orphans."""
        context, planner, step = self._context, self._planner, self._stoppable(report)
        inventory = planner.take_inventory(step)
        classifier = planner.classifier(inventory, settings)
        step({"what": "merging"})
        found = planner.find_orphans(inventory, inventory.snapshots, classifier)
        references = find_references(found, inventory.snapshots, context)
        self._merge_needed_packs(inventory, references)
        next_ordinal = ordinal_of(context.publisher.next_number)
        dropped = drop_unreferenced_blocks(context.filesystem, next_ordinal, step)
        self._correct_deaths(inventory, next_ordinal)
        step({"what": "publishing"})
        newest = context.publisher.publish_locked(
            report, even_unchanged=settings.reencrypt and self._is_outdated(inventory.snapshots)
        )
        step({"what": "listing snapshots"})
        retained = self._retained_snapshots(inventory, newest)
        orphans = planner.find_orphans(inventory, retained, classifier)
        deletable = {one.key: one.size for one in orphans if one.status == DELETABLE and not references.may_need(one)}
        deleter = ObjectDeleter(context.store, context.publisher.check_fence)
        needed_by = [*(one.number for one in retained), *inventory.unreadable]
        freed, held = delete_dead_packs(context.filesystem, needed_by, SnapshotNumber.parse(newest), deleter, step)
        deleted_orphans = delete_orphans(deletable, deleter, step)
        reencryption = {}
        if settings.reencrypt and context.keys is not None:
            reencryption = finish_reencryption(context, context.keys, step)
        return GcResult(
            dropped_blocks=dropped,
            deleted_packs=freed.count,
            freed_bytes=freed.bytes,
            deleted_strays=deleted_orphans.count,
            stray_bytes=deleted_orphans.bytes,
            rewritten_packs=0,
            rewritten_bytes=0,
            held_bytes=held.bytes,
            strays_left=len(orphans) - deleted_orphans.count,
            snapshot=newest,
            hurt_snapshots=self._snapshots_without_pages(inventory),
            refused_objects=deleter.refused,
            reencryption=reencryption,
            problems=(*deleter.problems, *_missing_snapshot_problems(inventory)),
        )

    def _check(self, settings: GcSettings) -> None:
        if settings.reencrypt and self._context.keys is None:
            raise UsageError(f"the volume at {self._context.store.url} is not encrypted, so there are no keys")

    def _is_outdated(self, snapshots: Sequence[SnapshotInfo]) -> bool:
        """Whether the newest snapshot has objects that are sealed with an older generation of the keys."""
        store = self._context.store
        keys = [key for one in snapshots[-1:] for key in keys_of_snapshot(one)]
        return any(store.generation_of(key) < store.generation for key in keys)

    def _merge_needed_packs(self, inventory: StoreInventory, references: OrphanReferences) -> None:
        """Enters in the index the packs that diverged snapshots, or those of the orphans' epochs, may need."""
        context = self._context
        for one in inventory.diverged:
            self._merge(recorded_packs(context.archive, one.id, context.scratch), one.number)
        for number, rows in references.rows.items():
            self._merge(rows, number)

    def _merge(self, rows: Iterable[PackRow], number: SnapshotNumber) -> None:
        for batch in batches(rows):
            with self._context.filesystem.index_transaction() as index:
                index.garbage.merge_packs(batch, ordinal_of(number))

    def _correct_deaths(self, inventory: StoreInventory, next_ordinal: int) -> None:
        """Moves the deaths of packs before the newest snapshot if that does not reference them."""
        filesystem = self._context.filesystem
        with (
            DeadPackScan(filesystem.index_path) as dead,
            self._planner.newest_references(inventory, next_ordinal, dead) as references,
        ):
            if references is None:
                return
            deaths = PackDeaths(next_ordinal, [ordinal_of(one.number) for one in inventory.snapshots], references)
            earlier = (pack.name for pack in dead if deaths.of_pack(pack) < pack.died)
            for batch in batches(earlier):
                with filesystem.index_transaction() as index:
                    index.garbage.set_died(batch, references.ordinal)

    def _retained_snapshots(self, inventory: StoreInventory, newest: str) -> list[SnapshotInfo]:
        """The snapshots that are retained now: those of the inventory, and those that came since.

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

    def _snapshots_without_pages(self, inventory: StoreInventory) -> tuple[str, ...]:
        """The snapshots of which the store has lost pages; never the newest one, as it was just published."""
        sizes = {pages: info.size for pages, info in inventory.listing.pages.items()}
        uses = {use for info in inventory.snapshots for use in info.pages}
        lost = find_lost_pages(self._context.store, uses, sizes)
        hurt = [one.id for one in inventory.snapshots if any(use.id in lost for use in one.pages)]
        if hurt:
            _log.error(
                "the store has lost pages of %d snapshots, which cannot be restored: %s; `cas3fs fsck` shows the pages",
                len(hurt),
                ", ".join(hurt),
            )
        return tuple(hurt)

    # -- one gc at a time, and its end

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._mutex.acquire(blocking=False):
            raise VolumeError("a gc of this volume is running already")
        try:
            yield
        finally:
            self._mutex.release()

    def _stoppable(self, report: ProgressCallback) -> ProgressCallback:
        """A callback that ends the gc if it is to stop."""

        def step(progress: Mapping[str, Any]) -> None:
            if self._stopping:
                raise VolumeError("the gc was stopped, as the volume is being closed; the next one goes on")
            report(progress)

        return step


def _missing_snapshot_problems(inventory: StoreInventory) -> tuple[str, ...]:
    """A sentence on the missing snapshots, for people; empty if there are none."""
    missing = inventory.missing_snapshots
    if not missing:
        return ()
    more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    return (
        f"the store has lost snapshot {missing[0]}{more}, which nobody deleted here: what it may need is kept; "
        "`cas3fs snapshot delete` gives up one, `cas3fs fsck --repair` all",
    )
