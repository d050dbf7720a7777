# SPDX-License-Identifier: GPL-3.0-or-later
"""Some workers are always free, however many requests wait for the store or for space in staging."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from cas3fs.errors import StoreUnreachable
from cas3fs.fuse.limiter import SILENCE_LIMIT_S, BlockingLimiter

WAIT_S = 30


def never() -> float:
    """The last response of a store that never sent anything."""
    return 0.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_writers_use_half_of_the_slots_and_readers_the_rest() -> None:
    limiter = BlockingLimiter(6, never)
    assert [limiter.acquire_for_write(0) for _ in range(4)] == [True, True, True, False]
    with ExitStack() as readers:
        for _ in range(3):
            readers.enter_context(limiter.reading())
    limiter.release_write()
    assert limiter.acquire_for_write(0)


def test_readers_use_all_slots_when_nobody_writes() -> None:
    limiter = BlockingLimiter(6, never)
    with ExitStack() as readers:
        for _ in range(6):
            readers.enter_context(limiter.reading())
        assert not limiter.acquire_for_write(0)
    assert limiter.acquire_for_write(0)


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_an_extra_reader_waits_for_a_slot(pool: ThreadPoolExecutor) -> None:
    limiter, inside = BlockingLimiter(2, never), threading.Event()

    def read() -> None:
        with limiter.reading():
            inside.set()

    with ExitStack() as readers:
        for _ in range(2):
            readers.enter_context(limiter.reading())
        waiting: Future[None] = pool.submit(read)
        assert not inside.wait(0.05)
    waiting.result(WAIT_S)
    assert inside.is_set()


def test_an_extra_reader_fails_at_once_when_the_store_is_silent() -> None:
    now_s = [0.0]
    limiter = BlockingLimiter(2, never, lambda: now_s[0])
    with limiter.reading(), limiter.reading():
        now_s[0] += SILENCE_LIMIT_S
        with pytest.raises(StoreUnreachable, match="2 reads wait"), limiter.reading():
            pytest.fail("there is no slot")
    with limiter.reading():
        pass


def test_an_extra_reader_keeps_waiting_while_a_slow_store_sends(pool: ThreadPoolExecutor) -> None:
    now_s, asked = [0.0], threading.Event()

    def last_response_at() -> float:
        asked.set()
        return now_s[0]

    limiter = BlockingLimiter(1, last_response_at, lambda: now_s[0])

    def read() -> None:
        with limiter.reading():
            pass

    with limiter.reading():
        now_s[0] = 100 * SILENCE_LIMIT_S
        waiting: Future[None] = pool.submit(read)
        assert asked.wait(WAIT_S)
        assert not waiting.done()
    waiting.result(WAIT_S)


def test_a_full_staging_fails_no_reader() -> None:
    now_s = [0.0]
    limiter = BlockingLimiter(2, never, lambda: now_s[0])
    assert limiter.acquire_for_write(0)
    now_s[0] += 10 * SILENCE_LIMIT_S
    with limiter.reading():
        pass


def test_a_slot_is_free_again_after_a_read_that_failed() -> None:
    limiter = BlockingLimiter(1, never)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limiter.reading():
            raise ZeroDivisionError
    assert limiter.acquire_for_write(0)


@pytest.mark.promise("a-waiting-fsync-needs-a-slot")
def test_syncs_leave_two_slots_to_readers_and_writers() -> None:
    now_s = [0.0]
    limiter = BlockingLimiter(6, never, lambda: now_s[0])
    with ExitStack() as waiting:
        for _ in range(4):
            waiting.enter_context(limiter.syncing())
        now_s[0] += SILENCE_LIMIT_S
        with pytest.raises(StoreUnreachable, match="4 syncs wait"), limiter.syncing():
            pytest.fail("there is no slot")
        assert limiter.acquire_for_write(0)
        waiting.enter_context(limiter.reading())
        assert not limiter.acquire_for_write(0)
    with limiter.syncing():
        pass


@pytest.mark.promise("a-waiting-fsync-needs-a-slot")
def test_syncs_readers_and_writers_share_the_limit(pool: ThreadPoolExecutor) -> None:
    limiter, inside = BlockingLimiter(6, never), threading.Event()

    def sync() -> None:
        with limiter.syncing():
            inside.set()

    with ExitStack() as waiting:
        for _ in range(3):
            assert limiter.acquire_for_write(0)
        waiting.enter_context(limiter.reading())
        with ExitStack() as syncs:
            for _ in range(2):
                syncs.enter_context(limiter.syncing())
            late: Future[None] = pool.submit(sync)
            assert not inside.wait(0.05)
        late.result(WAIT_S)


def test_the_first_sync_and_the_first_read_always_find_a_slot() -> None:
    limiter = BlockingLimiter(1, never)
    assert limiter.acquire_for_write(0)
    with limiter.syncing(), limiter.reading():
        pass
