# SPDX-License-Identifier: GPL-3.0-or-later
"""Concurrent claims on a store that ignores conditions, in any order of requests: at most one writer wins."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Claim, Epochs, WriterIdentity
from cas3fs.errors import EpochHeld
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.wrappers.wrapper import RequestKind, Result, StoreWrapper

NAMES = ("alpha", "beta", "gamma")
ORDERS = st.lists(st.integers(0, 2), max_size=60)
"""Which writer makes the next request; at the end of the list, each continues alone, the first one first."""


class Turns:
    """Lets one request through at a time, in a given order. One condition guards everything."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = list(reversed(order))
        self._active = set(range(len(NAMES)))
        self._changed = threading.Condition()

    def take(self, who: int, request: Callable[[], Result]) -> Result:
        with self._changed:
            assert self._changed.wait_for(lambda: self._next() == who, timeout=60)
            self._order = self._order[:-1]
            try:
                return request()
            finally:
                self._changed.notify_all()

    def leave(self, who: int) -> None:
        with self._changed:
            self._active.discard(who)
            self._changed.notify_all()

    def _next(self) -> int:
        while self._order and self._order[-1] not in self._active:
            self._order.pop()
        return self._order[-1] if self._order else min(self._active)


class TurnTakingStore(StoreWrapper):
    """The store of one writer, which waits for its turn with each request."""

    def __init__(self, inner: MemoryStore, turns: Turns, who: int) -> None:
        super().__init__(inner)
        self._turns = turns
        self._who = who

    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        return self._turns.take(self._who, request)


def unconditional(store: MemoryStore | TurnTakingStore) -> Epochs:
    return Epochs(Shelf(store), conditional_writes=False, sleep=lambda wait_s: None)


def claims_in(order: Sequence[int], store: MemoryStore, take_over: Sequence[bool]) -> list[Claim | None]:
    """Return the claims of three concurrent writers whose requests come in this order."""
    turns = Turns(order)

    def claim(who: int) -> Claim | None:
        try:
            mine = unconditional(TurnTakingStore(store, turns, who))
            return mine.claim(
                WriterIdentity(NAMES[who], "user", who), Path(folder) / NAMES[who], take_over=take_over[who]
            )
        except EpochHeld:
            return None
        finally:
            turns.leave(who)

    with TemporaryDirectory() as folder, ThreadPoolExecutor(len(NAMES)) as pool:
        return list(pool.map(claim, range(len(NAMES))))


@pytest.mark.promise("rival-claims-withdraw", "one-of-two-mounts-wins")
@given(ORDERS)
def test_at_most_one_of_three_concurrent_claims_wins(order: list[int]) -> None:
    store = MemoryStore()
    won = [one for one in claims_in(order, store, (False, False, False)) if one is not None]
    newest = unconditional(store).newest()
    assert [one.uuid for one in won] == ([] if newest is None else [newest.entry.claim])


@pytest.mark.promise("rival-claims-withdraw", "a-held-volume-refuses-others")
@given(ORDERS)
def test_a_held_epoch_goes_only_to_one_that_takes_over_and_is_overruled_then(order: list[int]) -> None:
    store = MemoryStore()
    with TemporaryDirectory() as folder:
        held = unconditional(store).claim(WriterIdentity("delta", "user", 4), Path(folder) / "delta")
    *asked, unasked = claims_in(order, store, (True, True, False))
    won = [one for one in asked if one is not None]
    assert unasked is None
    assert sum(unconditional(store).is_newest(one) for one in won) == min(1, len(won))
    assert (held.epoch in unconditional(store).overruled()) == bool(won)
