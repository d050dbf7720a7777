# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey: everything that the store holds, by one complete listing, and every manifest.

It is complete, or it raises; nothing is ever concluded from a part of it. Packs are compared with what the index knows
while they are listed, as both come by name: so neither is ever held whole (`Comparison`). What the index knows was read
before, so a pack that it knows and that is not listed is missing; one that comes meanwhile may seem unknown, so whoever
deletes asks once more.

Whether a listing is as complete as it claims shows by what must be in it: packs in use, and what was just published. A
listing that does not ascend is not believed either.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import Final, Generic, TypeVar

import attrs

from cas3fs.blockstore.pack_store import epoch_of_pack, pack_name_in
from cas3fs.entries.kinds import ALL_KINDS, EpochEntry, PagesEntry, SnapshotEntry
from cas3fs.epochs.epoch_entries import epoch_number, is_foreign_key
from cas3fs.errors import DeleteFailed, EntryError, SnapshotError, StoreError
from cas3fs.index import PackEntry
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.divergence import TakeoverBase, may_be_diverged
from cas3fs.snapshots.manifests import SnapshotInfo, bypassed_by, snapshots_of_pages
from cas3fs.values import PagesNumber, SnapshotNumber

PROBE_PREFIX: Final = "probe/"
QUARANTINE_PREFIX: Final = "damaged/"
QUARANTINED_SNAPSHOTS: Final = QUARANTINE_PREFIX + SnapshotEntry.prefix()
MAX_HELD: Final = 20_000
"""Objects that are not as they should be are held in memory up to this number; a later run finds the rest."""
Item = TypeVar("Item")
_FOLDERS: Final = frozenset(kind.folder for kind in ALL_KINDS if kind.folder)
_CHECKED: Final = frozenset({"packs", "pages", "snapshots", "epochs"})
"""Of which the names are looked at: others there are of no kind."""
_LONE_KEYS: Final = frozenset({"volume"})


class _Capped(Generic[Item]):
    """The first `MOST_TOLD` of many, and how many they are."""

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
    """The objects of a volume by what they are."""

    pack_count: int
    pack_epoch: int
    """The greatest of any pack; 0 for none."""
    pages: Mapping[str, ObjectInfo]
    """By id."""
    snapshots: Mapping[str, ObjectInfo]
    """By id."""
    epochs: frozenset[int]
    """Numbers that were claimed."""
    probes: tuple[ObjectInfo, ...]
    """What attempts to find out how the store behaves have left."""
    unrecognized: tuple[ObjectInfo, ...]
    """Objects of no kind, the first `MOST_TOLD`."""
    unrecognized_count: int
    aside: tuple[SnapshotNumber, ...]
    """The numbers of damaged snapshots whose manifests a repair has put aside."""
    count: int
    size_bytes: int

    @property
    def latest_epoch(self) -> int:
        """The greatest epoch that anything is of; 0 for none."""
        pages = (PagesNumber.parse(one).snapshot.epoch for one in self.pages)
        snapshots = (SnapshotNumber.parse(one).epoch for one in self.snapshots)
        return max(chain(self.epochs, (self.pack_epoch,), pages, snapshots), default=0)

    @property
    def requests(self) -> int:
        """How many requests listing it takes."""
        return self.count // 1000 + 1


@attrs.frozen
class StoreInventory:
    """A listing, and what the manifests say."""

    listing: VolumeListing
    unknown: tuple[ObjectInfo, ...]
    """Packs that the index did not know when the listing began, the first `MOST_TOLD`."""
    unknown_count: int
    missing: tuple[str, ...]
    """The names of packs in use that were not listed, the first `MOST_TOLD`."""
    missing_count: int
    snapshots: tuple[SnapshotInfo, ...]
    """Ascending."""
    bases: tuple[TakeoverBase, ...]
    denied: tuple[str, ...] = ()
    """Ids of snapshots that must be there and that the store denies, in a listing and by name."""

    @property
    def aside(self) -> tuple[SnapshotNumber, ...]:
        """The numbers of damaged snapshots whose manifests a repair has put aside, or that the line has gone around,
        and of denied ones: what they need is kept until a person deletes them."""
        there = {*self.listing.snapshots, *snapshots_of_pages(self.listing.pages)}
        around = sorted(one for one in bypassed_by(self.snapshots) if one in there)
        return (*self.listing.aside, *map(SnapshotNumber.parse, (*around, *self.denied)))

    @property
    def lost(self) -> SnapshotNumber | None:
        """The newest snapshot that is denied, or that the line has gone around and of which only pages are left: it may
        need any pages before. None where there is none."""
        left = (bypassed_by(self.snapshots) - set(self.listing.snapshots)) & snapshots_of_pages(self.listing.pages)
        return max(map(SnapshotNumber.parse, left | set(self.denied)), default=None)

    @property
    def diverged(self) -> tuple[SnapshotInfo, ...]:
        """The snapshots that a writer published who had been taken over from, as far as may be."""
        return tuple(one for one in self.snapshots if may_be_diverged(one.number, self.bases))


