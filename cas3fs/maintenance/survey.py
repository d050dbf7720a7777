# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey: everything that the store holds, as one complete listing, and every manifest.

It is complete, or it raises; nothing is ever concluded from a part of it. The order matters: the objects are listed
first, and what is known of them is read afterwards. So an object that comes meanwhile is not in the list, and one that
is in the list is known by then, or was never finished.

Whether a listing is as complete as it claims shows by what must be in it: see `missing_packs`.
"""

import secrets
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import Final

import attrs

from cas3fs.blockstore.keys import PACKS_PREFIX
from cas3fs.entries.kinds import ALL_KINDS, EpochEntry, PagesEntry, SnapshotEntry
from cas3fs.epochs.values import is_foreign, number_of
from cas3fs.errors import DeleteFailed, EntryError, SnapshotError
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.lines import Base, may_be_off_line
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import PagesNumber, SnapshotNumber

PROBE_PREFIX: Final = "probe/"
DAMAGED_PREFIX: Final = "damaged/"
ASIDE_PREFIX: Final = DAMAGED_PREFIX + SnapshotEntry.prefix()
_FOLDERS: Final = frozenset(kind.folder for kind in ALL_KINDS if kind.folder)
_CHECKED: Final = frozenset({"packs", "pages", "snapshots", "epochs"})
"""Of which the names are looked at: others there are of no kind."""
_LONE_KEYS: Final = frozenset({"volume"})


@attrs.frozen
class Listing:
    """The objects of a volume by what they are."""

    packs: Mapping[str, ObjectInfo]
    """By name: epoch, slash, hash."""
    pages: Mapping[str, ObjectInfo]
    """By id."""
    snapshots: Mapping[str, ObjectInfo]
    """By id."""
    epochs: frozenset[int]
    """Numbers that were claimed."""
    probes: tuple[ObjectInfo, ...]
    """What attempts to find out how the store behaves have left."""
    strange: tuple[ObjectInfo, ...]
    """Objects of no kind."""
    count: int
    size_bytes: int

    @property
    def latest_epoch(self) -> int:
        """The greatest epoch that anything is of; 0 for none."""
        packs = (epoch_of_pack(name) or 0 for name in self.packs)
        pages = (PagesNumber.parse(one).snapshot.epoch for one in self.pages)
        snapshots = (SnapshotNumber.parse(one).epoch for one in self.snapshots)
        return max(chain(self.epochs, packs, pages, snapshots), default=0)

    @property
    def requests(self) -> int:
        """How many requests listing it takes."""
        return self.count // 1000 + 1


@attrs.frozen
class Survey:
    """A listing, and what the manifests say."""

    listing: Listing
    snapshots: tuple[SnapshotInfo, ...]
    """Ascending."""
    bases: tuple[Base, ...]

    @property
    def aside(self) -> tuple[SnapshotNumber, ...]:
        """The numbers of damaged snapshots whose manifests a repair has put aside: what they need is kept until a
        person deletes them there."""
        return _aside(self.listing.strange)

    @property
    def off_line(self) -> tuple[SnapshotInfo, ...]:
        """The snapshots that a writer published who had been taken over from, as far as may be."""
        return tuple(one for one in self.snapshots if may_be_off_line(one.number, self.bases))


def take_listing(store: ObjectStore) -> Listing:
    """Lists all of the volume.

    Raises:
        StoreError: a page of the listing could not be had.
    """
    packs: dict[str, ObjectInfo] = {}
    pages: dict[str, ObjectInfo] = {}
    snapshots: dict[str, ObjectInfo] = {}
    epochs: set[int] = set()
    probes: list[ObjectInfo] = []
    strange: list[ObjectInfo] = []
    count = size_bytes = 0
    for info in store.list():
        count += 1
        size_bytes += info.size
        folder, _, name = info.key.partition("/")
        if folder == "packs" and epoch_of_pack(name) is not None:
            packs[name] = info
        elif folder == PagesEntry.folder and is_pages_id(name):
            pages[name] = info
        elif folder == SnapshotEntry.folder and _is_number(name):
            snapshots[name] = info
        elif folder == EpochEntry.folder and not is_foreign(info.key):
            epochs.add(number_of(info.key))
        elif info.key.startswith(PROBE_PREFIX):
            probes.append(info)
        elif info.key not in _LONE_KEYS and (folder not in _FOLDERS or folder in _CHECKED):
            strange.append(info)
    return Listing(
        MappingProxyType(packs),
        MappingProxyType(pages),
        MappingProxyType(snapshots),
        frozenset(epochs),
        tuple(probes),
        tuple(strange),
        count,
        size_bytes,
    )


def take_survey(store: ObjectStore, archive: SnapshotArchive) -> Survey:
    """Lists the volume and reads all manifests.

    Raises:
        SnapshotError: a manifest cannot be read: it may need anything.
        StoreError: the store failed.
    """
    listing = take_listing(store)
    try:
        snapshots = archive.list(pages=listing.pages)
        bases = archive.bases.all()
    except (SnapshotError, EntryError) as error:
        raise SnapshotError(
            f"nothing is deleted, as something that may need anything cannot be read: {error}"
        ) from error
    return Survey(listing, tuple(snapshots), bases)


def take_aside(store: ObjectStore) -> tuple[SnapshotNumber, ...]:
    """As `Survey.aside`, by a listing of its own."""
    return _aside(store.list(ASIDE_PREFIX))


def _aside(infos: Iterable[ObjectInfo]) -> tuple[SnapshotNumber, ...]:
    names = (info.key.removeprefix(ASIDE_PREFIX) for info in infos)
    return tuple(SnapshotNumber.parse(name) for name in names if _is_number(name))


def epoch_of_pack(name: str) -> int | None:
    """The epoch that a pack's name begins with; None where it is no name of a pack."""
    epoch, _, digest = name.partition("/")
    is_name = len(epoch) >= 8 and epoch.isascii() and epoch.isdigit() and len(digest) == 64
    return int(epoch) if is_name and not set(digest) - set("0123456789abcdef") else None


def missing_packs(listing: Listing, needed: Iterable[str], lost: Collection[str]) -> list[str]:
    """Those of the packs `needed`, which were recorded before the listing began, that it lacks, without those known to
    be lost."""
    return [name for name in needed if name not in listing.packs and name not in lost]


def store_now(store: ObjectStore) -> datetime:
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


def key_of_pack(name: str) -> str:
    """The key of the object of that pack."""
    return PACKS_PREFIX + name


def is_pages_id(name: str) -> bool:
    """Whether a pages entry can be called that."""
    try:
        return str(PagesNumber.parse(name)) == name
    except ValueError:
        return False


def name_of_pack(key: str) -> str:
    """The name of the pack in the object of that key."""
    return key.removeprefix(PACKS_PREFIX)


def _is_number(name: str) -> bool:
    try:
        return str(SnapshotNumber.parse(name)) == name
    except ValueError:
        return False
