# SPDX-License-Identifier: GPL-3.0-or-later
"""gc: frees what nothing names.

The steps of `Collector.collect`, and what is so when the process dies after each. All but the first two happen while
nobody else publishes or deletes snapshots. Whatever is deleted is explained, was listed and judged completely before
the first deletion, and was known to be dead by a snapshot that was published before.

 1. publish: everything written is stored and named by a snapshot. *A snapshot more.*
 2. rewrite packs that are mostly empty, where that pays (`choosing`, `rewriting`). *Some moved: they lie in either
    pack, and the index says where.* One in which a block cannot be read stays as it is, and ends nothing.
 3. survey the store: one complete listing, every manifest read. What is there and not known is judged, and so is what
    should be there. *Nothing.*
 4. merge in what snapshots off the line of writers need, and snapshots of an epoch from which packs are there that the
    index does not know: it may have gone on from an older state than those had. *Rows that keep packs alive, which the
    next gc merges again.*
 5. check that the chunks in the index match its checksums (`cas3fs.index.checksums`), or end: where some are
    lost, what they name would be taken for dead. Then drop dead blocks from the index, in batches, each decided
    anew under the file system's lock; mark packs that have no block left as dead from the next snapshot on
    (`dropping`). *Some are dropped: a storer that was about to name one looks it up in its own transaction, finds it
    gone, and stores it again; the rest goes with the next gc.*
 6. look into the newest snapshot, where that pays (`looking`). *Nothing, or an earlier death that is as true.*
 7. publish a snapshot in which they are dead; it is acknowledged, so no other writer had taken over by then. *The
    objects are still there, marked dead: the next gc deletes them.*
 8. list the snapshots again: what was just published is there, or no listing is believed. Of what was not known in
    step 3, what is known by now, or in flight, is left alone. *Nothing.*
 9. delete packs, in batches: the fence is checked, the objects go, then their rows. *Objects are gone whose rows say
    that they are dead: deleting them again does no harm, as no name of a pack ever recurs.* The row of an object that
    the store refuses to delete stays, and all others go (`deleting`).
10. delete strays, in batches, after the fence was checked. *Some are left for the next gc.*

Another writer who takes over while step 9 deletes goes on from a snapshot that was published in step 7 or later, as he
lists the snapshots after his claim, and we asked for claims after our snapshot: no snapshot that he could go on from
needs what is deleted.

Memory: the manifests, and some MiB. Packs and blocks are gone through by scans (`cas3fs.index.scans`); of strays, and
of packs to be rewritten, a bounded number is held, and the next gc goes on with the rest. The file system's lock is
held for some milliseconds at a time.
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

from cas3fs.entries.kinds import PagesEntry
from cas3fs.errors import EntryError, ObjectMissing, SnapshotError, StoreError, VolumeError
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
from cas3fs.maintenance.base import Premises, Report, silent
from cas3fs.maintenance.choosing import Stays
from cas3fs.maintenance.deleting import Deleter
from cas3fs.maintenance.dropping import drop_dead
from cas3fs.maintenance.looking import check_sums, known_packs, needed_packs
from cas3fs.maintenance.losses import known_losses
from cas3fs.maintenance.naming import find_named
from cas3fs.maintenance.plans import DELETE_BATCH, Deaths, Facts, GcPlan, GcSettings, Sum, choose_rewrites, make_plan
from cas3fs.maintenance.rewriting import Rewriter
from cas3fs.maintenance.strays import COLLECT, NAMED, Judge, Stray, find_strays
from cas3fs.maintenance.survey import (
    Survey,
    key_of_pack,
    name_of_pack,
    store_now,
    take_aside,
    take_survey,
)
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.pages import find_lost_pages
from cas3fs.snapshots.retention import current_policy, remaining_lifetimes
from cas3fs.values import PagesNumber, SnapshotNumber

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


@attrs.frozen
class GcResult:
    """What a gc has done; sizes are in bytes."""

    dropped_blocks: int
    deleted_packs: int
    freed_bytes: int
    deleted_strays: int
    stray_bytes: int
    rewritten_packs: int
    rewritten_bytes: int
    held_bytes: int
    """Of dead packs that snapshots may still need."""
    strays_left: int
    snapshot: str
    """The newest snapshot."""
    hurt_snapshots: tuple[str, ...] = ()
    """Those of which the store has lost pages: they cannot be restored."""
    refused_objects: int = 0
    """What the store did not let it delete; a later gc tries again."""
    unreadable_packs: int = 0
    """Sparse packs that stay as they are, since a block in them cannot be read."""
    left: tuple[Mapping[str, Any], ...] = ()
    """Sparse packs that were not to be rewritten, and why: as `Left`."""
    problems: tuple[str, ...] = ()
    """What a person should look at, a sentence each; everything else was done."""

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return attrs.asdict(self)


class Collector:
    """Collects the garbage of one open volume; one gc at a time."""

    def __init__(self, premises: Premises) -> None:
        self._at = premises
        self._mutex = threading.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Ends a gc under way before its next step; the next one finishes its work."""
        self._stopping = True

    # -- the plan

    def plan(self, settings: GcSettings, report: Report = silent) -> GcPlan:
        """What `collect` would do now; nothing is changed but that what was written is committed on this machine.

        Raises:
            StoreError, SnapshotError: the store could not be listed or read completely.
            IndexDatabaseError, OSError: the local disk failed.
        """
        with self._alone(), self._at.publishing.exclusively():
            self._step(report, "planning")
            self._at.filesystem.complete_index()
            with IndexReader(self._at.filesystem.index.path) as reader:
                check_sums(reader)
            survey = self._survey(report)
            strays = self._strays(survey, survey.snapshots, self._judge(survey, settings))
            facts = Facts(
                uses=(),
                young=ordinal_of(self._at.publishing.next_number),
                snapshots=survey.snapshots,
                looked=None,
                strays=self._unnamed(survey, strays),
                list_requests=survey.listing.requests,
                stays=self._stays(survey.snapshots, survey.aside),
            )
            with PackUseScan(self._at.filesystem.index.path) as uses:
                dead = (use for use in uses if use.born < facts.young and not use.live_blocks)
                with self._looked(survey, facts.young, dead) as looked:
                    return make_plan(attrs.evolve(facts, uses=uses, looked=looked), settings)

    def _stays(self, snapshots: Sequence[SnapshotInfo], aside: Sequence[SnapshotNumber]) -> Stays:
        """For how long the snapshots will need what is in use now."""
        archive = self._at.archive
        try:
            policy = current_policy(archive.shelf)
        except EntryError as error:
            _log.error("the policy cannot be read, so every snapshot is taken to stay for good: %s", error)
            return Stays(snapshots, {}, aside)
        strays = archive.diverged([one.id for one in snapshots])
        return Stays(snapshots, remaining_lifetimes(snapshots, policy, datetime.now(UTC), exempt=strays), aside)

    @contextmanager
    def _looked(
        self, survey: Survey, young: int, dead: Iterable[PackUse | DeadPack]
    ) -> Iterator[tuple[int, Container[str]] | None]:
        """What the newest snapshot really needs, if finding out costs less than it may free of `dead`."""
        if not survey.snapshots or survey.aside:
            yield None
            return
        newest = survey.snapshots[-1]
        number = ordinal_of(newest.number)
        deaths = Deaths(young, (), None)
        held_bytes = sum(pack.size for pack in dead if pack.born <= number < deaths.of(pack))
        with ExitStack() as resources:
            looked = None
            if held_bytes > newest.index_size:
                try:
                    needed = needed_packs(self._at.archive, newest.id, self._at.scratch)
                    looked = number, resources.enter_context(needed)
                except SnapshotError as error:
                    _log.error("snapshot %s cannot be looked into, and is taken to need all: %s", newest.id, error)
            yield looked

    def _judge(self, survey: Survey, settings: GcSettings) -> Judge:
        """Who says which strays may go; asked before anything more is published."""
        return Judge(
            epoch=self._at.epoch,
            overruled=self._at.epochs.overruled(),
            claimed=survey.listing.epochs,
            next_number=self._at.publishing.next_number,
            now=cache(partial(store_now, self._at.store)),
            grace_s=settings.grace_s,
            aside=max((one.epoch for one in survey.aside), default=0),
        )

    def _strays(self, survey: Survey, snapshots: Iterable[SnapshotInfo], judge: Judge) -> tuple[Stray, ...]:
        """Everything in the survey that is not known by now, with what `judge` says of it.

        Args:
            snapshots: all that are retained by now.
        """
        aside = set(survey.aside)
        pages = {use.id for info in snapshots for use in info.pages}
        pages |= {one for one in survey.listing.pages if PagesNumber.parse(one).snapshot in aside}
        if (lost := survey.lost) is not None:
            pages |= {one for one in survey.listing.pages if PagesNumber.parse(one).snapshot <= lost}
        return find_strays(survey.listing, self._still_unknown(survey.unknown), pages, judge)

    def _still_unknown(self, packs: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Those of the packs in a listing that nobody knows, the open group and what is on its way included."""
        filesystem = self._at.filesystem
        for batch in _some(packs, DELETE_BATCH):
            under_way = filesystem.unrecorded_packs()
            with filesystem.lock:
                unknown = set(filesystem.index.garbage.unknown_packs([name_of_pack(info.key) for info in batch]))
            yield from (info for info in batch if name_of_pack(info.key) in unknown - under_way)

    def _unnamed(self, survey: Survey, strays: Sequence[Stray]) -> tuple[Stray, ...]:
        """The same, but that no pack goes which a snapshot of its epoch names."""
        named = find_named(strays, survey.snapshots, self._at)
        return tuple(attrs.evolve(one, verdict=NAMED) if named.spares(one) else one for one in strays)

    # -- the execution

    def collect(self, settings: GcSettings, report: Report = silent) -> GcResult:
        """Frees what can be freed.

        Raises:
            StoreError, SnapshotError: the store could not be listed, read or written. Nothing is lost, and another gc
                goes on. What the store refuses to delete, and blocks that cannot be read, end nothing: see `GcResult`.
            Fenced: another writer has taken over; the same.
            IndexDatabaseError, OSError: the local disk failed, or the index has lost chunks; the same.
        """
        with self._alone():
            self._step(report, "publishing")
            with self._at.publishing.exclusively():
                self._at.publishing.publish_held(report)
                young = ordinal_of(self._at.publishing.next_number)
            rewriter = self._rewrite(settings, young, report)
            with self._at.publishing.exclusively():
                result = self._collect(settings, report)
            return attrs.evolve(
                result,
                rewritten_packs=rewriter.packs,
                rewritten_bytes=rewriter.copied_bytes,
                unreadable_packs=rewriter.unreadable,
                left=tuple(attrs.asdict(one) for one in rewriter.left),
                problems=(*rewriter.problems, *result.problems),
            )

    def _rewrite(self, settings: GcSettings, young: int, report: Report) -> Rewriter:
        rewriter = Rewriter(self._at, lambda told: self._told(report, told))
        if settings.min_live <= 0:
            return rewriter
        with self._at.filesystem.lock:
            lost = known_losses(self._at.filesystem.index)
        damaged: list[str] = []
        snapshots = self._at.archive.list(lambda one, error: damaged.append(one))
        if damaged:  # the survey says so, and ends the gc
            return rewriter
        stays = self._stays(snapshots, take_aside(self._at.store))
        with PackUseScan(self._at.filesystem.index.path) as uses:
            chosen = choose_rewrites((use for use in uses if use.name not in lost), settings, stays, young)
        rewriter.left = chosen.left
        if chosen.packs:
            rewriter.rewrite([use.id for use in chosen.packs], chosen.live_bytes)
        return rewriter

    def _collect(self, settings: GcSettings, report: Report) -> GcResult:
        at = self._at
        survey = self._survey(report)
        judge = self._judge(survey, settings)
        self._step(report, "merging")
        for one in survey.off_line:
            self._merge(known_packs(at.archive, one.id, at.scratch), one.number)
        named = find_named(self._strays(survey, survey.snapshots, judge), survey.snapshots, at)
        for number, rows in named.rows.items():
            self._merge(rows, number)
        young = ordinal_of(at.publishing.next_number)
        dropped = drop_dead(at.filesystem, young, lambda told: self._told(report, told))
        self._settle_deaths(survey, young)
        self._step(report, "publishing")
        newest = at.publishing.publish_held(report)
        self._step(report, "listing snapshots")
        retained = self._retained(survey, newest)
        strays = self._strays(survey, retained, judge)
        deleter = Deleter(at.store, at.publishing.check_fence)
        freed, held = self._delete_packs([one.number for one in retained], survey.aside, newest, deleter, report)
        unnamed = (stray for stray in strays if stray.verdict == COLLECT and not named.spares(stray))
        removed = self._delete_strays({stray.key: stray.size for stray in unnamed}, deleter, report)
        return GcResult(
            dropped_blocks=dropped,
            deleted_packs=freed.count,
            freed_bytes=freed.bytes,
            deleted_strays=removed.count,
            stray_bytes=removed.bytes,
            rewritten_packs=0,
            rewritten_bytes=0,
            held_bytes=held.bytes,
            strays_left=len(strays) - removed.count,
            snapshot=newest,
            hurt_snapshots=self._hurt(survey),
            refused_objects=deleter.refused,
            problems=(*((deleter.problem,) if deleter.refused else ()), *_problems_of(survey)),
        )

    def _retained(self, survey: Survey, newest: str) -> list[SnapshotInfo]:
        """The snapshots that are retained by now: those of the survey, and what came since.

        Raises:
            StoreError: the one that was just published is not listed.
            SnapshotError: one cannot be read.
        """
        now = self._at.archive.list()
        if newest not in {one.id for one in now}:
            raise StoreError(
                f"{self._at.store.url} does not list snapshot {newest}, which is there: nothing is deleted"
            )
        return list(({one.id: one for one in survey.snapshots} | {one.id: one for one in now}).values())

    def _survey(self, report: Report) -> Survey:
        """A survey in which everything is that must be there; where one thing lacks, anything may."""
        self._step(report, "listing")
        at, filesystem = self._at, self._at.filesystem
        with filesystem.lock:
            lost = known_losses(filesystem.index) | {LOST_PACK}
        filesystem.commit()
        with PackScan(filesystem.index.path) as known:
            survey = take_survey(at.store, at.archive, known, lost)
        if survey.listing.latest_epoch > at.epoch:
            at.epochs.note_epoch(survey.listing.latest_epoch)
            at.publishing.check_fence()
        if foreign := [one.id for one in survey.snapshots if one.number >= at.publishing.next_number]:
            raise SnapshotError(
                f"{at.store.url} has snapshot {foreign[-1]}, which is not of this mount, though it bears its epoch: "
                "was this machine set back to an earlier state? Nothing is deleted; unmount and mount again"
            )
        if unlisted := [one.id for one in survey.snapshots if one.id not in survey.listing.snapshots]:
            raise StoreError(f"{at.store.url} does not list snapshot {unlisted[0]}, which is there: nothing is deleted")
        if len(survey.listing.snapshots) != len(survey.snapshots):
            raise SnapshotError("two listings of the snapshots differ, so nothing is deleted")
        if survey.missing:
            self._note_lost(survey.missing)
            raise StoreError(
                f"{survey.missing_count} packs that are in use are not listed by {at.store.url}, such as "
                f"{survey.missing[0]}: nothing is deleted; `cas3fs fsck` tells more"
            )
        return survey

    def _hurt(self, survey: Survey) -> tuple[str, ...]:
        """The snapshots of which the store has lost pages; the newest is never among them, as it was just published."""
        sizes = {pages: info.size for pages, info in survey.listing.pages.items()}
        uses = {use for info in survey.snapshots for use in info.pages}
        lost = find_lost_pages(self._at.store, uses, sizes)
        hurt = [one.id for one in survey.snapshots if any(use.id in lost for use in one.pages)]
        if hurt:
            _log.error(
                "pages that %d snapshots need are lost: %s; `cas3fs fsck` tells more", len(hurt), ", ".join(hurt)
            )
        return tuple(hurt)

    def _note_lost(self, packs: Sequence[str]) -> None:
        """Of packs that a listing lacks, those that are not there by name either are lost."""
        for pack in packs:
            try:
                self._at.store.head(key_of_pack(pack))
            except ObjectMissing:
                self._at.filesystem.mark_pack_lost(pack)

    def _merge(self, rows: Iterable[PackRow], number: SnapshotNumber) -> None:
        """The index knows that the snapshot of that number may need these packs, some at a time."""
        filesystem = self._at.filesystem
        for batch in _some(rows, DELETE_BATCH):
            with filesystem.lock, filesystem.operation():
                filesystem.index.garbage.merge_packs(batch, ordinal_of(number))

    def _settle_deaths(self, survey: Survey, young: int) -> None:
        """Corrects the deaths of packs of which a look tells that the newest snapshot does not need them."""
        filesystem = self._at.filesystem
        with DeadPackScan(filesystem.index.path) as dead, self._looked(survey, young, dead) as looked:
            if looked is None:
                return
            deaths = Deaths(young, [ordinal_of(one.number) for one in survey.snapshots], looked)
            earlier = (pack.name for pack in dead if deaths.of(pack) < pack.died)
            for batch in _some(earlier, DELETE_BATCH):
                with filesystem.lock, filesystem.operation():
                    filesystem.index.garbage.set_died(batch, looked[0])

    # -- deleting

    def _delete_packs(
        self,
        retained: Iterable[SnapshotNumber],
        aside: Iterable[SnapshotNumber],
        newest: str,
        deleter: Deleter,
        report: Report,
    ) -> tuple[Sum, Sum]:
        """Deletes the packs that are dead in the snapshot `newest` and that no retained one needs, nor one put aside,
        and then their rows; gives how many went, and how many others are dead and held. The row of one that the store
        refuses stays, so that the next gc finds it dead again."""
        filesystem = self._at.filesystem
        numbers = sorted(ordinal_of(one) for one in (*retained, *aside))
        published = ordinal_of(SnapshotNumber.parse(newest))
        freed, held = Sum(), Sum()

        def is_free(pack: DeadPack) -> bool:
            return pack.died <= published and bisect_left(numbers, pack.born) >= bisect_left(numbers, pack.died)

        filesystem.commit()
        with DeadPackScan(filesystem.index.path) as dead:
            total = sum(pack.size for pack in dead if is_free(pack))
            for pack in dead:
                if not is_free(pack):
                    held.add(pack.size)
            for batch in _some(filter(is_free, dead), DELETE_BATCH):
                self._told(report, {"what": "deleting packs", "done": freed.bytes, "total": total})
                sizes = {pack.name: pack.size for pack in batch}
                with filesystem.lock:
                    going = filesystem.index.garbage.still_dead(sizes, published)
                gone = [name_of_pack(key) for key in deleter.delete([key_of_pack(name) for name in going])]
                self._step(report, "forgetting packs")
                with filesystem.lock, filesystem.operation():
                    filesystem.index.garbage.delete_packs(gone)
                for name in gone:
                    freed.add(sizes[name])
        filesystem.commit()
        return freed, held

    def _delete_strays(self, strays: Mapping[str, int], deleter: Deleter, report: Report) -> Sum:
        """Deletes these, of which the sizes are given; gives how many went."""
        # pages after everything else: an object that a manifest could refer to goes last
        ordered = sorted(strays, key=lambda key: (key.startswith(PagesEntry.prefix()), key))
        removed = Sum()
        for batch in _some(ordered, DELETE_BATCH):
            self._step(report, "deleting strays")
            for key in deleter.delete(batch):
                removed.add(strays[key])
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

    def _step(self, report: Report, what: str) -> None:
        self._told(report, {"what": what})

    def _told(self, report: Report, told: Any) -> None:
        if self._stopping:
            raise VolumeError("the gc was stopped, as the volume is being closed; the next one goes on")
        report(told)


def _problems_of(survey: Survey) -> tuple[str, ...]:
    """What a person is told of the snapshots."""
    if not survey.denied:
        return ()
    more = f", and {len(survey.denied) - 1:,} more" if len(survey.denied) > 1 else ""
    return (
        f"the store says that snapshot {survey.denied[0]}{more} is not there, though nobody deleted it here: what it "
        "may need is kept; `cas3fs snapshot delete` gives up one, and `cas3fs fsck --repair` all",
    )


def _some(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """`items` in lists of `count`; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, count)):
        yield batch