class PackComparison:
    """Compares packs as they are listed with those in the index, both by name.

    Args:
        known: what the index knows, ascending.
        listed: called for each that is in both.
        unlisted: called for each that is in the index alone.
        unknown: called for each that is listed alone.
    """

    def __init__(
        self,
        known: Iterable[PackEntry],
        *,
        listed: Callable[[PackEntry, ObjectInfo], None] = lambda pack, info: None,
        unlisted: Callable[[PackEntry], None] = lambda pack: None,
        unknown: Callable[[ObjectInfo], None] = lambda info: None,
    ) -> None:
        self._known = iter(known)
        self._next = next(self._known, None)
        self._listed, self._unlisted, self._unknown = listed, unlisted, unknown

    def see(self, info: ObjectInfo) -> None:
        """The next pack in the listing."""
        name = pack_name_in(info.key)
        while self._next is not None and self._next.name < name:
            self._pass(self._unlisted)
        if self._next is not None and self._next.name == name:
            self._pass(lambda pack: self._listed(pack, info))
        else:
            self._unknown(info)

    def finish(self) -> None:
        """The listing has ended."""
        while self._next is not None:
            self._pass(self._unlisted)

    def _pass(self, tell: Callable[[PackEntry], None]) -> None:
        assert self._next is not None
        tell(self._next)
        self._next = next(self._known, None)


def list_volume(store: ObjectStore, see_pack: Callable[[ObjectInfo], None] = lambda info: None) -> VolumeListing:
    """Lists all of the volume; `see_pack` is called with each pack, by name.

    Raises:
        StoreError: a page of the listing could not be had, or it does not ascend.
    """
    pages: dict[str, ObjectInfo] = {}
    snapshots: dict[str, ObjectInfo] = {}
    epochs: set[int] = set()
    probes: list[ObjectInfo] = []
    unrecognized: list[ObjectInfo] = []
    aside: list[SnapshotNumber] = []
    count = size_bytes = packs = pack_epoch = stranges = 0
    for info in _ascending(store):
        count += 1
        size_bytes += info.size
        folder, _, name = info.key.partition("/")
        if folder == "packs" and (epoch := epoch_of_pack(name)) is not None:
            packs += 1
            pack_epoch = max(pack_epoch, epoch)
            see_pack(info)
        elif folder == PagesEntry.folder and is_pages_id(name):
            pages[name] = info
        elif folder == SnapshotEntry.folder and _is_number(name):
            snapshots[name] = info
        elif folder == EpochEntry.folder and not is_foreign_key(info.key):
            epochs.add(epoch_number(info.key))
        elif info.key.startswith(PROBE_PREFIX):
            probes.append(info)
        elif info.key not in _LONE_KEYS and (folder not in _FOLDERS or folder in _CHECKED):
            stranges += 1
            aside += _aside([info])
            if stranges <= MAX_HELD:
                unrecognized.append(info)
    return VolumeListing(
        packs,
        pack_epoch,
        MappingProxyType(pages),
        MappingProxyType(snapshots),
        frozenset(epochs),
        tuple(probes),
        tuple(unrecognized),
        stranges,
        tuple(aside),
        count,
        size_bytes,
    )


def _ascending(store: ObjectStore) -> Iterator[ObjectInfo]:
    before = ""
    for info in store.list():
        if info.key <= before:
            raise StoreError(f"{store.url} lists {info.key} behind {before}: its listings cannot be relied on")
        before = info.key
        yield info


def take_inventory(
    store: ObjectStore, archive: SnapshotArchive, known: Iterable[PackEntry], lost: Collection[str] = ()
) -> StoreInventory:
    """Lists the volume, compares its packs with those that the index knows, by name, and reads all manifests; packs
    that are known to be lost are not missed.

    Raises:
        SnapshotError: a manifest cannot be read: it may need anything.
        StoreError: the store failed.
    """
    unknown, missing = _Capped[ObjectInfo](), _Capped[str]()

    def miss(pack: PackEntry) -> None:
        if pack.used and pack.died is None and pack.name not in lost:
            missing.add(pack.name)

    comparison = PackComparison(known, unlisted=miss, unknown=unknown.add)
    listing = list_volume(store, comparison.see)
    comparison.finish()
    try:
        snapshots = archive.list(pages=listing.pages)
        bases = archive.bases.all()
    except (SnapshotError, EntryError) as error:
        raise SnapshotError(
            f"nothing is deleted, as something that may need anything cannot be read: {error}"
        ) from error
    return StoreInventory(
        listing,
        tuple(unknown.first),
        unknown.count,
        tuple(missing.first),
        missing.count,
        tuple(snapshots),
        bases,
        missing_snapshots(archive, listing),
    )


def missing_snapshots(archive: SnapshotArchive, listing: VolumeListing) -> tuple[str, ...]:
    """The ids of snapshots that must be there and are denied, but for those that a repair has put aside."""
    aside = {str(one) for one in listing.aside}
    return tuple(one for one in archive.tracker.missing() if one not in aside)


def list_quarantined(store: ObjectStore) -> tuple[SnapshotNumber, ...]:
    """As `StoreInventory.aside`, by a listing of its own."""
    return _aside(store.list(QUARANTINED_SNAPSHOTS))


def _aside(infos: Iterable[ObjectInfo]) -> tuple[SnapshotNumber, ...]:
    names = (info.key.removeprefix(QUARANTINED_SNAPSHOTS) for info in infos)
    return tuple(SnapshotNumber.parse(name) for name in names if _is_number(name))


def store_clock_now(store: ObjectStore) -> datetime:
    """The time of this moment by the store's own clock: an object is put, looked at, and deleted. One that the store
    refuses to delete is left for a later gc.

    Raises:
        StoreError: the store failed.
    """
    key = f"{PROBE_PREFIX}clock-{secrets.token_hex(8)}"
    store.put_if_absent(key, b"")
    try:
        return store.head(key).modified
    finally:
        with suppress(DeleteFailed):
            store.delete_many([key])


def is_pages_id(name: str) -> bool:
    """Whether a pages entry can be called that."""
    try:
        return str(PagesNumber.parse(name)) == name
    except ValueError:
        return False


def _is_number(name: str) -> bool:
    try:
        return str(SnapshotNumber.parse(name)) == name
    except ValueError:
        return False
