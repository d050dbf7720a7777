# SPDX-License-Identifier: GPL-3.0-or-later
"""What trigger the objects of a store once, and stays: they are lost, cut short, changed, reverted, or copied.

Each works on any object store, past whoever uses it: on a bare one (`cas3fs.testing.faulty_store.FaultyStores.honest`
gives it), on ``S3Store(..., client=FakeS3(...))``, on a directory that a mount in another process uses. What is put
back is as new by the store's clock, as it is where a backup of a bucket is restored.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cas3fs.objectstores.base import ObjectStore


class StoreCopy(NamedTuple):
    """All objects of a store at one moment: their bytes and metadata by key."""

    objects: Mapping[str, tuple[bytes, Mapping[str, str]]]


def copy_objects(store: ObjectStore) -> StoreCopy:
    """All that is in it now."""
    keys = [info.key for info in store.list()]
    return StoreCopy({key: (store.get(key), store.head(key).metadata) for key in keys})


def restore_objects(store: ObjectStore, copy: StoreCopy) -> None:
    """Make the store what it was at an earlier moment, as a backup of the bucket that is restored does."""
    present = {info.key for info in store.list()}
    changed = {key for key in present & copy.objects.keys() if store.get(key) != copy.objects[key][0]}
    store.delete_many(sorted((present - copy.objects.keys()) | changed))
    for key in sorted((copy.objects.keys() - present) | changed):
        data, metadata = copy.objects[key]
        store.put_if_absent(key, data, metadata)


def copy_to(store: ObjectStore, other: ObjectStore) -> None:
    """Put all objects into another, empty store: the same volume, elsewhere."""
    restore_objects(other, copy_objects(store))


def delete_objects(store: ObjectStore, keys: Iterable[str] = (), *, prefix: str = "") -> list[str]:
    """Remove the objects of these keys, or those that begin with `prefix`; gives the keys that were there."""
    wanted = set(keys)
    lost = [info.key for info in store.list(prefix) if not wanted or info.key in wanted]
    store.delete_many(lost)
    return lost


def truncate_object(store: ObjectStore, key: str, size: int | None = None) -> None:
    """Leave an object its first `size` bytes only, half of them for None."""
    data = store.get(key)
    _replace(store, key, data[: len(data) // 2 if size is None else size])


def corrupt_object(store: ObjectStore, key: str, position: int | None = None) -> None:
    """Change one byte of an object, the middle one for None."""
    data = bytearray(store.get(key))
    data[len(data) // 2 if position is None else position] ^= 1
    _replace(store, key, bytes(data))


def _replace(store: ObjectStore, key: str, data: bytes) -> None:
    metadata = store.head(key).metadata
    store.delete_many([key])
    store.put_if_absent(key, data, metadata)
