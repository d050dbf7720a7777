# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounds how many requests run at once, and how many bytes a second go up and come down.

Bandwidth is kept by token buckets that may go into debt: a request takes its bytes at once and waits until the debt is
paid, so the average holds whatever the size of one request. What a request will bring is not always known before; then
it waits afterwards. Closing ends all waiting: the requests go on unlimited.

Locks: the semaphore of places is held during a request, never while waiting for bandwidth; each bucket has a lock that
is held for its arithmetic only.
"""

import threading
import time
from collections.abc import Callable

from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.wrappers.wrapper import Operation, Result, StoreWrapper


class TokenBucket:
    """Bytes that may flow: `bytes_per_s` of them flow in, up to one second's worth."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._balance_bytes = bytes_per_s
        self._filled_s = clock()

    def take(self, size_bytes: int) -> float:
        """Take these bytes; gives the seconds to wait before they may flow (0 when at once)."""
        with self._lock:
            now_s = self._clock()
            flown_in = (now_s - self._filled_s) * self._bytes_per_s
            self._filled_s = now_s
            self._balance_bytes = min(self._balance_bytes + flown_in, self._bytes_per_s) - size_bytes
            return max(0.0, -self._balance_bytes / self._bytes_per_s)


class LimitedStore(StoreWrapper):
    """At most `max_concurrency` requests at once; at most so many bytes a second, None for no limit."""

    def __init__(
        self,
        inner: ObjectStore,
        max_concurrency: int,
        upload: TokenBucket | None = None,
        download: TokenBucket | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """`wait` sleeps for so many seconds, or less once the store is closed; tests pass their own."""
        super().__init__(inner)
        self._places = threading.BoundedSemaphore(max_concurrency)
        self._upload = upload
        self._download = download
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait

    def around(self, operation: Operation, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        bucket = {Operation.PUT: self._upload, Operation.GET: self._download}.get(operation)
        if bucket is None:
            return self._in_place(request)
        if size_bytes is not None:
            self._pay(bucket, size_bytes)
            return self._in_place(request)
        result = self._in_place(request)
        self._pay(bucket, len(result) if isinstance(result, bytes) else 0)
        return result

    def _in_place(self, request: Callable[[], Result]) -> Result:
        with self._places:
            return request()

    def _pay(self, bucket: TokenBucket, size_bytes: int) -> None:
        delay_s = bucket.take(size_bytes)
        if delay_s > 0:
            self._wait(delay_s)

    def close(self) -> None:
        self._closed.set()
        super().close()
