# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects in the memory of this process: for tests, and as the simplest example of a store.

Locks: one, around the dictionaries; it is held for look-ups and copies only.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from cas3fs.errors import ObjectMissing
from cas3fs.objectstores.base import (
    Body,
    ListPage,
    ObjectInfo,
    ObjectStore,
    check_key,
    check_metadata,
    check_prefix,
    check_range,
    object_above,
    object_exists,
    object_too_short,
    objects_below,
)


class MemoryStore(ObjectStore):
    """A dictionary; each instance is a store of its own, whatever its name. `now` is its clock."""

    def __init__(
        self, name: str = "", *, page_size: int = 1000, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.url = f"memory://{name}"
        self._page_size = page_size
        self._now = now
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._folders: dict[str, int] = {}
        """How many objects lie below each folder: no object may have the name of a folder."""

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        check_key(key)
        data = bytes(body) if isinstance(body, bytes | bytearray | memoryview) else body.read()
        info = ObjectInfo(key, len(data), self._now(), dict(check_metadata(metadata)))
        with self._lock:
            if key in self._objects:
                raise object_exists(self.url, key)
            self._check_place(key)
            self._objects[key] = (info, data)
            for folder in _folders_of(key):
                self._folders[folder] = self._folders.get(folder, 0) + 1

    def _check_place(self, key: str) -> None:
        owner = next((folder for folder in _folders_of(key) if folder in self._objects), None)
        if owner is not None:
            raise object_above(self.url, owner)
        if key in self._folders:
            raise objects_below(self.url, key)

    def get(self, key: str) -> bytes:
        return self._find(key)[1]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        if length == 0:
            return b""
        data = self._find(key)[1]
        if start + length > len(data):
            raise object_too_short(key, start, length, len(data))
        return data[start : start + length]

    def head(self, key: str) -> ObjectInfo:
        return self._find(key)[0]

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        with self._lock:
            found = self._objects.get(check_key(key))
        if found is None:
            raise ObjectMissing(f"{self.url} has no object {key}")
        return found

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        check_prefix(prefix)
        with self._lock:
            found = sorted(
                (info for info, _ in self._objects.values() if info.key.startswith(prefix) and info.key > start_after),
                key=lambda info: info.key,
            )
        page = [info._replace(metadata={}) for info in found[: self._page_size]]
        return ListPage(page, page[-1].key if len(found) > len(page) else None)

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            with self._lock:
                if self._objects.pop(key, None) is not None:
                    self._forget_folders(key)

    def _forget_folders(self, key: str) -> None:
        for folder in _folders_of(key):
            self._folders[folder] -= 1
            if self._folders[folder] == 0:
                del self._folders[folder]

    def close(self) -> None:
        """There is nothing to close: the objects live as long as the instance."""


def _folders_of(key: str) -> list[str]:
    """``a`` and ``a/b`` for ``a/b/c``."""
    parts = key.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
