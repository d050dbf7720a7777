# SPDX-License-Identifier: GPL-3.0-or-later
"""Some workers are always free, however many requests wait for the store or for room."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from cas3fs.errors import StoreUnreachable
from cas3fs.fuse.slots import PATIENCE_S, Slots

WAIT_S = 30


def never() -> float:
    """A store that was never heard."""
    return 0.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_writers_take_half_of_the_slots_and_readers_what_is_left() -> None:
    slots = Slots(6, never)
    assert [slots.take_for_writing(0) for _ in range(4)] == [True, True, True, False]
    with ExitStack() as readers:
        for _ in range(3):
            readers.enter_context(slots.reading())
    slots.give_back()
    assert slots.take_for_writing(0)


def test_readers_take_all_slots_when_nobody_writes() -> None:
    slots = Slots(6, never)
    with ExitStack() as readers:
        for _ in range(6):
            readers.enter_context(slots.reading())
        assert not slots.take_for_writing(0)
    assert slots.take_for_writing(0)


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_one_more_reader_waits_for_a_slot(pool: ThreadPoolExecutor) -> None:
    slots, inside = Slots(2, never), threading.Event()

    def read() -> None:
        with slots.reading():
            inside.set()

    with ExitStack() as readers:
        for _ in range(2):
            readers.enter_context(slots.reading())
        waiting: Future[None] = pool.submit(read)
        assert not inside.wait(0.05)
    waiting.result(WAIT_S)
    assert inside.is_set()


def test_one_more_reader_is_refused_at_once_when_the_store_has_answered_nobody_for_long() -> None:
    now_s = [0.0]
    slots = Slots(2, never, lambda: now_s[0])
    with slots.reading(), slots.reading():
        now_s[0] += PATIENCE_S
        with pytest.raises(StoreUnreachable, match="2 reads wait"), slots.reading():
            pytest.fail("there is no slot")
    with slots.reading():
        pass


def test_one_more_reader_waits_on_while_a_slow_store_still_sends(pool: ThreadPoolExecutor) -> None:
    now_s, asked = [0.0], threading.Event()

    def heard() -> float:
        asked.set()
        return now_s[0]

    slots = Slots(1, heard, lambda: now_s[0])

    def read() -> None:
        with slots.reading():
            pass

    with slots.reading():
        now_s[0] = 100 * PATIENCE_S
        waiting: Future[None] = pool.submit(read)
        assert asked.wait(WAIT_S)
        assert not waiting.done()
    waiting.result(WAIT_S)


def test_a_full_staging_refuses_no_reader() -> None:
    now_s = [0.0]
    slots = Slots(2, never, lambda: now_s[0])
    assert slots.take_for_writing(0)
    now_s[0] += 10 * PATIENCE_S
    with slots.reading():
        pass


def test_a_slot_is_free_again_after_a_read_that_failed() -> None:
    slots = Slots(1, never)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), slots.reading():
            raise ZeroDivisionError
    assert slots.take_for_writing(0)


@pytest.mark.promise("a-waiting-fsync-needs-a-slot")
def test_syncs_leave_two_slots_to_readers_and_writers() -> None:
    now_s = [0.0]
    slots = Slots(6, never, lambda: now_s[0])
    with ExitStack() as waiting:
        for _ in range(4):
            waiting.enter_context(slots.syncing())
        now_s[0] += PATIENCE_S
        with pytest.raises(StoreUnreachable, match="4 syncs wait"), slots.syncing():
            pytest.fail("there is no slot")
        assert slots.take_for_writing(0)
        waiting.enter_context(slots.reading())
        assert not slots.take_for_writing(0)
    with slots.syncing():
        pass


@pytest.mark.promise("a-waiting-fsync-needs-a-slot")
def test_syncs_readers_and_writers_together_leave_two_workers(pool: ThreadPoolExecutor) -> None:
    slots, inside = Slots(6, never), threading.Event()

    def sync() -> None:
        with slots.syncing():
            inside.set()

    with ExitStack() as waiting:
        for _ in range(3):
            assert slots.take_for_writing(0)
        waiting.enter_context(slots.reading())
        with ExitStack() as syncs:
            for _ in range(2):
                syncs.enter_context(slots.syncing())
            late: Future[None] = pool.submit(sync)
            assert not inside.wait(0.05)
        late.result(WAIT_S)


def test_the_first_sync_and_the_first_read_find_a_slot_whatever_others_wait() -> None:
    slots = Slots(1, never)
    assert slots.take_for_writing(0)
    with slots.syncing(), slots.reading():
        pass
