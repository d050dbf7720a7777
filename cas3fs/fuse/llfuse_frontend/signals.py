# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a mount on SIGTERM or SIGINT, without a chance that the signal is missed.

The binding's own handler sets a flag and relies on the signal to interrupt the calls in which its threads wait. A
thread that checks the flag just before the signal, and begins to wait just after it, sleeps until the next request
comes, perhaps for ever. So both signals are blocked in every thread, and one thread of this module waits for them. It
wakes the threads of the binding (SIGHUP for the main one, SIGUSR1 for the workers) again and again until the main loop
has ended. Before the loop runs, a signal ends the process at once: nothing has been promised by then. After the loop
the signal is recorded and otherwise ignored, so that storing data is completed.

Threads inherit the signal mask, so a mount's process enters this context before it starts any thread.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

_AWAITED = (signal.SIGTERM, signal.SIGINT)
_POLL_INTERVAL_S = 0.5
_WAKE_INTERVAL_S = 0.05
_WORKER_PREFIX = "fuse-worker-"
_FATAL_BASE = 128

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class StopSignals:
    """A context in which SIGTERM and SIGINT end the main loop that `run_loop` runs; for the main thread."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._loop_started = threading.Event()
        self._loop_ended = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._await, name="signals", daemon=True)
        self._main = threading.get_ident()

    def __enter__(self) -> Self:
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        # these handlers apply after the loop: a late wake-up must not end the process
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, _ignore)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)

    def run_loop(self, loop: Callable[[], _Result]) -> _Result:
        """Run `loop`, which a signal ends, and return its result."""
        self._loop_started.set()
        try:
            return loop()
        finally:
            self._loop_ended.set()

    def _await(self) -> None:
        while not self._closed.is_set():
            info = signal.sigtimedwait(_AWAITED, _POLL_INTERVAL_S)
            # if a debugger interrupts it as the timeout expires, CPython returns a result that was never filled in
            if info is None or info.si_signo not in _AWAITED:
                continue
            self.received = info.si_signo
            _log.info("received signal %d", info.si_signo)
            if not self._loop_started.is_set():
                os._exit(_FATAL_BASE + info.si_signo)
            while not self._loop_ended.wait(_WAKE_INTERVAL_S):
                try:
                    self._wake()
                except Exception:  # noqa: BLE001 - the next try may reach the loop; nothing else would end it
                    _log.exception("cannot wake the threads of the mount")

    def _wake(self) -> None:
        signal.pthread_kill(self._main, signal.SIGHUP)
        for thread in threading.enumerate():
            if thread.name.startswith(_WORKER_PREFIX) and thread.ident is not None:
                _interrupt(thread.ident)


def _interrupt(thread: int) -> None:
    try:
        signal.pthread_kill(thread, signal.SIGUSR1)
    except ProcessLookupError:
        _log.debug("a worker has ended already")


def _ignore(_number: int, _frame: Any) -> None:
    pass
