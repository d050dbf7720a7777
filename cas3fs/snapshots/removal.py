# SPDX-License-Identifier: GPL-3.0-or-later
"""Removal: deletes snapshots, and the pages entries that only they need. First a plan, which is a value and changes
nothing, then its execution.

A pages entry is deleted when no remaining manifest refers to it, and the attempt that stored it is over, so that no
manifest that refers to it can still be stored. The caller knows which attempts are over. So the next removal also
deletes what an interrupted attempt to publish, or an interrupted removal, has left.

Every remaining manifest must be readable, or nothing is planned: an unreadable one may refer to any pages entry.

Order of deletes: check that this writer is still the newest; manifests; pages entries. The caller prevents that
anything is published meanwhile.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from cas3fs.entries.kinds import PagesEntry, SnapshotEntry
from cas3fs.errors import DeleteFailed, SnapshotError, SnapshotMissing
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo, bypassed_by, no_such_snapshot, snapshots_of_pages
from cas3fs.values import PagesNumber, SnapshotNumber

IsAttemptOver = Callable[[SnapshotNumber], bool]


@attrs.frozen
class RemovalPlan:
    """The objects to delete."""

    snapshots: tuple[str, ...]
    pages: tuple[str, ...]
    """Ids of pages entries."""
    freed_bytes: int
    """Size of these pages entries; packs are freed by a gc."""

    @property
    def is_empty(self) -> bool:
        return not self.snapshots and not self.pages


@attrs.frozen
class SnapshotInventory:
    """The pages entries and snapshots of a volume."""

    sizes: Mapping[str, int]
    """Sizes of the pages entries, by id."""
    snapshots: Sequence[SnapshotInfo]
    damaged: Mapping[str, SnapshotError]
    """The reasons why manifests cannot be read, by id."""
    missing: frozenset[str] = frozenset()
    """Ids of snapshots that must exist and that the store does not have."""

    @property
    def newest_lost(self) -> SnapshotNumber | None:
        """The newest snapshot that is missing, or was bypassed and has only pages entries left; None if there is none.

        It may need any earlier pages entry.
        """
        existing = {one.id for one in self.snapshots} | set(self.damaged)
        lost = (bypassed_by(self.snapshots) - existing) & snapshots_of_pages(self.sizes) | self.missing
        return max(map(SnapshotNumber.parse, lost), default=None)

    @property
    def latest_epoch(self) -> int:
        """The greatest epoch of any object here; 0 if there are none."""
        ids = snapshots_of_pages((*self.sizes, *self.damaged, *(one.id for one in self.snapshots)))
        return max((SnapshotNumber.parse(one).epoch for one in ids), default=0)


def take_snapshot_inventory(archive: SnapshotArchive) -> SnapshotInventory:
    """List pages entries and snapshots.

    Makes two LISTs, and a GET for each manifest that was not read before. A snapshot that the listing lacks, and that
    another object names, is looked up once.

    Raises:
        StoreError: the store failed.
    """
    # Before the manifests: pages entries that are stored in between are not in this list.
    sizes = {one.id: one.size for one in archive.shelf.list_entries(PagesEntry)}
    damaged: dict[str, SnapshotError] = {}
    snapshots = archive.list(damaged.__setitem__, pages=sizes)
    return SnapshotInventory(sizes, snapshots, damaged, frozenset(archive.tracker.missing()))


def plan_removal(
    archive: SnapshotArchive,
    snapshot_ids: Collection[str],
    is_attempt_over: IsAttemptOver,
    inventory: SnapshotInventory | None = None,
) -> RemovalPlan:
    """Plan to delete these snapshots, which may be damaged, and the pages entries that nothing else needs.

    Args:
        archive: the snapshots.
        snapshot_ids: the snapshots to delete.
        is_attempt_over: whether no manifest of that number can still be stored.
        inventory: if the caller has taken it already.

    Raises:
        SnapshotMissing: there is no snapshot of such an id.
        SnapshotError: a remaining one cannot be read.
        StoreError: the store failed.
    """
    if inventory is None:
        inventory = take_snapshot_inventory(archive)
    sizes = inventory.sizes
    known = {one.id for one in inventory.snapshots} | set(inventory.damaged) | set(archive.tracker.missing())
    unknown = sorted(set(snapshot_ids) - known)
    if unknown:
        raise no_such_snapshot(archive.shelf.store.url, unknown[0])
    needed = _needed_without(inventory, snapshot_ids)
    unused = [one for one in sizes if one not in needed and _is_over(one, is_attempt_over)]
    return RemovalPlan(tuple(sorted(snapshot_ids)), tuple(unused), sum(sizes[one] for one in unused))


def execute_removal(archive: SnapshotArchive, plan: RemovalPlan, check_permitted: Callable[[], None]) -> None:
    """Execute a plan.

    If the store refuses to delete a manifest, the pages entries that it needs stay, and all others are deleted.

    Args:
        archive: the snapshots.
        plan: the objects to delete.
        check_permitted: called first; raises if nothing may be deleted any more.

    Raises:
        DeleteFailed: the store refused to delete some objects; all others are deleted.
        StoreError: the store failed; executing again is safe.
    """
    if plan.is_empty:
        return
    check_permitted()
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
    """Return `pages` without those that undeleted manifests need.

    Returns none if such a manifest cannot be read, or if it is unknown which were not deleted.
    """
    unneeded = set(pages) if refusal.keys else set()
    for key in refusal.keys:
        try:
            unneeded -= {use.id for use in archive.load(key.removeprefix(SnapshotEntry.prefix())).pages}
        except SnapshotMissing:
            continue
        except SnapshotError:
            return set()
    return unneeded


def _is_over(pages: str, is_attempt_over: IsAttemptOver) -> bool:
    """Return whether the attempt that stored a pages entry is over; False for an object with another kind of name."""
    try:
        return is_attempt_over(PagesNumber.parse(pages).snapshot)
    except ValueError:
        return False


def _needed_without(inventory: SnapshotInventory, deleted: Collection[str]) -> set[str]:
    """Return the pages entries that all snapshots but those `deleted` refer to."""
    for snapshot, error in inventory.damaged.items():
        if snapshot not in deleted:
            raise SnapshotError(
                f"nothing is deleted, because snapshot {snapshot} cannot be read and may need any data: {error}; "
                "`cas3fs snapshot delete` deletes that snapshot"
            ) from error
    return {use.id for info in inventory.snapshots if info.id not in deleted for use in info.pages}
