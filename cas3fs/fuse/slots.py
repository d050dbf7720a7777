# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers may wait at once, so that some are always free for what needs no waiting.

Writers wait for room in staging, readers for the store. Together they never take more than all slots, and writers no
more than half, so that a full staging keeps nobody from reading.

A request cannot be given back to the kernel, so who finds no slot waits for one in its worker. Readers do so while the
store gives a sign of life, however slow: if it has given none for `PATIENCE_S`, and the longest waiting reader has
waited for as long, the others are refused at once. In an outage every worker is free again after that time, whatever
programs try.

Lock: the one of `_changed`; nothing else is locked or waited for under it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cas3fs.errors import StoreUnreachable

PATIENCE_S = 10.0


class Slots:
    """`limit` slots; see the module. `heard` tells when the store last gave a sign of life, by `clock`, in seconds."""

    def __init__(self, limit: int, heard: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._heard = heard
        self._writers_limit = (limit + 1) // 2
        self._clock = clock
        self._writers = 0
        self._reads: dict[object, float] = {}
        """When each began to wait, the earliest first."""
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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A slot for a reader who asks the store.

        Raises:
            StoreUnreachable: there is none, and the store has been silent for long.
        """
        ticket = object()
        with self._changed:
            while not self._may_read():
                self._changed.wait(self._left_s())
            self._reads[ticket] = self._clock()
        try:
            yield
        finally:
            with self._changed:
                del self._reads[ticket]
                self._changed.notify_all()

    def _may_write(self) -> bool:
        return self._writers < self._writers_limit and self._writers + len(self._reads) < self._limit

    def _may_read(self) -> bool:
        return not self._reads or self._writers + len(self._reads) < self._limit

    def _left_s(self) -> float:
        """How long to wait for the oldest reader's slot, or for a sign of life."""
        silent_since_s = max(next(iter(self._reads.values())), self._heard())
        left_s = silent_since_s + PATIENCE_S - self._clock()
        if left_s <= 0:
            raise StoreUnreachable(f"{len(self._reads)} reads wait for the store, which answers none of them")
        return left_s
