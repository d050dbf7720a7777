# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that reads requests stays on one processor while that is good for it, and others do not have to."""

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from cas3fs.fuse.kernel.placement import REVIEW_INTERVAL, Placement, processor, waited_ns

ALL = os.sched_getaffinity(0)
pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="there is one processor, so there is nothing to choose")
BUSY_NS = 100_000 * REVIEW_INTERVAL


class Clock:
    """How long the thread has waited for its processor; each question adds `step_ns`."""

    def __init__(self, step_ns: int = 0) -> None:
        self.now_ns, self.step_ns = 0, step_ns

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns


@pytest.fixture(autouse=True)
def anywhere() -> Iterator[None]:
    yield
    os.sched_setaffinity(0, ALL)


def reviews(placement: Placement, number: int) -> None:
    for _ in range(number):
        placement.review()


def test_it_settles_on_the_processor_where_it_runs() -> None:
    chosen = max(ALL)
    placement = Placement(Clock(), lambda: chosen)
    assert os.sched_getaffinity(0) == ALL
    reviews(placement, 1000)
    assert os.sched_getaffinity(0) == {chosen}
    placement.free()
    assert os.sched_getaffinity(0) == ALL


def test_it_leaves_a_processor_for_which_it_has_to_wait() -> None:
    clock = Clock()
    placement = Placement(clock, processor)
    reviews(placement, 100)
    assert len(os.sched_getaffinity(0)) == 1
    clock.step_ns = 100 * BUSY_NS
    for _ in range(100):
        placement.review()
        if os.sched_getaffinity(0) == ALL:
            break
    assert os.sched_getaffinity(0) == ALL


def test_it_settles_less_and_less_often_where_it_always_waits() -> None:
    placement = Placement(Clock(100 * BUSY_NS), processor)
    free = []
    for _ in range(8000):
        placement.review()
        free.append(os.sched_getaffinity(0) == ALL)
    assert sum(free[-4000:]) > 0.9 * 4000
    assert not all(free[-4000:]), "but it tries again"


def test_threads_made_by_a_settled_one_are_set_free() -> None:
    placement = Placement(Clock(), processor)
    reviews(placement, 2)
    begun, end, seen = threading.Event(), threading.Event(), []

    def run() -> None:
        begun.set()
        end.wait()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    placement.review()
    end.set()
    thread.join()
    assert seen == [ALL]
    assert len(os.sched_getaffinity(0)) == 1


def _raise() -> int:
    raise OSError("not here")


@pytest.mark.parametrize(
    ("waited", "place"), [(_raise, processor), (waited_ns, _raise), (Clock(), lambda: 100_000)], ids=["1", "2", "3"]
)
def test_it_stays_free_where_the_kernel_does_not_help(waited: Callable[[], int], place: Callable[[], int]) -> None:
    placement = Placement(waited, place)
    reviews(placement, 1000)
    assert os.sched_getaffinity(0) == ALL


def test_the_kernel_tells_where_a_thread_runs_and_how_long_it_waited() -> None:
    os.sched_setaffinity(0, {max(ALL)})
    assert processor() == max(ALL)
    assert 0 <= waited_ns() <= waited_ns()
