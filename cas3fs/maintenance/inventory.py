# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of a store: everything that it holds, by one complete listing, and every manifest.

Taking it either succeeds completely or raises; nothing is ever concluded from a part of it. Packs are compared with the
index while they are listed, as both come by name, so that neither is ever held whole in memory (`PackComparison`). The
index was read before, so a pack of the index that is not listed is missing; a pack that was stored meanwhile may seem
unknown, so a gc asks the index again before it deletes one.

A store may leave objects out of a listing. That shows by what has to be listed: packs in use, and the snapshot that was
just published. A listing that is not in ascending order is not relied on either.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Final, Generic, TypeVar

import attrs

from cas3fs.blockstore.pack_store import epoch_of_pack, pack_key, pack_name_in
from cas3fs.entries.kinds import ALL_KINDS, EpochEntry, PagesEntry, SnapshotEntry
from cas3fs.epochs.epoch_entries import epoch_number, is_foreign_key
from cas3fs.errors import EntryError, SnapshotError, StoreError
from cas3fs.index import PackContents
from cas3fs.index.scans import PackScan
from cas3fs.maintenance.damaged_objects import is_snapshot_id, quarantined_numbers
from cas3fs.maintenance.store_clock import PROBE_PREFIX
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.objectstores.side_by_side import RANGE_OBJECTS, list_in_ranges
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.divergence import TakeoverBase, may_be_diverged
from cas3fs.snapshots.manifests import SnapshotInfo, bypassed_by, snapshots_of_pages
from cas3fs.values import PagesNumber, SnapshotNumber

MAX_HELD: Final = 20_000
"""Of unknown, missing and unrecognized objects, this many are held in memory; a later run finds the others."""
Item = TypeVar("Item")
_FOLDERS: Final = frozenset(kind.folder for kind in ALL_KINDS if kind.folder)
_CHECKED_FOLDERS: Final = frozenset({"packs", "pages", "snapshots", "epochs"})
"""In these an object with another kind of name is unrecognized."""
_LONE_KEYS: Final = frozenset({"volume"})


class _Capped(Generic[Item]):
    """The first `MAX_HELD` of many items, and how many they are."""

    def __init__(self) -> None:
        self.first: list[Item] = []
        self.count = 0

    def add(self, item: Item) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < MAX_HELD:
            self.first.append(item)


@attrs.frozen
class VolumeListing:
    """The objects of a volume by what they are.

    Attributes:
        newest_pack_epoch: the greatest epoch of a pack; 0 if there is none.
        pages, snapshots: by id.
        epochs: the numbers that were claimed.
        probes: leftovers of tests of how the store behaves.
        unrecognized: objects of no kind that this version knows, the first `MAX_HELD`.
        quarantined: the numbers of damaged snapshots whose manifests a repair has moved to ``damaged/``.
        count, size_bytes: of all objects.
    """

    pack_count: int
    newest_pack_epoch: int
    pages: Mapping[str, ObjectInfo]
    snapshots: Mapping[str, ObjectInfo]
    epochs: frozenset[int]
    probes: tuple[ObjectInfo, ...]
    unrecognized: tuple[ObjectInfo, ...]
    quarantined: tuple[SnapshotNumber, ...]
    count: int
    size_bytes: int

    @property
    def latest_epoch(self) -> int:
        """The greatest epoch of any object; 0 if there is none."""
        pages = (PagesNumber.parse(one).snapshot.epoch for one in self.pages)
        snapshots = (SnapshotNumber.parse(one).epoch for one in self.snapshots)
        return max(chain(self.epochs, (self.newest_pack_epoch,), pages, snapshots), default=0)

    @property
    def requests(self) -> int:
        """The number of requests that the listing takes."""
        return self.count // 1000 + 1


@attrs.frozen
class StoreInventory:
    """A listing, how its packs compare with the index, and what the manifests say.

    Attributes:
        unknown_packs: packs that the index did not know when the listing began, the first `MAX_HELD`.
        missing_packs: names of packs that are in use and were not listed, the first `MAX_HELD`.
        missing_pack_count: how many there are.
        snapshots: all, ascending.
        bases: the snapshots that take-overs went on from.
        missing_snapshots: ids of snapshots that nobody deleted and that the store has neither in a listing nor by name.
    """

    listing: VolumeListing
    unknown_packs: tuple[ObjectInfo, ...]
    missing_packs: tuple[str, ...]
    missing_pack_count: int
    snapshots: tuple[SnapshotInfo, ...]
    bases: tuple[TakeoverBase, ...]
    missing_snapshots: tuple[str, ...] = ()

    @property
    def unreadable(self) -> tuple[SnapshotNumber, ...]:
        """The numbers of snapshots that cannot be read: missing ones, and damaged ones that a repair has quarantined or
        that the lineage bypasses. What they need is kept until somebody deletes them."""
        there = {*self.listing.snapshots, *snapshots_of_pages(self.listing.pages)}
        bypassed = sorted(one for one in bypassed_by(self.snapshots) if one in there)
        return (*self.listing.quarantined, *map(SnapshotNumber.parse, (*bypassed, *self.missing_snapshots)))

    @property
    def keep_pages_through(self) -> SnapshotNumber | None:
        """The newest snapshot without a manifest, which may need pages of any snapshot before it: a missing one, or one
        that the lineage bypasses and of which only pages are left. None if there is none."""
        bypassed = bypassed_by(self.snapshots) - set(self.listing.snapshots)
        pages_left = bypassed & snapshots_of_pages(self.listing.pages)
        return max(map(SnapshotNumber.parse, pages_left | set(self.missing_snapshots)), default=None)

    @property
    def diverged(self) -> tuple[SnapshotInfo, ...]:
        """The snapshots that may have been published by a writer after another one had taken over from it."""
        return tuple(one for one in self.snapshots if may_be_diverged(one.number, self.bases))


