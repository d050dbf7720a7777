# SPDX-License-Identifier: GPL-3.0-or-later
"""Removal: deleting snapshots, and the pages entries that then nobody needs. First a plan, which is a value and
changes nothing, then its execution.

A pages entry goes when no manifest that stays refers to it and it is *explained*: its number belongs to an attempt
that is over, so that no manifest naming it can still come. The caller knows which are. So what an attempt left that
broke off goes with the next removal, and so does what a removal that broke off left.

Every manifest that stays must be readable, or nothing is planned: an unreadable one may refer to anything.

Order: the plan; leave is asked for (that we are the newest writer still); manifests; pages. The caller sees to it that
nothing is published meanwhile.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from cas3fs.entries.kinds import PagesEntry, SnapshotEntry
from cas3fs.errors import DeleteFailed, SnapshotError, SnapshotMissing
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo, bypassed_by, snapshots_of_pages
from cas3fs.values import PagesNumber, SnapshotNumber

IsAttemptOver = Callable[[SnapshotNumber], bool]


@attrs.frozen
class RemovalPlan:
    """What is to be deleted."""

    snapshots: tuple[str, ...]
    pages: tuple[str, ...]
    """Ids of pages entries."""
    freed_bytes: int
    """Of those pages entries; packs are freed by a gc."""

    @property
    def is_empty(self) -> bool:
        return not self.snapshots and not self.pages


@attrs.frozen
class SnapshotInventory:
    """The pages entries and snapshots that there are.

    sizes: of pages objects, by id. damaged: why manifests cannot be read, by id. denied: ids of snapshots that must be
    there and that the store denies.
    """

    sizes: Mapping[str, int]
    snapshots: Sequence[SnapshotInfo]
    damaged: Mapping[str, SnapshotError]
    denied: frozenset[str] = frozenset()

    @property
    def lost(self) -> SnapshotNumber | None:
        """The newest snapshot that is denied, or that the line has gone around and of which only pages are left: it may
        need any pages before. None where there is none."""
        there = {one.id for one in self.snapshots} | set(self.damaged)
        left = (bypassed_by(self.snapshots) - there) & snapshots_of_pages(self.sizes) | self.denied
        return max(map(SnapshotNumber.parse, left), default=None)

    @property
    def latest_epoch(self) -> int:
        """The greatest epoch that any of it is of; 0 for none."""
        ids = snapshots_of_pages((*self.sizes, *self.damaged, *(one.id for one in self.snapshots)))
        return max((SnapshotNumber.parse(one).epoch for one in ids), default=0)


def take_inventory(archive: SnapshotArchive) -> SnapshotInventory:
    """Lists both: two LISTs, and a GET for each manifest that was not read before. What a listing of the snapshots
    lacks and something else names is asked for, once.

    Raises:
        StoreError: the store failed.
    """
    # Listed before the manifests: what a manifest refers to that is put in between is not in this list.
    sizes = {one.id: one.size for one in archive.shelf.listed(PagesEntry)}
    damaged: dict[str, SnapshotError] = {}
    snapshots = archive.list(damaged.__setitem__, pages=sizes)
    return SnapshotInventory(sizes, snapshots, damaged, frozenset(archive.tracker.missing()))


def plan_removal(
    archive: SnapshotArchive,
    snapshot_ids: Collection[str],
    is_explained: IsAttemptOver,
    stock: SnapshotInventory | None = None,
) -> RemovalPlan:
    """The plan to delete those snapshots, damaged ones among them, and what only they needed; `stock` is what there is,
    if that was taken already.

    Raises:
        SnapshotMissing: there is none of such an id.
        SnapshotError: one that stays cannot be read.
        StoreError: the store failed.
    """
    if stock is None:
        stock = take_inventory(archive)
    sizes = stock.sizes
    known = {one.id for one in stock.snapshots} | set(stock.damaged) | set(archive.tracker.missing())
    missing = sorted(set(snapshot_ids) - known)
    if missing:
        raise SnapshotMissing(f"{archive.shelf.store.url} has no snapshot {missing[0]}")
    needed = _needed(stock, snapshot_ids)
    unused = [one for one in sizes if one not in needed and _is_over(one, is_explained)]
    return RemovalPlan(tuple(sorted(snapshot_ids)), tuple(unused), sum(sizes[one] for one in unused))


def execute_removal(archive: SnapshotArchive, plan: RemovalPlan, ask_leave: Callable[[], None]) -> None:
    """Delete what `plan` says, after `ask_leave`, which raises if it may not be. A manifest that the store refuses to
    delete keeps the pages that it needs, and everything else goes.

    Raises:
        DeleteFailed: some objects are left, as the store refused; all others are gone.
        StoreError: the store failed; removing again is safe.
    """
    if plan.is_empty:
        return
    ask_leave()
    pages, refusal = set(plan.pages), None
    try:
        archive.delete(plan.snapshots)
    except DeleteFailed as error:
        refusal = error
        pages = _without_needed(pages, archive, error)
    archive.shelf.store.delete_many([PagesEntry.key_of(one) for one in plan.pages if one in pages])
    if refusal is not None:
        raise refusal


def _without_needed(pages: Collection[str], archive: SnapshotArchive, refusal: DeleteFailed) -> set[str]:
    """Those of `pages` that no snapshot needs of which the manifest was not deleted; none where one cannot be read, or
    nobody knows which they are."""
    left = set(pages) if refusal.keys else set()
    for key in refusal.keys:
        try:
            left -= {use.id for use in archive.load(key.removeprefix(SnapshotEntry.prefix())).pages}
        except SnapshotMissing:
            continue
        except SnapshotError:
            return set()
    return left


def _is_over(pages: str, is_explained: IsAttemptOver) -> bool:
    """Whether a pages entry is of an attempt that is over; an object of another kind is of none."""
    try:
        return is_explained(PagesNumber.parse(pages).snapshot)
    except ValueError:
        return False


def _needed(stock: SnapshotInventory, going: Collection[str]) -> set[str]:
    """The pages entries that all snapshots but those refer to."""
    for snapshot, error in stock.damaged.items():
        if snapshot not in going:
            raise SnapshotError(
                f"nothing is deleted, as snapshot {snapshot} cannot be read and may need anything: {error}; "
                "`cas3fs snapshot delete` removes it"
            ) from error
    return {use.id for info in stock.snapshots if info.id not in going for use in info.pages}
