# SPDX-License-Identifier: GPL-3.0-or-later
"""Tries again what may work the next time: every `TransientStoreError`, and nothing else.

The pause grows: it is a random part of ``base_delay_s * 2**n`` (full jitter: many clients that failed together do not
come back together), at most a random part of ``max_delay_s``. When the next attempt would begin after the deadline, the
last error is raised, with the number of attempts in its text. The time for which the bytes of a request moved does not
count: over a slow line a long object is tried as often as a short one.

A put that failed unclearly may have been applied. If a later attempt of it finds the name taken, what lies there is
read and compared: the same bytes are ours, and the put succeeded. Whoever needs to tell two writers apart puts
something of its own into the bytes.

From the third attempt on an error is in the log, and noted in the metrics, where ``stats`` shows the last one.

Closing ends the pauses: whoever waits gets the last error at once.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from cas3fs.errors import DeleteFailed, ObjectExists, ObjectMissing, StoreError, TransientStoreError
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import Body, ObjectStore, batches, body_size
from cas3fs.objectstores.wrappers.wrapper import Operation, Result, StoreWrapper

_log = logging.getLogger(__name__)
_COMPARE_BYTES: Final = 8 << 20
_QUIET_ATTEMPTS: Final = 2
"""Failures that are not worth a line in the log at its usual level."""


class RetryPolicy(NamedTuple):
    """How long, and how eagerly."""

    deadline_s: float = 120
    """No attempt begins later than this after the first one began, not counting the time for which bytes moved."""
    base_delay_s: float = 0.2
    max_delay_s: float = 20
    first_response_s: float | None = None
    """In place of the deadline until the store has responded for the first time: at a terminal a wrong endpoint should
    show soon, while a store that responds is worth waiting for."""


class RetryingStore(StoreWrapper):
    """Tries again as `RetryPolicy` says."""

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
        """`wait` sleeps so many seconds and tells whether the store was closed; `jitter` gives a number in [0, 1)."""
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

    def around(self, operation: Operation, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        begin_s = self._clock()
        attempts = 0
        moving_s = 0.0
        while True:
            try:
                result = request()
                self._has_responded = True
                return result
            except TransientStoreError as error:
                attempts += 1
                moving_s += error.moving_s
                self._pause(error, attempts, begin_s + moving_s)
            except StoreError:
                self._has_responded = True
                raise

    def _pause(self, error: TransientStoreError, attempts: int, begin_s: float) -> None:
        """Wait for the next attempt, or raise what ends them."""
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
        if attempts > _QUIET_ATTEMPTS:
            level = logging.WARNING
            self._metrics.note_error("the store", error)
        _log.log(level, "%s; attempt %d follows in %.1f s", error, attempts + 1, delay_s)
        self._retries.add()
        if self._wait(delay_s):
            raise error

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        put = _RepeatablePut(self._inner, key, body, metadata)
        self.around(Operation.PUT, None, put.attempt)

    def get_pieces(self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        self.around(Operation.GET, None, _ResumedGet(self._inner, key, start, lengths, take).attempt)

    def delete_many(self, keys: Iterable[str]) -> None:
        """As in the interface; a batch that is refused in part does not keep the others from being deleted."""
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


class _ResumedGet:
    """One get in pieces over all its attempts: each asks for what no earlier one has brought."""

    def __init__(
        self, inner: ObjectStore, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]
    ) -> None:
        self._inner = inner
        self._key = key
        self._start = start
        self._lengths = lengths
        self._take = take

    def attempt(self) -> None:
        self._inner.get_pieces(self._key, self._start, self._lengths, self._taken)

    def _taken(self, piece: bytes) -> None:
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
        self._unclear = False
        """Whether an earlier attempt may have been applied."""

    def attempt(self) -> None:
        self._rewind()
        try:
            self._inner.put_if_absent(self._key, self._body, self._metadata)
        except ObjectExists:
            if not (self._unclear and self._is_ours()):
                raise
        except TransientStoreError:
            self._unclear = True
            raise

    def _rewind(self) -> None:
        if not isinstance(self._body, bytes | bytearray | memoryview):
            self._body.seek(self._position)

    def _is_ours(self) -> bool:
        """Whether the object has the very bytes that are being put; read in pieces, as they may be many.

        Raises:
            TransientStoreError: the store says that there is no such object, whose name it has just said to be taken.
        """
        try:
            if self._inner.head(self._key).size != self._size_bytes:
                return False
            self._rewind()
            return all(self._matches(start) for start in range(0, self._size_bytes, _COMPARE_BYTES))
        except ObjectMissing as error:
            text = f"{self._inner.url} says that {self._key} is taken, and that there is no such object"
            raise TransientStoreError(text) from error

    def _matches(self, start: int) -> bool:
        length = min(_COMPARE_BYTES, self._size_bytes - start)
        if isinstance(self._body, bytes | bytearray | memoryview):
            ours: bytes | memoryview = memoryview(self._body).cast("B")[start : start + length]
        else:
            ours = self._body.read(length)
        return self._inner.get_range(self._key, start, length) == ours
