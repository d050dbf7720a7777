# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers may wait at once, so that some are always free for what needs no waiting.

Writers wait for room in staging, readers for the store, and an fsync that is to reach the store for a snapshot.
Together they never take more than all slots; writers no more than half, so that a full staging keeps nobody from
reading; and syncs leave two slots free, but for the first of them.

A request cannot be given back to the kernel, so who finds no slot waits for one in its worker. Readers and syncs do so
while the store gives a sign of life, however slow: if it has given none for `PATIENCE_S`, and the one of their kind
that waits the longest has waited for as long, the others are refused at once. In an outage every other worker is free
again after that time, whatever programs try.

Lock: the one of `_changed`; nothing else is locked or waited for under it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from cas3fs.errors import StoreUnreachable

PATIENCE_S = 10.0
_LEFT_BY_SYNCS = 2


class Slots:
    """`limit` slots; see the module. `heard` tells when the store last gave a sign of life, by `clock`, in seconds."""

    def __init__(self, limit: int, heard: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._heard = heard
        self._writers_limit = (limit + 1) // 2
        self._syncs_limit = max(1, limit - _LEFT_BY_SYNCS)
        self._clock = clock
        self._writers = 0
        self._reads: dict[object, float] = {}
        """When each began to wait, the earliest first."""
        self._syncs: dict[object, float] = {}
        self._changed = threading.Condition()

    def take_for_writing(self, timeout_s: float) -> bool:
        """Takes a slot for a writer, waiting for it up to `timeout_s`; False if there was none."""
        with self._changed:
            if not self._changed.wait_for(self._may_write, timeout_s):
                return False
            self._writers += 1
            return True

    def give_back(self) -> None:
        """Gives a writer's slot back."""
        with self._changed:
            self._writers -= 1
            self._changed.notify_all()

    def reading(self) -> AbstractContextManager[None]:
        """A slot for a reader who asks the store.

        Raises:
            StoreUnreachable: there is none, and the store has been silent for long.
        """
        return self._waiting(self._reads, self._may_read, "reads")

    def syncing(self) -> AbstractContextManager[None]:
        """A slot for an fsync that waits for the store.

        Raises:
            StoreUnreachable: there is none, and the store has been silent for long.
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

    def _taken(self) -> int:
        return self._writers + len(self._reads) + len(self._syncs)

    def _may_write(self) -> bool:
        return self._writers < self._writers_limit and self._taken() < self._limit

    def _may_read(self) -> bool:
        return not self._reads or self._taken() < self._limit

    def _may_sync(self) -> bool:
        return not self._syncs or (len(self._syncs) < self._syncs_limit and self._taken() < self._limit)

    def _left_s(self, kind: dict[object, float], name: str) -> float:
        """How long to wait for the slot of the oldest of that kind, or for a sign of life."""
        silent_since_s = max(next(iter(kind.values())), self._heard())
        left_s = silent_since_s + PATIENCE_S - self._clock()
        if left_s <= 0:
            raise StoreUnreachable(f"{len(kind)} {name} wait for the store, which answers none of them")
        return left_s
