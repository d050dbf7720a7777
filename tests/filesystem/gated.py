# SPDX-License-Identifier: GPL-3.0-or-later
"""A store whose uploads wait at a gate, or fail, as the test says, and a mounted machine that has one."""

import threading
from collections.abc import Iterable, Mapping

from cas3fs.errors import StoreBusy
from cas3fs.filesystem import FileSystemSettings
from cas3fs.objectstores.base import Body, ListPage, ObjectInfo, ObjectStore
from tests.filesystem.machine import Machine
from tests.filesystem.usage import DEADLINE_S, until


class GatedStore(ObjectStore):
    """Passes everything on, but a put waits while the gate is closed, and fails while `failing`."""

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

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        return self.inner.list_page(prefix, start_after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self.inner.delete_many(keys)

    def close(self) -> None:
        self.inner.close()


class Gated:
    """A mounted machine with its gate."""

    def __init__(self, machine: Machine, settings: FileSystemSettings | None = None, **more: int) -> None:
        self.machine = machine

        def wrap(store: ObjectStore) -> ObjectStore:
            self.store = GatedStore(store)
            return self.store

        self.fs = machine.mount(settings, wrap=wrap, **more)

    def close_gate(self) -> None:
        """Closes the gate; puts that have passed it before are not counted any more."""
        self.store.gate.clear()
        while self.store.waiting.acquire(blocking=False):
            pass

    def storing(self) -> threading.Thread:
        """Begins to store everything; returns when an upload is at the gate."""
        thread = threading.Thread(target=self.fs.store_all)
        thread.start()
        assert self.store.waiting.acquire(timeout=DEADLINE_S)
        return thread

    def open_gate(self, thread: threading.Thread) -> None:
        self.store.gate.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()

    def await_job(self) -> None:
        """Returns when the first job is over: its caller does not wait for a file that was removed."""
        until(lambda: self.fs.metrics.snapshot().get("storer.jobs", 0) > 0)
