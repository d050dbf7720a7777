# SPDX-License-Identifier: GPL-3.0-or-later
"""Permanent damage to the objects of a store: they are deleted, truncated, corrupted, or restored to an earlier state.

The functions work on any object store, whoever uses it: on a bare store (`FaultyStores.without_faults` returns it), on
``S3Store(..., client=FakeS3(...))``, on a directory that a mount in another process uses. Restored objects have new
times, as after the restore of a backup of a bucket.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cas3fs.objectstores.base import ObjectStore


class StoreCopy(NamedTuple):
    """All objects of a store at one moment: their bytes and metadata by key."""

    objects: Mapping[str, tuple[bytes, Mapping[str, str]]]


def copy_objects(store: ObjectStore) -> StoreCopy:
    """A copy of all objects."""
    keys = [info.key for info in store.list()]
    return StoreCopy({key: (store.get(key), store.head(key).metadata) for key in keys})


def restore_objects(store: ObjectStore, copy: StoreCopy) -> None:
    """Restore the store to an earlier copy of it, as from a backup of a bucket."""
    present = {info.key for info in store.list()}
    changed = {key for key in present & copy.objects.keys() if store.get(key) != copy.objects[key][0]}
    store.delete_many(sorted((present - copy.objects.keys()) | changed))
    for key in sorted((copy.objects.keys() - present) | changed):
        data, metadata = copy.objects[key]
        store.put_if_absent(key, data, metadata)


def copy_to(store: ObjectStore, other: ObjectStore) -> None:
    """Copy all objects to another, empty store: the same volume in another place."""
    restore_objects(other, copy_objects(store))


def delete_objects(store: ObjectStore, keys: Iterable[str] = (), *, prefix: str = "") -> list[str]:
    """Delete the objects with these keys, or with that prefix; returns the keys that existed."""
    wanted = set(keys)
    lost = [info.key for info in store.list(prefix) if not wanted or info.key in wanted]
    store.delete_many(lost)
    return lost


def truncate_object(store: ObjectStore, key: str, size: int | None = None) -> None:
    """Truncate an object to `size` bytes, or to half of it for None."""
    data = store.get(key)
    _replace(store, key, data[: len(data) // 2 if size is None else size])


def corrupt_object(store: ObjectStore, key: str, position: int | None = None) -> None:
    """Change one bit of the byte at `position` of an object; for None, invert the bytes of its middle third.

    One bit may do no harm: a zstd frame has bits that change nothing in what it decompresses to, and snapshots and
    blocks have hashes of that. A third of an object is more than such bits.
    """
    data = bytearray(store.get(key))
    if position is None:
        start, end = len(data) // 3, len(data) - len(data) // 3
        data[start:end] = bytes(byte ^ 0xFF for byte in data[start:end])
    else:
        data[position] ^= 1
    _replace(store, key, bytes(data))


def _replace(store: ObjectStore, key: str, data: bytes) -> None:
    metadata = store.head(key).metadata
    store.delete_many([key])
    store.put_if_absent(key, data, metadata)
