# SPDX-License-Identifier: GPL-3.0-or-later
"""A store whose uploads wait at a gate, or fail, as the test says."""

import threading
from collections.abc import Iterable, Mapping

from cas3fs.errors import StoreBusy
from cas3fs.objectstores.base import Body, ListPage, ObjectInfo, ObjectStore


class GatedStore(ObjectStore):
    """Passes everything on; a put waits while the gate is closed, and fails while `failing`."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.url = inner.url
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Semaphore(0)
        """Released once for each put that has come to the gate."""
        self.failing = False
        self.puts = 0

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self.puts += 1
        self.waiting.release()
        self.gate.wait()
        if self.failing:
            raise StoreBusy("503 for the test")
        self.inner.put_if_absent(key, body, metadata)

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.inner.get_range(key, start, length)

    def get_suffix(self, key: str, length: int) -> bytes:
        return self.inner.get_suffix(key, length)

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        return self.inner.list_page(prefix, start_after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self.inner.delete_many(keys)

    def close(self) -> None:
        self.inner.close()
