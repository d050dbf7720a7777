# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracks which snapshots of a volume are known to exist, besides what a listing shows.

A snapshot is *known* once it was published, listed, named by a release, or found through the name of another object. A
known snapshot that a listing lacks is looked up by name, and counts if it exists: a listing can only add to what is
known. So if a listing lacks a snapshot, it follows only that nobody here knew of it.

A number is never used twice, so a snapshot that was looked up and does not exist never will; it is looked up once.

Only this writer deletes the snapshots that its claim has seen, and those that the previous release retained: they are
*expected*. If the store does not have an expected snapshot, it is *missing*. It may be lost or may come back, so
everything that it may need is kept until a person gives it up, by a repair or by deleting it.

The ids are kept across mounts in a file of the state directory, as JSON: ``{"claim": "...", "snapshots": [...]}``, with
the uuid of the claim under which they were written. If the file is lost, only this knowledge is lost.

Thread-safe: one lock around the sets; no request is made under it.
"""

import contextlib
import json
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cas3fs.durable import replace_file
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.entries.shelf import ListedEntry
from cas3fs.errors import ObjectMissing, VolumeFormatError
from cas3fs.objectstores.base import ObjectStore
from cas3fs.snapshots.manifests import check_snapshot_id


class SnapshotTracker:
    """The known snapshots of one volume.

    Args:
        store: the object store.
        workers: how many requests run in parallel.
    """

    def __init__(self, store: ObjectStore, workers: int) -> None:
        self._store = store
        self._workers = workers
        self._lock = threading.Lock()
        self._existing: set[str] = set()
        self._gone: set[str] = set()
        self._deleted: set[str] = set()
        self._expected: set[str] = set()
        self._missing: set[str] = set()

    def add(self, ids: Iterable[str], *, expected: bool = False) -> None:
        """Add snapshots that existed; whether they still do is checked when it matters.

        Args:
            ids: the snapshots.
            expected: nobody else deletes them.
        """
        ids = tuple(ids)
        with self._lock:
            self._existing.update(ids)
            if expected:
                self._expected.update(ids)

    def mark_deleted(self, ids: Iterable[str]) -> None:
        """Record that the caller deletes these snapshots, or gives them up."""
        ids = tuple(ids)
        self.mark_moved(ids)
        with self._lock:
            self._deleted.update(ids)

    def mark_moved(self, ids: Iterable[str]) -> None:
        """Record that these snapshots are not under their names any more, and are not lost."""
        ids = tuple(ids)
        with self._lock:
            for known in (self._existing, self._expected, self._missing):
                known.difference_update(ids)
            self._gone.update(ids)

    def mark_undeleted(self, ids: Iterable[str]) -> None:
        """Record that the store refused to delete these snapshots."""
        ids = tuple(ids)
        with self._lock:
            self._deleted.difference_update(ids)
        self.add(ids, expected=True)

    def clear_expected(self) -> None:
        """Expect no snapshots any more: the store is in another state than the one that retained them."""
        with self._lock:
            self._expected.clear()
            self._missing.clear()

    def missing(self) -> list[str]:
        """Return the expected snapshots that did not exist when they were looked up last, ascending."""
        with self._lock:
            return sorted(self._missing)

    def is_deleted(self, snapshot_id: str) -> bool:
        """Return whether the snapshot was deleted, or given up, here."""
        with self._lock:
            return snapshot_id in self._deleted

    def complete_listing(self, listed: Sequence[ListedEntry]) -> list[ListedEntry]:
        """Return what is listed, and the known snapshots that exist and are not listed.

        Raises:
            StoreError: the store failed.
        """
        ids = {one.id for one in listed}
        with self._lock:
            self._existing |= ids
            self._gone -= ids
            self._expected |= ids - self._deleted
            self._missing -= ids
            unlisted = (self._existing | self._missing) - ids
        return [*listed, *self._look_up(unlisted)]

    def find_unlisted(self, ids: Collection[str]) -> list[ListedEntry]:
        """Return those of `ids` that were not known and exist; raises as `complete_listing` does."""
        with self._lock:
            unknown = set(ids) - self._existing - self._gone
        return self._look_up(unknown)

    def ids(self) -> list[str]:
        """Return all known snapshots, also missing ones, ascending."""
        with self._lock:
            return sorted(self._existing | self._missing)

    def _look_up(self, ids: Collection[str]) -> list[ListedEntry]:
        """Return those that exist, and record what was found."""
        if not ids:
            return []
        with ThreadPoolExecutor(self._workers, thread_name_prefix="snapshots") as pool:
            found = [one for one in pool.map(self._head, sorted(ids)) if one is not None]
        existing = {one.id for one in found}
        with self._lock:
            self._existing = (self._existing - set(ids)) | existing
            self._gone |= set(ids) - existing
            self._missing = (self._missing - existing) | ((self._expected & set(ids)) - existing)
            self._expected |= existing
        return found

    def _head(self, snapshot_id: str) -> ListedEntry | None:
        key = SnapshotEntry.key_of(snapshot_id)
        try:
            info = self._store.head(key)
        except ObjectMissing:
            return None
        return ListedEntry(snapshot_id, key, info.size, info.modified)


def load_snapshot_ids(path: Path) -> tuple[list[str], str]:
    """Return the ids in the file at `path` and the claim under which they were written.

    Returns an empty list if the file is missing or damaged.
    """
    try:
        found = json.loads(path.read_bytes())
        return [check_snapshot_id(one) for one in found["snapshots"]], str(found.get("claim", ""))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError, VolumeFormatError):
        return [], ""


def save_snapshot_ids(path: Path, ids: Iterable[str], claim: str) -> None:
    """Replace the file; it is durable on return, because what is deleted next would be missed after a power failure.

    On failure the previous file stays: it only supplements the listing.
    """
    with contextlib.suppress(OSError):
        replace_file(path, json.dumps({"claim": claim, "snapshots": list(ids)}))
