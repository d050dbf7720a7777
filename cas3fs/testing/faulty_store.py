# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults for any object store: a wrapper that fails, or returns wrong results.

So a store in a directory or in memory can be as unreliable as a server on the network. Operations are ``put``, ``get``
(in all its forms), ``head``, ``list`` and ``delete``; the faults are those of `STORE_FAULTS`, with the exceptions that
an `S3Store` raises for them. `faulty_stores` wraps every store that this process opens.

Locks: one in `FaultyStores`, around its stores. Overwriting an object (`FaultKind.IGNORED_PRECONDITION`) deletes it
first, so no other thread may put the same key meanwhile.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, cast
from unittest import mock

from cas3fs.config import StoreSettings
from cas3fs.errors import (
    ObjectArchived,
    ObjectMissing,
    StoreBusy,
    StoreUnreachable,
    TruncatedBody,
)
from cas3fs.objectstores import urls
from cas3fs.objectstores.base import (
    Body,
    ListPage,
    ObjectInfo,
    ObjectStore,
    check_key,
    check_prefix,
    check_range,
    deletion_failed,
    object_too_long,
    object_too_short,
)
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.urls import StoreUrl
from cas3fs.testing.faults import FaultKind, Faults

STORE_FAULTS: Final = frozenset(
    {
        FaultKind.DELAY,
        FaultKind.UNAVAILABLE,
        FaultKind.THROTTLED,
        FaultKind.RESET,
        FaultKind.TRUNCATED,
        FaultKind.APPLIED_THEN_ERROR,
        FaultKind.IGNORED_PRECONDITION,
        FaultKind.LISTING_ENDS_EARLY,
        FaultKind.EVENTUAL_LISTING,
        FaultKind.LISTING_LACKS,
        FaultKind.HIDDEN,
        FaultKind.SHORTENED,
        FaultKind.ARCHIVED,
        FaultKind.DELETION_REFUSED,
        FaultKind.PUT_FORGOTTEN,
    }
)
"""The faults of a `FaultyStore`; the others concern the protocol of S3."""
_PAGE_SIZE: Final = 1000
_Moment = Mapping[str, Mapping[str, ObjectInfo]]
"""The objects that stores list, by key, by the URL of the store."""


