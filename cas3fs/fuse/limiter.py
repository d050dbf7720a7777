# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounds how many workers wait at once, so that some are always free for requests that need not wait.

Writers wait for space in staging, readers for the store, and an fsync that must reach the store for a snapshot.
Together they never use more than all slots. Writers use at most half of them, so that a full staging stops no reader;
the kernel front-end, whose writers have threads of their own, gives them none.
Syncs leave two slots free, except for the first sync.

A request cannot be returned to the kernel, so a request that finds no slot waits for one in its worker. Readers and
syncs do so while the store responds, however slowly. If the store has sent nothing for `SILENCE_LIMIT_S`, and the
request of the same kind that has waited longest has waited that long, the others fail at once. In an outage every other
worker is free again after that time, whatever programs try.

Lock: the one of `_changed`; nothing else is locked or waited for under it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from cas3fs.errors import StoreUnreachable

SILENCE_LIMIT_S = 10.0
_SLOTS_NOT_FOR_SYNCS = 2


class BlockingLimiter:
    """Slots for requests that wait, up to `limit` of them; the rules are in the module's docstring."""

    def __init__(
        self, limit: int, last_response_at: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make the slots.

        Args:
            limit: how many requests may wait at once.
            last_response_at: when the store last sent something, by `clock`, in seconds.
            clock: the time in seconds.
        """
        self._limit = limit
        self._last_response_at = last_response_at
        self._writers_limit = (limit + 1) // 2
        self._syncs_limit = max(1, limit - _SLOTS_NOT_FOR_SYNCS)
        self._clock = clock
        self._writers = 0
        self._reads: dict[object, float] = {}
        """By request, when it began to wait, in that order."""
        self._syncs: dict[object, float] = {}
        self._changed = threading.Condition()

    def acquire_for_write(self, timeout_s: float) -> bool:
        """Take a slot for a writer, waiting up to `timeout_s` for it; False if there was none."""
        with self._changed:
            if not self._changed.wait_for(self._may_write, timeout_s):
                return False
            self._writers += 1
            return True

    def release_write(self) -> None:
        """Release a writer's slot."""
        with self._changed:
            self._writers -= 1
            self._changed.notify_all()

    def reading(self) -> AbstractContextManager[None]:
        """A slot for a reader that waits for the store.

        Raises:
            StoreUnreachable: no slot is free, and the store has sent nothing for `SILENCE_LIMIT_S`.
        """
        return self._waiting(self._reads, self._may_read, "reads")

    def syncing(self) -> AbstractContextManager[None]:
        """A slot for an fsync that waits for the store.

        Raises:
            StoreUnreachable: no slot is free, and the store has sent nothing for `SILENCE_LIMIT_S`.
        """
        return self._waiting(self._syncs, self._may_sync, "syncs")

    @contextmanager
    def _waiting(self, kind: dict[object, float], may_wait: Callable[[], bool], name: str) -> Iterator[None]:
        ticket = object()
        with self._changed:
            while not may_wait():
                self._changed.wait(self._left_s(kind, name))
            kind[ticket] = self._clock()
        try:
            yield
        finally:
            with self._changed:
                del kind[ticket]
                self._changed.notify_all()

    def _used(self) -> int:
        return self._writers + len(self._reads) + len(self._syncs)

    def _may_write(self) -> bool:
        return self._writers < self._writers_limit and self._used() < self._limit

    def _may_read(self) -> bool:
        return not self._reads or self._used() < self._limit

    def _may_sync(self) -> bool:
        return not self._syncs or (len(self._syncs) < self._syncs_limit and self._used() < self._limit)

    def _left_s(self, kind: dict[object, float], name: str) -> float:
        """How long a request may still wait for a slot before it fails."""
        silent_since_s = max(next(iter(kind.values())), self._last_response_at())
        left_s = silent_since_s + SILENCE_LIMIT_S - self._clock()
        if left_s <= 0:
            raise StoreUnreachable(f"{len(kind)} {name} wait for the store, which does not respond")
        return left_s
