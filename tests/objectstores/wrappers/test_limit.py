# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits on concurrent requests and on bandwidth."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.errors import ObjectMissing
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.wrappers import LimitedStore, TokenBucket
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
    store = LimitedStore(inner, 3)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda number: store.put_if_absent(f"a{number}", b""), range(12)))
    assert most == 3


def test_a_failed_request_gives_its_place_back() -> None:
    store = LimitedStore(ScriptedStore(), 1)
    for _ in range(3):
        with pytest.raises(ObjectMissing):
            store.get("a")


def test_a_bucket_lets_a_second_s_worth_through_at_once_and_then_asks_for_patience() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock)
    assert [bucket.take(400), bucket.take(600), bucket.take(500), bucket.take(1000)] == [0, 0, 0.5, 1.5]
    clock.now_s += 1.5
    assert bucket.take(100) == pytest.approx(0.1)
    clock.now_s += 3600
    assert [bucket.take(1000), bucket.take(1)] == [0, pytest.approx(0.001)]


@given(sizes=st.lists(st.integers(0, 10_000), min_size=1, max_size=50), rate=st.integers(1, 10_000))
def test_who_waits_as_told_never_exceeds_the_rate_by_more_than_one_second(sizes: list[int], rate: int) -> None:
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
        (lambda store: store.get_suffix("a", 100), 0, 1),
        (lambda store: store.get_range("a", 0, 100), 0, 1),
        (lambda store: store.head("a"), 0, 0),
        (lambda store: store.list_page(), 0, 0),
        (lambda store: store.delete_many(["a"]), 0, 0),
    ],
)
def test_bytes_are_paid_in_their_direction(
    request_: Callable[[ObjectStore], object], up_s: float, down_s: float
) -> None:
    clock, waits = Clock(), list[float]()
    inner = ScriptedStore()
    inner.put_if_absent("a", b"x" * 200)
    up, down = TokenBucket(100, clock), TokenBucket(100, clock)
    up.take(100)
    down.take(100)  # the first second's worth is spent
    request_(LimitedStore(inner, 8, up, down, wait=waits.append))
    assert sum(waits) == pytest.approx(up_s + down_s)


def test_who_waits_for_bandwidth_holds_no_place() -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def wait(_: float) -> None:
        waiting.set()
        assert go_on.wait(10)

    inner = ScriptedStore()
    inner.put_if_absent("a", b"x")
    store = LimitedStore(inner, 1, upload=TokenBucket(1, Clock()), wait=wait)
    thread = threading.Thread(target=store.put_if_absent, args=("b", b"x" * 1000))
    thread.start()
    assert waiting.wait(10)
    assert store.get("a") == b"x"
    go_on.set()
    thread.join(10)
    assert inner.get("b") == b"x" * 1000


def test_closing_ends_the_wait_for_bandwidth() -> None:
    store = LimitedStore(ScriptedStore(), 1, upload=TokenBucket(0.001, Clock()))
    thread = threading.Thread(target=store.put_if_absent, args=("b", b"x" * 1000))
    thread.start()
    store.close()
    thread.join(10)
    assert not thread.is_alive()
