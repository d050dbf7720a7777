# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the snapshots of a volume, beside what a listing shows.

A snapshot is *known* once it was published, listed, named by a release, or found under a name that another object gave
away. What is known and not listed is asked for by its name, and counts if it is there: a listing only adds. So nothing
is concluded from a snapshot's absence in a listing, but that nobody here knew of it.

A number is never used twice, so what was asked for and is not there will never be: it is asked for once.

Across mounts the ids are kept in a file of the state folder, JSON: ``{"snapshots": [...]}``. Losing it costs nothing
but knowledge.

Thread-safe: one lock around the sets, and no request under it.
"""

import contextlib
import json
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.entries.shelf import Listed
from cas3fs.errors import ObjectMissing, VolumeFormatError
from cas3fs.objectstores.base import ObjectStore
from cas3fs.snapshots.manifests import check_id


class KnownSnapshots:
    """The snapshots that are known of one volume.

    Args:
        workers: how many requests are made side by side.
    """

    def __init__(self, store: ObjectStore, workers: int) -> None:
        self._store = store
        self._workers = workers
        self._lock = threading.Lock()
        self._there: set[str] = set()
        self._gone: set[str] = set()
        self._deleted: set[str] = set()

    def remember(self, ids: Iterable[str]) -> None:
        """These were there; whether they still are is asked when it matters."""
        with self._lock:
            self._there.update(ids)

    def forget(self, ids: Iterable[str]) -> None:
        """These were deleted, by whoever calls."""
        ids = tuple(ids)
        with self._lock:
            self._there.difference_update(ids)
            self._gone.update(ids)
            self._deleted.update(ids)

    def is_gone(self, snapshot_id: str) -> bool:
        """Whether it was deleted here."""
        with self._lock:
            return snapshot_id in self._deleted

    def complete(self, listed: Sequence[Listed]) -> list[Listed]:
        """What is listed, and what is known and there though it is not listed.

        Raises:
            StoreError: the store failed.
        """
        ids = {one.id for one in listed}
        with self._lock:
            self._there |= ids
            self._gone -= ids
            unlisted = self._there - ids
        return [*listed, *self._ask(unlisted)]

    def find(self, ids: Collection[str]) -> list[Listed]:
        """Those of `ids` that were not known and are there; raises as `complete`."""
        with self._lock:
            unknown = set(ids) - self._there - self._gone
        return self._ask(unknown)

    def ids(self) -> list[str]:
        """All that are known, ascending."""
        with self._lock:
            return sorted(self._there)

    def _ask(self, ids: Collection[str]) -> list[Listed]:
        """Those that are there."""
        if not ids:
            return []
        with ThreadPoolExecutor(self._workers, thread_name_prefix="snapshots") as pool:
            found = [one for one in pool.map(self._look, sorted(ids)) if one is not None]
        there = {one.id for one in found}
        with self._lock:
            self._there = (self._there - set(ids)) | there
            self._gone |= set(ids) - there
        return found

    def _look(self, snapshot_id: str) -> Listed | None:
        key = SnapshotEntry.key_of(snapshot_id)
        try:
            info = self._store.head(key)
        except ObjectMissing:
            return None
        return Listed(snapshot_id, key, info.size, info.modified)


def load_ids(path: Path) -> list[str]:
    """The ids in the file at `path`; none where it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())["snapshots"]
        return [check_id(one) for one in found]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError, VolumeFormatError):
        return []


def save_ids(path: Path, ids: Iterable[str]) -> None:
    """Replace the file; a failure leaves the one before, as what it is for is a second opinion."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps({"snapshots": list(ids)}))
        temporary.replace(path)
