# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims on a store that ignores conditions, in any order of requests: one writer, and nobody taken over unasked."""

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
from cas3fs.objectstores.wrappers.wrapper import Operation, Result, StoreWrapper

NAMES = ("alpha", "beta", "gamma")
ORDERS = st.lists(st.integers(0, 2), max_size=60)
"""Whose request comes next; when it is used up, each goes on alone, the first one first."""


class Turns:
    """Lets one request pass at a time, in the order that is given. One condition guards everything."""

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


class OneOfThem(StoreWrapper):
    """The store as one writer sees it, who waits for its turn with each request."""

    def __init__(self, inner: MemoryStore, turns: Turns, who: int) -> None:
        super().__init__(inner)
        self._turns = turns
        self._who = who

    def around(self, operation: Operation, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        return self._turns.take(self._who, request)


def unfenced(store: MemoryStore | OneOfThem) -> Epochs:
    return Epochs(Shelf(store), fenced=False, sleep=lambda wait_s: None)


def claims_in(order: Sequence[int], store: MemoryStore, take_over: Sequence[bool]) -> list[Claim | None]:
    """What each of three writers gets that claim at once, their requests in this order."""
    turns = Turns(order)

    def claim(who: int) -> Claim | None:
        try:
            mine = unfenced(OneOfThem(store, turns, who))
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
def test_of_three_that_claim_at_once_one_wins_at_most(order: list[int]) -> None:
    store = MemoryStore()
    won = [one for one in claims_in(order, store, (False, False, False)) if one is not None]
    newest = unfenced(store).newest()
    assert [one.uuid for one in won] == ([] if newest is None else [newest.entry.claim])


@pytest.mark.promise("rival-claims-withdraw", "a-held-volume-refuses-others")
@given(ORDERS)
def test_a_held_epoch_goes_only_to_one_that_takes_over_and_is_told_as_taken_over(order: list[int]) -> None:
    store = MemoryStore()
    with TemporaryDirectory() as folder:
        held = unfenced(store).claim(WriterIdentity("delta", "user", 4), Path(folder) / "delta")
    *asked, unasked = claims_in(order, store, (True, True, False))
    won = [one for one in asked if one is not None]
    assert unasked is None
    assert sum(unfenced(store).is_newest(one) for one in won) == min(1, len(won))
    assert (held.epoch in unfenced(store).overruled()) == bool(won)
