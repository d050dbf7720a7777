# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the snapshots of a volume, beside what a listing shows.

A snapshot is *known* once it was published, listed, named by a release, or found under a name that another object gave
away. What is known and not listed is asked for by its name, and counts if it is there: a listing only adds. So nothing
is concluded from a snapshot's absence in a listing, but that nobody here knew of it.

A number is never used twice, so what was asked for and is not there will never be: it is asked for once.

What this claim has seen, and what the release before it retained, only this writer deletes. Where the store has it no
more all the same, it is *denied*: it may be lost, or come back, so what it may need is kept until a person gives it up,
by a repair or by deleting it.

Across mounts the ids are kept in a file of the state folder, JSON: ``{"claim": "...", "snapshots": [...]}``, with the
uuid of the claim under which they were written down. Losing it costs nothing but knowledge.

Thread-safe: one lock around the sets, and no request under it.
"""

import contextlib
import json
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cas3fs.durable import replace_file
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.entries.shelf import Listed
from cas3fs.errors import ObjectMissing, VolumeFormatError
from cas3fs.objectstores.base import ObjectStore
from cas3fs.snapshots.manifests import check_snapshot_id


class SnapshotTracker:
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
        self._expected: set[str] = set()
        self._missing: set[str] = set()

    def add(self, ids: Iterable[str], *, expected: bool = False) -> None:
        """These were there; whether they still are is asked when it matters. `expected`: nobody else deletes them."""
        ids = tuple(ids)
        with self._lock:
            self._there.update(ids)
            if expected:
                self._expected.update(ids)

    def mark_deleted(self, ids: Iterable[str]) -> None:
        """These are deleted, by whoever calls, or given up."""
        ids = tuple(ids)
        self.mark_moved(ids)
        with self._lock:
            self._deleted.update(ids)

    def mark_moved(self, ids: Iterable[str]) -> None:
        """These are not to be found under their names any more, and are not lost."""
        ids = tuple(ids)
        with self._lock:
            for known in (self._there, self._expected, self._missing):
                known.difference_update(ids)
            self._gone.update(ids)

    def mark_undeleted(self, ids: Iterable[str]) -> None:
        """The store did not let these be deleted."""
        ids = tuple(ids)
        with self._lock:
            self._deleted.difference_update(ids)
        self.add(ids, expected=True)

    def clear_expected(self) -> None:
        """What was told to be retained is of another state of the store: nothing follows from its absence."""
        with self._lock:
            self._expected.clear()
            self._missing.clear()

    def missing(self) -> list[str]:
        """Those that must be there and were not when they were asked for last, ascending."""
        with self._lock:
            return sorted(self._missing)

    def is_deleted(self, snapshot_id: str) -> bool:
        """Whether it was deleted here."""
        with self._lock:
            return snapshot_id in self._deleted

    def complete_listing(self, listed: Sequence[Listed]) -> list[Listed]:
        """What is listed, and what is known and there though it is not listed.

        Raises:
            StoreError: the store failed.
        """
        ids = {one.id for one in listed}
        with self._lock:
            self._there |= ids
            self._gone -= ids
            self._expected |= ids - self._deleted
            self._missing -= ids
            unlisted = (self._there | self._missing) - ids
        return [*listed, *self._ask(unlisted)]

    def find_unlisted(self, ids: Collection[str]) -> list[Listed]:
        """Those of `ids` that were not known and are there; raises as `complete`."""
        with self._lock:
            unknown = set(ids) - self._there - self._gone
        return self._ask(unknown)

    def ids(self) -> list[str]:
        """All that are known, ascending, and those that are denied."""
        with self._lock:
            return sorted(self._there | self._missing)

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
            self._missing = (self._missing - there) | ((self._expected & set(ids)) - there)
            self._expected |= there
        return found

    def _look(self, snapshot_id: str) -> Listed | None:
        key = SnapshotEntry.key_of(snapshot_id)
        try:
            info = self._store.head(key)
        except ObjectMissing:
            return None
        return Listed(snapshot_id, key, info.size, info.modified)


def load_snapshot_ids(path: Path) -> tuple[list[str], str]:
    """The ids in the file at `path`, none where it is missing or damaged, and under which claim they were written."""
    try:
        found = json.loads(path.read_bytes())
        return [check_snapshot_id(one) for one in found["snapshots"]], str(found.get("claim", ""))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError, VolumeFormatError):
        return [], ""


def save_snapshot_ids(path: Path, ids: Iterable[str], claim: str) -> None:
    """Replace the file; it is on the disk on return, as what is deleted next would be missed after a loss of power. A
    failure leaves the one before: what it is for is a second opinion."""
    with contextlib.suppress(OSError):
        replace_file(path, json.dumps({"claim": claim, "snapshots": list(ids)}))
