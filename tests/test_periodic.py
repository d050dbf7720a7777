# SPDX-License-Identifier: GPL-3.0-or-later
"""Periodic work continues after any exception, and the last one is reported."""

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
def test_a_failed_run_is_followed_by_the_next(error: Exception) -> None:
    runs, third = [], threading.Event()

    def run() -> None:
        runs.append(error)
        if len(runs) == 3:
            third.set()
        raise error

    metrics = Metrics()
    thread = PeriodicThread("test", 0.001, run, FailureGuard("test", metrics, "it failed"))
    thread.start()
    try:
        assert third.wait(WAIT_S)
    finally:
        thread.stop()
    last_error = metrics.last_errors()["test"]
    assert last_error.times == len(runs)
    assert last_error.error == str(error) or last_error.error == type(error).__name__
    assert (datetime.now(UTC) - datetime.fromisoformat(last_error.time)).total_seconds() < WAIT_S


def test_an_expected_error_is_one_line_in_the_log_and_any_other_has_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = FailureGuard("test", Metrics(), "it failed")
    for error in ERRORS:
        with guard:
            raise error
    assert [record.exc_info is not None for record in caplog.records] == [False, False, True]
    assert all(record.levelno == logging.ERROR and "it failed" in record.message for record in caplog.records)


def test_the_pause_grows_with_failures_and_ends_with_a_success() -> None:
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


def test_a_thread_ends_when_its_task_returns_true_and_interrupts_pass() -> None:
    metrics, runs = Metrics(), []

    def run() -> bool:
        runs.append(1)
        return True

    thread = PeriodicThread("test", 0.001, run, FailureGuard("test", metrics, "it failed"))
    thread.start()
    thread._thread.join(WAIT_S)
    assert (len(runs), metrics.last_errors()) == (1, {})
    with pytest.raises(KeyboardInterrupt), FailureGuard("test", metrics, "it failed"):
        raise KeyboardInterrupt


def test_a_thread_that_was_never_started_can_be_stopped() -> None:
    PeriodicThread("test", 60, lambda: None, FailureGuard("test", Metrics(), "it failed")).stop()
