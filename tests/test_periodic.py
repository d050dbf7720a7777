# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes on in the background goes on after any exception, and says what the last one was."""

import logging
import threading
from datetime import UTC, datetime

import pytest

from cas3fs.errors import StoreError
from cas3fs.metrics import Metrics
from cas3fs.periodic import FailureGuard, PeriodicThread

WAIT_S = 30
ERRORS = [StoreError("the store is away"), OSError(5, "Input/output error"), RuntimeError("can't start new thread")]


@pytest.mark.promise("background-work-survives-exceptions")
@pytest.mark.parametrize("error", [*ERRORS, MemoryError(), AssertionError(), KeyError("x"), RecursionError()])
def test_a_turn_that_fails_is_followed_by_the_next(error: Exception) -> None:
    turns, third = [], threading.Event()

    def turn() -> None:
        turns.append(error)
        if len(turns) == 3:
            third.set()
        raise error

    metrics = Metrics()
    rhythm = PeriodicThread("test", 0.001, turn, FailureGuard("test", metrics, "it failed"))
    rhythm.start()
    try:
        assert third.wait(WAIT_S)
    finally:
        rhythm.stop()
    trouble = metrics.last_errors()["test"]
    assert trouble.times == len(turns)
    assert trouble.error == str(error) or trouble.error == type(error).__name__
    assert (datetime.now(UTC) - datetime.fromisoformat(trouble.time)).total_seconds() < WAIT_S


def test_what_was_foreseen_is_one_line_in_the_log_and_anything_else_has_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = FailureGuard("test", Metrics(), "it failed")
    for error in ERRORS:
        with guard:
            raise error
    assert [record.exc_info is not None for record in caplog.records] == [False, False, True]
    assert all(record.levelno == logging.ERROR and "it failed" in record.message for record in caplog.records)


def test_the_pause_grows_while_turns_fail_and_is_over_with_the_first_that_does_not() -> None:
    guard = FailureGuard("test", Metrics(), "it failed")
    pauses = [guard.pause_s]
    for _ in range(20):
        with guard:
            raise KeyError
        pauses.append(guard.pause_s)
    assert pauses == sorted(pauses)
    assert pauses[0] == 0 < pauses[1] < 1 < pauses[-1] <= 60
    with guard:
        pass
    assert guard.pause_s == 0


def test_a_rhythm_ends_when_its_turn_says_so_and_an_interrupt_is_let_through() -> None:
    metrics, turns = Metrics(), []

    def turn() -> bool:
        turns.append(1)
        return True

    rhythm = PeriodicThread("test", 0.001, turn, FailureGuard("test", metrics, "it failed"))
    rhythm.start()
    rhythm._thread.join(WAIT_S)
    assert (len(turns), metrics.last_errors()) == (1, {})
    with pytest.raises(KeyboardInterrupt), FailureGuard("test", metrics, "it failed"):
        raise KeyboardInterrupt


def test_a_rhythm_that_never_began_can_be_stopped() -> None:
    PeriodicThread("test", 60, lambda: None, FailureGuard("test", Metrics(), "it failed")).stop()
