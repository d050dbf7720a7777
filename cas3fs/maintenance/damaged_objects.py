# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged objects of the store. A repair moves them to ``damaged/``, under the same key, so that nothing is deleted.

A snapshot whose manifest has been moved is *quarantined*: what it may need is kept until somebody deletes the object.
"""

from collections.abc import Iterable
from typing import Final

from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import ObjectExists, ObjectMissing
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import SnapshotNumber

DAMAGED_PREFIX: Final = "damaged/"
QUARANTINED_SNAPSHOTS: Final = DAMAGED_PREFIX + SnapshotEntry.prefix()


def quarantine_object(store: ObjectStore, key: str) -> None:
    """Moves a damaged object to ``damaged/``, as it is stored; only the holder of the claim may do that.

    It may be repeated.
    """
    store = store.stored
    try:
        body = store.get(key)
    except ObjectMissing:
        return
    try:
        store.put_if_absent(DAMAGED_PREFIX + key, body)
    except ObjectExists:
        if store.get(DAMAGED_PREFIX + key) != body:
            raise
    store.delete_many([key])


def quarantine_snapshot(archive: SnapshotArchive, snapshot: str) -> None:
    """Moves the manifest of a damaged snapshot to ``damaged/``, as `quarantine_object`."""
    quarantine_object(archive.shelf.store, SnapshotEntry.key_of(snapshot))
    archive.tracker.mark_moved([snapshot])


def list_quarantined(store: ObjectStore) -> tuple[SnapshotNumber, ...]:
    """The numbers of the quarantined snapshots, by a listing of their folder alone."""
    return quarantined_numbers(store.list(QUARANTINED_SNAPSHOTS))


def quarantined_numbers(infos: Iterable[ObjectInfo]) -> tuple[SnapshotNumber, ...]:
    """The numbers of the quarantined snapshots among these objects."""
    names = (info.key.removeprefix(QUARANTINED_SNAPSHOTS) for info in infos)
    return tuple(SnapshotNumber.parse(name) for name in names if is_snapshot_id(name))


def is_snapshot_id(name: str) -> bool:
    """Whether this can be the id of a snapshot."""
    try:
        return str(SnapshotNumber.parse(name)) == name
    except ValueError:
        return False
