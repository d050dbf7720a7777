# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits on concurrent requests and on bandwidth."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.errors import ObjectMissing, StoreUnreachable
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.wrappers import BandwidthLimitedStore, ConcurrencyLimitedStore, TokenBucket
from tests.objectstores.wrappers.scripted_store import ScriptedStore


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_no_more_requests_run_at_once_than_allowed_and_all_get_their_turn() -> None:
    inner = ScriptedStore()
    lock, running, most = threading.Lock(), 0, 0
    full = threading.Barrier(3)

    def enter() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(10)  # passes only when three run at once
        with lock:
            running -= 1

    inner.on_request = enter
    store = ConcurrencyLimitedStore(inner, 3)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda number: store.put_if_absent(f"a{number}", b""), range(12)))
    assert most == 3


def test_a_failed_request_releases_its_slot() -> None:
    store = ConcurrencyLimitedStore(ScriptedStore(), 1)
    for _ in range(3):
        with pytest.raises(ObjectMissing):
            store.get("a")


def test_a_bucket_allows_one_second_s_worth_at_once_and_then_delays() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock)
    assert [bucket.take(400), bucket.take(600), bucket.take(500), bucket.take(1000)] == [0, 0, 0.5, 1.5]
    clock.now_s += 1.5
    assert bucket.take(100) == pytest.approx(0.1)
    clock.now_s += 3600
    assert [bucket.take(1000), bucket.take(1)] == [0, pytest.approx(0.001)]


@given(sizes=st.lists(st.integers(0, 10_000), min_size=1, max_size=50), rate=st.integers(1, 10_000))
def test_the_rate_is_never_exceeded_by_more_than_one_second_s_worth(sizes: list[int], rate: int) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, clock)
    for count, size in enumerate(sizes, 1):
        clock.now_s += bucket.take(size)
        assert sum(sizes[:count]) <= rate * (clock.now_s + 1) * 1.000001 + 0.001


@pytest.mark.parametrize(
    ("request_", "up_s", "down_s"),
    [
        (lambda store: store.put_if_absent("b", b"x" * 500), 5, 0),
        (lambda store: store.get("a"), 0, 2),
        (lambda store: store.get_range("a", 0, 100), 0, 1),
        (lambda store: store.head("a"), 0, 0),
        (lambda store: store.list_page(), 0, 0),
        (lambda store: store.delete_many(["a"]), 0, 0),
    ],
)
def test_bytes_count_in_their_direction(request_: Callable[[ObjectStore], object], up_s: float, down_s: float) -> None:
    clock, waits = Clock(), list[float]()
    inner = ScriptedStore()
    inner.put_if_absent("a", b"x" * 200)
    store = BandwidthLimitedStore(inner, 100, 100, clock=clock, wait=waits.append)
    store.put_if_absent("c", b"x" * 100)
    store.get_range("a", 0, 100)  # the first second's worth is spent
    assert waits == []
    request_(store)
    assert sum(waits) == pytest.approx(up_s + down_s)


def test_a_request_that_waits_for_bandwidth_is_not_among_the_concurrent_ones() -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def wait(_: float) -> None:
        waiting.set()
        assert go_on.wait(10)

    inner = ScriptedStore()
    inner.put_if_absent("a", b"x")
    store = BandwidthLimitedStore(ConcurrencyLimitedStore(inner, 1), 1, clock=Clock(), wait=wait)
    thread = threading.Thread(target=store.put_if_absent, args=("b", b"x" * 1000))
    thread.start()
    assert waiting.wait(10)
    assert store.get("a") == b"x"
    go_on.set()
    thread.join(10)
    assert inner.get("b") == b"x" * 1000


def test_closing_ends_the_wait_for_bandwidth() -> None:
    store = BandwidthLimitedStore(ScriptedStore(), 0.001, clock=Clock())
    thread = threading.Thread(target=store.put_if_absent, args=("b", b"x" * 1000))
    thread.start()
    store.close()
    thread.join(10)
    assert not thread.is_alive()


def test_the_wait_for_bandwidth_does_not_count_as_the_time_of_an_attempt() -> None:
    inner = ScriptedStore(StoreUnreachable("no network"))
    store = BandwidthLimitedStore(inner, 100, clock=Clock(), wait=lambda _: None)
    with pytest.raises(StoreUnreachable) as caught:
        store.put_if_absent("a", b"x" * 500)
    assert caught.value.transfer_s == 4


class SilentStore(ScriptedStore):
    last_response_at_s = 0.0


def test_a_store_is_not_silent_while_a_request_waits_for_bandwidth() -> None:
    clock, seen = Clock(), list[float]()
    inner = SilentStore()

    def wait(delay_s: float) -> None:
        clock.now_s += delay_s
        seen.append(store.last_response_at_s)

    store = BandwidthLimitedStore(inner, 100, clock=clock, wait=wait)
    assert store.last_response_at_s == 0
    store.put_if_absent("a", b"x" * 500)
    clock.now_s += 60
    assert seen == [4] and store.last_response_at_s == 4
