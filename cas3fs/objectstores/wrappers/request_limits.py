# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits: how many requests run at once, and how many bytes a second are uploaded and downloaded.

Bandwidth is kept by token buckets that may go into debt: a request takes its bytes at once and waits until the debt is
paid, so the average holds whatever the size of one request. Where the size of a response is not known before, the
request waits after it. Closing ends all waiting: requests then continue without a limit.

Locks: the semaphore of `ConcurrencyLimitedStore` is held during a request; each bucket has a lock that is held for its
arithmetic only.
"""

import threading
import time
from collections.abc import Callable

from cas3fs.errors import TransientStoreError
from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.wrappers.wrapper import RequestKind, Result, StoreWrapper


class ConcurrencyLimitedStore(StoreWrapper):
    """At most `max_concurrency` requests at once; further ones wait."""

    def __init__(self, inner: ObjectStore, max_concurrency: int) -> None:
        super().__init__(inner)
        self._semaphore = threading.BoundedSemaphore(max_concurrency)

    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        with self._semaphore:
            return request()


class TokenBucket:
    """Bytes that may be transferred: `bytes_per_s` of them become available, up to one second's worth."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._balance_bytes = bytes_per_s
        self._updated_s = clock()

    def take(self, size_bytes: int) -> float:
        """Take these bytes; returns the seconds to wait before they may be transferred, 0 for at once."""
        with self._lock:
            now_s = self._clock()
            refilled_bytes = (now_s - self._updated_s) * self._bytes_per_s
            self._updated_s = now_s
            self._balance_bytes = min(self._balance_bytes + refilled_bytes, self._bytes_per_s) - size_bytes
            return max(0.0, -self._balance_bytes / self._bytes_per_s)


class BandwidthLimitedStore(StoreWrapper):
    """At most so many bytes a second in each direction, on average; None for no limit.

    The time that a request waits here is not the store's: it does not count against the deadline of its attempts
    (`TransientStoreError.transfer_s`), nor does the store seem silent meanwhile (`last_response_at_s`).
    """

    def __init__(
        self,
        inner: ObjectStore,
        upload_bytes_per_s: float | None = None,
        download_bytes_per_s: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """`clock` and `wait` are for tests; `wait` sleeps for so many seconds, or less once the store is closed."""
        super().__init__(inner)
        self._buckets = {
            kind: TokenBucket(bytes_per_s, clock)
            for kind, bytes_per_s in ((RequestKind.PUT, upload_bytes_per_s), (RequestKind.GET, download_bytes_per_s))
            if bytes_per_s
        }
        self._closed = threading.Event()
        self._clock = clock
        self._wait = wait or self._closed.wait
        self._lock = threading.Lock()
        self._waiting = 0
        self._waited_at_s = float("-inf")

    @property
    def last_response_at_s(self) -> float:
        waited_at_s = self._clock() if self._waiting else self._waited_at_s
        return max(waited_at_s, super().last_response_at_s)

    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        bucket = self._buckets.get(kind)
        if bucket is None:
            return request()
        if size_bytes is None:
            result = request()
            self._take(bucket, len(result) if isinstance(result, bytes) else 0)
            return result
        waited_s = self._take(bucket, size_bytes)
        try:
            return request()
        except TransientStoreError as error:
            error.transfer_s += waited_s
            raise

    def _take(self, bucket: TokenBucket, size_bytes: int) -> float:
        """Wait until these bytes may be transferred; returns for how long, in seconds."""
        delay_s = bucket.take(size_bytes)
        if delay_s <= 0:
            return 0
        with self._lock:
            self._waiting += 1
        try:
            self._wait(delay_s)
        finally:
            with self._lock:
                self._waiting -= 1
                self._waited_at_s = self._clock()
        return delay_s

    def close(self) -> None:
        self._closed.set()
        super().close()
