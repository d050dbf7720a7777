# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters, timers and gauges."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cas3fs.metrics import Metrics


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_one_name_is_one_counter() -> None:
    metrics = Metrics()
    metrics.counter("a.b").add()
    metrics.counter("a.b").add(4)
    assert metrics.counter("a.b").value == 5


def test_threads_lose_no_count() -> None:
    metrics = Metrics()
    counter, gauge, timer = metrics.counter("c"), metrics.gauge("g"), metrics.timer("t")

    def count(_: int) -> None:
        for _ in range(2000):
            counter.add(2)
            gauge.add(-1)
            timer.observe(0.5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert metrics.snapshot() == {
        "c": 32_000, "g": -16_000, "t.count": 16_000, "t.seconds": 8_000, "t.longest_seconds": 0.5,
    }  # fmt: skip


def test_a_timer_measures_nested_bodies_and_those_that_raise() -> None:
    clock = Clock()
    timer = Metrics(clock).timer("t")
    with timer:
        clock.now_s += 2
        with pytest.raises(ValueError, match="no"), timer:
            clock.now_s += 3
            raise ValueError("no")
    assert timer.values() == (2, 8.0, 5.0)


def test_a_watched_value_is_read_when_a_snapshot_is_taken() -> None:
    metrics = Metrics()
    values = iter([1, 2])
    metrics.watch("w", lambda: next(values))
    assert [metrics.snapshot()["w"], metrics.snapshot()["w"]] == [1, 2]


def test_a_snapshot_is_sorted_by_name_and_does_not_change() -> None:
    metrics = Metrics()
    metrics.gauge("z").set(3)
    metrics.counter("b")
    metrics.timer("m")
    snapshot = metrics.snapshot()
    metrics.counter("b").add()
    assert list(snapshot) == ["b", "m.count", "m.longest_seconds", "m.seconds", "z"]
    assert snapshot["b"] == 0
