# SPDX-License-Identifier: GPL-3.0-or-later
"""Deletes objects of a volume: dead packs with their rows in the index, and orphans.

Objects are deleted in batches, each after a check that no other writer has taken over. An object that the store refuses
to delete does not keep the others from being deleted.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from cas3fs.blockstore.pack_store import pack_key, pack_name_in
from cas3fs.entries.kinds import PagesEntry
from cas3fs.errors import DeleteFailed
from cas3fs.filesystem import FileSystem
from cas3fs.index import DeadPack, ordinal_of
from cas3fs.index.scans import DeadPackScan
from cas3fs.maintenance.context import ProgressCallback
from cas3fs.maintenance.gc.plan import Tally
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.base import DELETE_BATCH
from cas3fs.values import SnapshotNumber

Item = TypeVar("Item")


class ObjectDeleter:
    """Deletes objects, in batches.

    Args:
        check_fence: called before each batch; raises if nothing may be deleted any more.

    Attributes:
        refused: the number of objects that the store has refused to delete.
    """

    def __init__(self, store: ObjectStore, check_fence: Callable[[], None]) -> None:
        self._store = store
        self._check_fence = check_fence
        self.refused = 0
        self._reason = ""

    def delete(self, keys: Sequence[str]) -> Sequence[str]:
        """Deletes the objects of one batch.

        Returns:
            The keys of those that are gone now.

        Raises:
            Fenced: another writer has taken over; nothing of the batch is deleted.
            StoreError: the store failed; any part of the batch may be deleted.
        """
        self._check_fence()
        try:
            self._store.delete_many(keys)
        except DeleteFailed as error:
            refused = set(error.keys) or set(keys)
            self.refused += len(refused)
            self._reason = self._reason or str(error)
            return [key for key in keys if key not in refused]
        return keys

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence on the refused objects, for people; empty if there are none."""
        if not self.refused:
            return ()
        return (f"{self.refused:,} objects could not be deleted; a later gc tries again: {self._reason}",)


def delete_dead_packs(
    filesystem: FileSystem,
    needed_by: Iterable[SnapshotNumber],
    newest: SnapshotNumber,
    deleter: ObjectDeleter,
    report: ProgressCallback,
) -> tuple[Tally, Tally]:
    """Deletes the packs that are dead in the newest snapshot and that no other snapshot needs, and then their rows. The
    row of a pack that the store refuses to delete stays, so that the next gc finds it again.

    Args:
        needed_by: the numbers of all snapshots that may need a pack.

    Returns:
        The packs that were deleted, and the dead packs that are held by a snapshot.
    """
    ordinals = sorted(ordinal_of(one) for one in needed_by)
    published = ordinal_of(newest)
    freed, held = Tally(), Tally()

    def is_free(pack: DeadPack) -> bool:
        return pack.died <= published and bisect_left(ordinals, pack.born) >= bisect_left(ordinals, pack.died)

    filesystem.commit()
    with DeadPackScan(filesystem.index_path) as dead:
        total = sum(pack.size for pack in dead if is_free(pack))
        for pack in dead:
            if not is_free(pack):
                held.add(pack.size)
        for batch in batches(filter(is_free, dead)):
            report({"what": "deleting packs", "done": freed.bytes, "total": total})
            sizes = {pack.name: pack.size for pack in batch}
            with filesystem.index_transaction() as index:
                still_dead = index.garbage.still_dead(sizes, published)
            gone = [pack_name_in(key) for key in deleter.delete([pack_key(name) for name in still_dead])]
            report({"what": "deleting rows of packs"})
            with filesystem.index_transaction() as index:
                index.garbage.delete_packs(gone)
            for name in gone:
                freed.add(sizes[name])
    filesystem.commit()
    return freed, held


def delete_orphans(sizes: Mapping[str, int], deleter: ObjectDeleter, report: ProgressCallback) -> Tally:
    """Deletes the orphans with these keys and sizes.

    Returns:
        Those that were deleted.
    """
    # pages after everything else: an object that a manifest could refer to is deleted last
    ordered = sorted(sizes, key=lambda key: (key.startswith(PagesEntry.prefix()), key))
    deleted = Tally()
    for batch in batches(ordered):
        report({"what": "deleting orphans"})
        for key in deleter.delete(batch):
            deleted.add(sizes[key])
    return deleted


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists of `DELETE_BATCH`; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, DELETE_BATCH)):
        yield batch
