# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads manifests, and caches what they say.

A manifest never changes, so it is read again only if the listing shows another size or time than when it was read (or,
for a manifest that this process stored, than the store reported then). Some stores report the time of an object less
exactly than they list it; such a manifest is read once more.

Thread-safe; one lock, held for assignments only. Memory: about 10 KiB for each of at most `CACHE_LIMIT` manifests.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final, NamedTuple

import attrs

from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.entries.shelf import ListedEntry, Shelf
from cas3fs.errors import (
    EntryError,
    ObjectArchived,
    ObjectMissing,
    SnapshotArchived,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    VolumeFormatError,
)
from cas3fs.snapshots.manifests import (
    SnapshotInfo,
    check_entry_sizes,
    check_snapshot_id,
    no_such_snapshot,
    snapshot_info,
)

CACHE_LIMIT: Final = 1000
"""If there are more manifests, the oldest are read each time."""

OnDamagedManifest = Callable[[str, SnapshotError], None]
"""Called with the id of a snapshot whose manifest cannot be read, and the reason."""


class _Cached(NamedTuple):
    info: SnapshotInfo
    size: int
    modified: datetime


class ManifestReader:
    """Reads the manifests of one volume.

    Args:
        shelf: the volume's entries.
        workers: how many requests run in parallel.
    """

    def __init__(self, shelf: Shelf, workers: int) -> None:
        self._shelf = shelf
        self._workers = workers
        self._lock = threading.Lock()
        self._cached: dict[str, _Cached] = {}
        self._bypassed: set[str] = set()

    def load(self, snapshot_id: str) -> SnapshotInfo:
        """Read a manifest; raises as `load_entry` does."""
        return snapshot_info(*self.load_entry(snapshot_id))

    def load_entry(self, snapshot_id: str) -> tuple[SnapshotEntry, str]:
        """Read a manifest; return the entry and the digest of its bytes.

        Raises:
            SnapshotMissing: there is no such snapshot.
            SnapshotDamaged: the manifest cannot be read.
            SnapshotArchived: the manifest must first be restored from an archive tier of the store.
            StoreError: the store failed.
        """
        try:
            entry, digest = self._shelf.load_with_digest(SnapshotEntry, check_snapshot_id(snapshot_id))
        except VolumeFormatError as error:
            raise SnapshotMissing(str(error)) from error
        except ObjectMissing as error:
            raise no_such_snapshot(self._shelf.store.url, snapshot_id) from error
        except EntryError as error:
            raise SnapshotDamaged(f"the manifest of snapshot {snapshot_id} cannot be read: {error}") from error
        except ObjectArchived as error:
            raise SnapshotArchived(f"the manifest of snapshot {snapshot_id} cannot be read: {error}") from error
        check_entry_sizes(entry)
        with self._lock:
            self._bypassed.update(entry.around)
        return entry, digest

    def load_all(self, listed: Iterable[ListedEntry], on_damaged: OnDamagedManifest | None) -> list[SnapshotInfo]:
        """Read the manifests in a listing, except those that were read before.

        Args:
            listed: the manifests.
            on_damaged: called for each that cannot be read, which is then left out; without it, that raises.
        """

        def load(one: ListedEntry) -> SnapshotInfo | None:
            try:
                self.put(one, self.load(one.id))
            except SnapshotError as error:
                if on_damaged is None:
                    raise
                on_damaged(one.id, error)
            return self._get(one)

        found = {one: self._get(one) for one in listed}
        unread = [one for one, info in found.items() if info is None]
        read: Iterable[SnapshotInfo | None] = ()
        if unread:
            with ThreadPoolExecutor(self._workers, thread_name_prefix="snapshots") as pool:
                read = list(pool.map(load, unread))
        return [info for info in (*found.values(), *read) if info is not None]

    def put(self, listed: ListedEntry, info: SnapshotInfo) -> None:
        """Cache a manifest that was read, or stored, as the object in `listed`."""
        with self._lock:
            info = attrs.evolve(info, stored_at=listed.modified)
            self._cached[listed.id] = _Cached(info, listed.size, listed.modified)

    def keep(self, ids: Iterable[str]) -> None:
        """Drop all other manifests from the cache, and the oldest of too many; `ids` are ascending."""
        with self._lock:
            kept = [one for one in ids if one in self._cached][-CACHE_LIMIT:]
            self._cached = {one: self._cached[one] for one in kept}

    def size_bytes(self, ids: Iterable[str]) -> int:
        """Return the length of those manifests among `ids` that were read."""
        with self._lock:
            return sum(self._cached[one].size for one in ids if one in self._cached)

    def bypassed_with(self, more: Iterable[str]) -> frozenset[str]:
        """Record more bypassed snapshots; return these and all that the manifests read so far name."""
        with self._lock:
            self._bypassed.update(more)
            return frozenset(self._bypassed)

    def _get(self, listed: ListedEntry) -> SnapshotInfo | None:
        """Return the cached manifest, if the listing shows the object that was read."""
        with self._lock:
            cached = self._cached.get(listed.id)
        return cached.info if cached is not None and cached[1:] == (listed.size, listed.modified) else None