class FaultyStore(ObjectStore):
    """A wrapper around `inner` with faults; several wrappers may share `faults`."""

    def __init__(
        self, inner: ObjectStore, faults: Faults | None = None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.url = inner.url
        self.faults = faults or Faults(STORE_FAULTS, self._listed)
        self._inner = inner
        self._sleep = sleep

    @property
    def last_response_at_s(self) -> float:
        return self._inner.last_response_at_s

    def close(self) -> None:
        self._inner.close()

    def share_with_group(self) -> None:
        self._inner.share_with_group()

    def permission_warning(self) -> str:
        return self._inner.permission_warning()

    def _listed(self) -> _Moment:
        return {self.url: {info.key: info for info in self._inner.list()}}

    def _begin(self, operation: str, key: str) -> None:
        """Trigger the faults that happen before an operation."""
        if delay := self.faults.trigger(FaultKind.DELAY, operation, key):
            self._sleep(delay.delay_s)
        if self.faults.trigger(FaultKind.RESET, operation, key):
            raise StoreUnreachable(f"cannot reach {self.url}: it closed the connection")
        if self.faults.trigger(FaultKind.UNAVAILABLE, operation, key):
            raise StoreBusy(f"{self.url}: 503 SlowDown")
        if self.faults.trigger(FaultKind.THROTTLED, operation, key):
            raise StoreBusy(f"{self.url}: 429 TooManyRequests")

    def _end(self, operation: str, key: str) -> None:
        if self.faults.trigger(FaultKind.APPLIED_THEN_ERROR, operation, key):
            raise StoreUnreachable(f"cannot reach {self.url}: it closed the connection")

    # Putting

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self._begin("put", key)
        if not self.faults.trigger(FaultKind.PUT_FORGOTTEN, "put", key):
            if self.faults.trigger(FaultKind.IGNORED_PRECONDITION, "put", key):
                self._inner.delete_many([key])
            self._inner.put_if_absent(key, body, metadata)
        self._end("put", key)

    # Reading

    def get(self, key: str) -> bytes:
        return self._read(key, lambda: self._inner.get(key))

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        if self._seen("get", self._inner.head(key)).size > limit_bytes:
            raise object_too_long(key, limit_bytes)
        return self.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        return self._read(key, lambda: self._inner.get_range(key, start, length), start + length)

    def head(self, key: str) -> ObjectInfo:
        self._begin("head", key)
        self._refuse_hidden("head", key)
        return self._seen("head", self._inner.head(key))

    def _read(self, key: str, request: Callable[[], bytes], end: int | None = None) -> bytes:
        """The result of `request`; `end` is the end of the requested range, None for the whole object."""
        self._begin("get", key)
        self._refuse_hidden("get", key)
        if self.faults.trigger(FaultKind.ARCHIVED, "get", key):
            raise ObjectArchived(f"{self.url}: {key} was moved to an archive")
        data = request()
        if self.faults.trigger(FaultKind.TRUNCATED, "get", key):
            raise TruncatedBody(f"{self.url}: {key} ended early")
        if self.faults.trigger(FaultKind.SHORTENED, "get", key):
            size = self._inner.head(key).size // 2
            if end is not None and end > size:
                raise object_too_short(key, end - len(data), len(data), size)
            return data if end is not None else data[:size]
        return data

    def _refuse_hidden(self, operation: str, key: str) -> None:
        if self.faults.trigger(FaultKind.HIDDEN, operation, key):
            raise ObjectMissing(f"{self.url} has no object {key}")

    def _seen(self, operation: str, info: ObjectInfo) -> ObjectInfo:
        if self.faults.trigger_on_keys(FaultKind.SHORTENED, operation, [info.key]):
            return info._replace(size=info.size // 2)
        return info

    # Listing and deleting

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self._begin("list", prefix)
        check_prefix(prefix)
        present = {info.key: info for info in self._inner.list(prefix)}
        objects = self.faults.as_listed(
            "list", prefix, present, lambda fault: cast(_Moment, fault.moment).get(self.url, {})
        )
        found = [self._seen("list", objects[key]) for key in sorted(objects) if key > start_after]
        wanted = [info for info in found if info.key.startswith(prefix)]
        page, more = wanted[:_PAGE_SIZE], len(wanted) > _PAGE_SIZE
        if self.faults.trigger(FaultKind.LISTING_ENDS_EARLY, "list", prefix):
            return ListPage(page[: len(page) // 2], None)
        return ListPage(page, page[-1].key if more else None)

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        for key in wanted:
            check_key(key)
        self._begin("delete", "")
        kept = self.faults.trigger_on_keys(FaultKind.DELETION_REFUSED, "delete", wanted)
        self._inner.delete_many(key for key in wanted if key not in kept)
        self._end("delete", "")
        if kept:
            raise deletion_failed(self.url, {key: "access denied" for key in wanted if key in kept})


class FaultyStores:
    """All stores of one test: they share `faults`, and each ``memory://`` URL is one store for all who open it."""

    def __init__(self) -> None:
        self.faults = Faults(STORE_FAULTS, self._listed)
        self._lock = threading.Lock()
        self._memories: dict[str, MemoryStore] = {}
        self._without_faults: dict[str, ObjectStore] = {}

    def without_faults(self, url: str) -> ObjectStore:
        """The store at that URL without faults, to inspect it or to damage it (`cas3fs.testing.store_damage`)."""
        where = urls.parse_url(url)
        with self._lock:
            if str(where) not in self._without_faults:
                self._without_faults[str(where)] = self._open(where, StoreSettings(url))
            return self._without_faults[str(where)]

    def open_bare(self, where: StoreUrl, settings: StoreSettings) -> ObjectStore:
        """Replaces the function of `cas3fs.objectstores.urls` that opens a bare store."""
        self.without_faults(str(where))
        return FaultyStore(self._open(where, settings), self.faults)

    def _open(self, where: StoreUrl, settings: StoreSettings) -> ObjectStore:
        if where.scheme == "memory":
            return self._memories.setdefault(where.place, MemoryStore(where.place))
        return _open_bare(where, settings)

    def _listed(self) -> _Moment:
        with self._lock:
            stores = list(self._without_faults.values())
        return {store.url: {info.key: info for info in store.list()} for store in stores}

    def close(self) -> None:
        """Close the stores that `without_faults` opened."""
        for store in self._without_faults.values():
            store.close()


_open_bare: Final = urls._open_bare


@contextmanager
def faulty_stores() -> Iterator[FaultyStores]:
    """Within this context, every store that `cas3fs.objectstores.open_store` opens has faults to switch on."""
    stores = FaultyStores()
    with mock.patch.object(urls, "_open_bare", stores.open_bare):
        yield stores
    stores.close()
