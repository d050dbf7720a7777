# SPDX-License-Identifier: GPL-3.0-or-later
"""Retries: requests that fail with a `TransientStoreError` are tried again, and no others.

The delay before an attempt is a random part of ``base_delay_s * 2**n``, at most of ``max_delay_s`` (full jitter:
clients that failed together do not come back together). Where the next attempt would begin after the deadline, the last
error is raised, with the number of attempts in its text. The time for which bytes were in transfer does not count: over
a slow line a large object is tried as often as a small one.

A put that failed may have been applied. If a later attempt finds that the object exists, its bytes are read and
compared: where they are the same, the put has succeeded. Two writers that must be told apart put different bytes.

From the third attempt on errors are logged as warnings and noted in the metrics, where ``stats`` shows the last one.

Closing ends the delays: requests that wait raise their last error at once.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from cas3fs.errors import DeleteFailed, ObjectExists, ObjectMissing, StoreError, TransientStoreError
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import Body, ObjectStore, batches, body_size
from cas3fs.objectstores.wrappers.wrapper import RequestKind, Result, StoreWrapper

_GetPieces = Callable[[str, int, Sequence[int], Callable[[bytes], None]], None]

_log = logging.getLogger(__name__)
_COMPARE_BYTES: Final = 8 << 20
_ATTEMPTS_BEFORE_WARNING: Final = 2
"""Up to so many failures of a request are logged for debugging only."""


class RetryPolicy(NamedTuple):
    """For how long, and how often, a request is tried."""

    deadline_s: float = 120
    """No attempt begins later than this after the first one, not counting the time of transfers."""
    base_delay_s: float = 0.2
    max_delay_s: float = 20
    first_response_s: float | None = None
    """In place of the deadline until the store has responded for the first time: at a terminal a wrong endpoint should
    show soon, while a store that responds is worth waiting for."""


class RetryingStore(StoreWrapper):
    """Repeats failed requests as its `RetryPolicy` says."""

    def __init__(
        self,
        inner: ObjectStore,
        policy: RetryPolicy,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`clock`, `wait` and `jitter` are for tests: `wait` sleeps and returns whether the store was closed, `jitter`
        returns a number in [0, 1)."""
        super().__init__(inner)
        self._policy = policy
        self._metrics = metrics
        self._retries = metrics.counter("store.retries")
        self._given_up = metrics.counter("store.given_up")
        self._closed = threading.Event()
        self._has_responded = False
        self._clock = clock
        self._wait = wait or self._closed.wait
        self._jitter = jitter

    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        begin_s = self._clock()
        attempts = 0
        transfer_s = 0.0
        while True:
            try:
                result = request()
                self._has_responded = True
                return result
            except TransientStoreError as error:
                attempts += 1
                transfer_s += error.transfer_s
                self._pause(error, attempts, begin_s + transfer_s)
            except StoreError:
                self._has_responded = True
                raise

    def _pause(self, error: TransientStoreError, attempts: int, begin_s: float) -> None:
        """Wait for the next attempt, or raise the error where there is none."""
        policy = self._policy
        delay_s = self._jitter() * min(policy.max_delay_s, policy.base_delay_s * 2 ** min(attempts - 1, 30))
        spent_s = self._clock() - begin_s
        first_s = None if self._has_responded else policy.first_response_s
        deadline_s = policy.deadline_s if first_s is None else first_s
        if spent_s + delay_s > deadline_s:
            self._given_up.add()
            tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            raise type(error)(f"{error} (gave up after {tries} in {spent_s:.0f} s)") from error
        level = logging.DEBUG
        if attempts > _ATTEMPTS_BEFORE_WARNING:
            level = logging.WARNING
            self._metrics.note_error("the store", error)
        _log.log(level, "%s; attempt %d follows in %.1f s", error, attempts + 1, delay_s)
        self._retries.add()
        if self._wait(delay_s):
            raise error

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        put = _RepeatablePut(self._inner, key, body, metadata)
        self.around(RequestKind.PUT, None, put.attempt)

    def get_pieces(
        self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None], *, may_end: bool = False
    ) -> None:
        get = partial(self._inner.get_pieces, may_end=may_end)
        self.around(RequestKind.GET, None, _ResumableGet(get, key, start, lengths, take).attempt)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete all batches, also after the store refused to delete some keys of one."""
        failures: list[DeleteFailed] = []
        for batch in batches(keys):
            try:
                self._delete_batch(batch)
            except DeleteFailed as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise DeleteFailed(f"{failures[0]}, and more", tuple(key for error in failures for key in error.keys))

    def close(self) -> None:
        self._closed.set()
        super().close()


class _ResumableGet:
    """One get in pieces over all its attempts: each asks for the pieces that are still missing."""

    def __init__(
        self, get: _GetPieces, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]
    ) -> None:
        self._get = get
        self._key = key
        self._start = start
        self._lengths = lengths
        self._take = take

    def attempt(self) -> None:
        self._get(self._key, self._start, self._lengths, self._take_piece)

    def _take_piece(self, piece: bytes) -> None:
        self._start += len(piece)
        self._lengths = self._lengths[1:]
        self._take(piece)


class _RepeatablePut:
    """One put over all its attempts."""

    def __init__(self, inner: ObjectStore, key: str, body: Body, metadata: Mapping[str, str]) -> None:
        self._inner = inner
        self._key = key
        self._body = body
        self._metadata = metadata
        self._position = 0 if isinstance(body, bytes | bytearray | memoryview) else body.tell()
        self._size_bytes = body_size(body)
        self._may_be_applied = False
        """Whether an earlier attempt may have been applied."""

    def attempt(self) -> None:
        self._rewind()
        try:
            self._inner.put_if_absent(self._key, self._body, self._metadata)
        except ObjectExists:
            if not (self._may_be_applied and self._is_same_object()):
                raise
        except TransientStoreError:
            self._may_be_applied = True
            raise

    def _rewind(self) -> None:
        if not isinstance(self._body, bytes | bytearray | memoryview):
            self._body.seek(self._position)

    def _is_same_object(self) -> bool:
        """Whether the object has the bytes that are being put; they are compared in pieces.

        Raises:
            TransientStoreError: the store has no such object, although it has just refused the put for that reason.
        """
        try:
            if self._inner.head(self._key).size != self._size_bytes:
                return False
            self._rewind()
            return all(self._matches(start) for start in range(0, self._size_bytes, _COMPARE_BYTES))
        except ObjectMissing as error:
            text = f"{self._inner.url} refuses to create {self._key}, as it exists, and says that it does not exist"
            raise TransientStoreError(text) from error

    def _matches(self, start: int) -> bool:
        length = min(_COMPARE_BYTES, self._size_bytes - start)
        if isinstance(self._body, bytes | bytearray | memoryview):
            ours: bytes | memoryview = memoryview(self._body).cast("B")[start : start + length]
        else:
            ours = self._body.read(length)
        return self._inner.get_range(self._key, start, length) == ours
