# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader waits awake where requests follow each other, and asleep everywhere else."""

import time
from collections.abc import Callable

import pytest

from cas3fs.fuse.kernel.channel import ConnectionEnded
from cas3fs.fuse.kernel.waiting import ATTEMPTS, REST, Waiter

BUFFERS: list[memoryview] = []


class Scripted:
    """A channel: `attempts` says how many attempts each request takes while reads do not wait."""

    def __init__(self, attempts: int, *, before_each: Callable[[], object] = lambda: None) -> None:
        self.attempts = self.left = attempts
        self.before_each = before_each
        self.blocking = True
        self.slept = 0
        self.has_ended = False

    def set_blocking(self, blocking: bool) -> None:
        self.blocking = blocking

    def receive(self, buffers: list[memoryview]) -> int:
        assert self.blocking
        self.slept += 1
        self.left = self.attempts
        return 40

    def receive_now(self, buffers: list[memoryview]) -> int | None:
        assert not self.blocking
        self.before_each()
        if self.has_ended:
            raise ConnectionEnded
        self.left -= 1
        if self.left:
            return None
        self.left = self.attempts
        return 40


def receive(waiter: Waiter, number: int) -> None:
    for _ in range(number):
        assert waiter.receive(BUFFERS) == 40


def test_requests_that_follow_each_other_are_waited_for_awake() -> None:
    channel = Scripted(ATTEMPTS // 2)
    waiter = Waiter(channel)  # type: ignore[arg-type]
    receive(waiter, 1000)
    before = channel.slept
    receive(waiter, 10_000)
    assert (waiter.is_spinning, channel.slept, channel.blocking) == (True, before, True)


def test_rare_requests_are_waited_for_asleep() -> None:
    channel = Scripted(ATTEMPTS + 1)
    waiter = Waiter(channel)  # type: ignore[arg-type]
    receive(waiter, 1000)
    assert not waiter.is_spinning
    tries = []
    channel.before_each = lambda: tries.append(1)
    receive(waiter, 10 * REST)
    assert 0 < len(tries) < 0.03 * 10 * REST * ATTEMPTS


def test_a_reader_that_is_held_up_rests() -> None:
    channel = Scripted(2, before_each=lambda: time.sleep(0.0001))
    waiter = Waiter(channel)  # type: ignore[arg-type]
    receive(waiter, 200)
    assert not waiter.is_spinning


def test_the_end_is_passed_on_and_reads_wait_again() -> None:
    channel = Scripted(3)
    waiter = Waiter(channel)  # type: ignore[arg-type]
    receive(waiter, 200)
    assert waiter.is_spinning
    channel.has_ended = True
    with pytest.raises(ConnectionEnded):
        waiter.receive(BUFFERS)
    assert channel.blocking