class PackComparison:
    """Compares packs, as they are listed, with those of the index; both come by name.

    Args:
        known: the packs of the index, ascending.
        listed: called for each pack that is in both.
        unlisted: called for each pack that is in the index alone.
        unknown: called for each pack that is listed alone.
    """

    def __init__(
        self,
        known: Iterable[PackContents],
        *,
        listed: Callable[[PackContents, ObjectInfo], None] = lambda pack, info: None,
        unlisted: Callable[[PackContents], None] = lambda pack: None,
        unknown: Callable[[ObjectInfo], None] = lambda info: None,
    ) -> None:
        self._known = iter(known)
        self._next = next(self._known, None)
        self._listed, self._unlisted, self._unknown = listed, unlisted, unknown

    def add(self, info: ObjectInfo) -> None:
        """Takes the next pack of the listing."""
        name = pack_name_in(info.key)
        while self._next is not None and self._next.name < name:
            self._advance(self._unlisted)
        if self._next is not None and self._next.name == name:
            self._advance(lambda pack: self._listed(pack, info))
        else:
            self._unknown(info)

    def finish(self) -> None:
        """The listing has ended: what is left of the index is not listed."""
        while self._next is not None:
            self._advance(self._unlisted)

    def _advance(self, report: Callable[[PackContents], None]) -> None:
        assert self._next is not None
        report(self._next)
        self._next = next(self._known, None)


def list_volume(
    store: ObjectStore, on_pack: Callable[[ObjectInfo], None] = lambda info: None, known: PackScan | None = None
) -> VolumeListing:
    """Lists all objects of the volume.

    Args:
        on_pack: called with each pack, by name.
        known: the packs of the index, by which the listing is divided into ranges; anything may be listed beside them.

    Raises:
        StoreError: a page of the listing failed, or the listing is not in ascending order.
    """
    pages: dict[str, ObjectInfo] = {}
    snapshots: dict[str, ObjectInfo] = {}
    epochs: set[int] = set()
    probes: list[ObjectInfo] = []
    unrecognized = _Capped[ObjectInfo]()
    quarantined: list[SnapshotNumber] = []
    count = size_bytes = packs = newest_pack_epoch = 0
    bounds = [] if known is None else map(pack_key, known.every(RANGE_OBJECTS))
    for info in _ascending(store, bounds):
        count += 1
        size_bytes += info.size
        folder, _, name = info.key.partition("/")
        if folder == "packs" and (epoch := epoch_of_pack(name)) is not None:
            packs += 1
            newest_pack_epoch = max(newest_pack_epoch, epoch)
            on_pack(info)
        elif folder == PagesEntry.folder and _is_pages_id(name):
            pages[name] = info
        elif folder == SnapshotEntry.folder and is_snapshot_id(name):
            snapshots[name] = info
        elif folder == EpochEntry.folder and not is_foreign_key(info.key):
            epochs.add(epoch_number(info.key))
        elif info.key.startswith(PROBE_PREFIX):
            probes.append(info)
        elif info.key not in _LONE_KEYS and (folder not in _FOLDERS or folder in _CHECKED_FOLDERS):
            quarantined += quarantined_numbers([info])
            unrecognized.add(info)
    return VolumeListing(
        packs,
        newest_pack_epoch,
        MappingProxyType(pages),
        MappingProxyType(snapshots),
        frozenset(epochs),
        tuple(probes),
        tuple(unrecognized.first),
        tuple(quarantined),
        count,
        size_bytes,
    )


def _ascending(store: ObjectStore, bounds: Iterable[str]) -> Iterator[ObjectInfo]:
    before = ""
    for info in list_in_ranges(store, bounds):
        if info.key <= before:
            raise StoreError(f"{store.url} lists {info.key} after {before}: its listings cannot be relied on")
        before = info.key
        yield info


def take_inventory(
    store: ObjectStore, archive: SnapshotArchive, known: PackScan, lost: Collection[str] = ()
) -> StoreInventory:
    """Lists the volume, compares its packs with those of the index, and reads all manifests.

    Args:
        known: the packs of the index, by name.
        lost: names of packs that are known to be lost, so they do not count as missing.

    Raises:
        SnapshotError: a manifest cannot be read, so the snapshot may need any object.
        StoreError: the store failed.
    """
    unknown, missing = _Capped[ObjectInfo](), _Capped[str]()

    def add_missing(pack: PackContents) -> None:
        if pack.used and pack.died is None and pack.name not in lost:
            missing.add(pack.name)

    comparison = PackComparison(known, unlisted=add_missing, unknown=unknown.add)
    listing = list_volume(store, comparison.add, known)
    comparison.finish()
    try:
        snapshots = archive.list(pages=listing.pages)
        bases = archive.bases.all()
    except (SnapshotError, EntryError) as error:
        raise SnapshotError(
            f"nothing is deleted, since an object that may reference any other cannot be read: {error}"
        ) from error
    return StoreInventory(
        listing,
        tuple(unknown.first),
        tuple(missing.first),
        missing.count,
        tuple(snapshots),
        bases,
        missing_snapshots(archive, listing),
    )


def missing_snapshots(archive: SnapshotArchive, listing: VolumeListing) -> tuple[str, ...]:
    """The ids of snapshots that nobody deleted and that are not in the store, but for those that a repair has
    quarantined."""
    quarantined = {str(one) for one in listing.quarantined}
    return tuple(one for one in archive.tracker.missing() if one not in quarantined)


def _is_pages_id(name: str) -> bool:
    """Whether this can be the id of a pages entry."""
    try:
        return str(PagesNumber.parse(name)) == name
    except ValueError:
        return False
