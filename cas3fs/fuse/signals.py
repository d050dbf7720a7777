# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending a mount by SIGTERM or SIGINT, without the chance that the signal is missed.

The binding's own handler sets a flag and relies on the signal to interrupt what its threads wait in. A thread that
looks at the flag just before, and begins to wait just after, sleeps on until the next request comes, perhaps for
ever. So both signals are blocked in every thread and awaited by one of ours, which wakes the threads of the binding
(SIGHUP for the main one, SIGUSR1 for the workers) again and again until the main loop has ended. Before the loop
runs, a signal ends the process at once: nothing has been promised by then. After the loop it is noted and otherwise
ignored: what is being stored then is stored to the end.

The mask is inherited by threads that are made later, so this comes first in the life of a mount's process.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

_AWAITED = (signal.SIGTERM, signal.SIGINT)
_LOOK_INTERVAL_S = 0.5
_WAKE_INTERVAL_S = 0.05
_WORKER_PREFIX = "fuse-worker-"
_FATAL_BASE = 128

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class StopSignals:
    """A context in which SIGTERM and SIGINT end the main loop that `ending_by` runs; for the main thread."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._loop_begun = threading.Event()
        self._loop_over = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._await, name="signals", daemon=True)
        self._main = threading.get_ident()

    def __enter__(self) -> Self:
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        # what is in force after the loop: a late wake-up must not end the process
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

    def ending(self, loop: Callable[[], _Result]) -> _Result:
        """Runs `loop`, which a signal ends; gives what it gives."""
        self._loop_begun.set()
        try:
            return loop()
        finally:
            self._loop_over.set()

    def _await(self) -> None:
        while not self._closed.is_set():
            told = signal.sigtimedwait(_AWAITED, _LOOK_INTERVAL_S)
            # interrupted as its time is up (a debugger does that), CPython returns a result that was never filled
            if told is None or told.si_signo not in _AWAITED:
                continue
            self.received = told.si_signo
            _log.info("received signal %d", told.si_signo)
            if not self._loop_begun.is_set():
                os._exit(_FATAL_BASE + told.si_signo)
            while not self._loop_over.wait(_WAKE_INTERVAL_S):
                try:
                    self._wake()
                except Exception:  # noqa: BLE001 - the next try may reach the loop, which nothing else would end
                    _log.exception("the threads of the mount could not be woken")

    def _wake(self) -> None:
        signal.pthread_kill(self._main, signal.SIGHUP)
        for thread in threading.enumerate():
            if thread.name.startswith(_WORKER_PREFIX) and thread.ident is not None:
                _poke(thread.ident)


def _poke(thread: int) -> None:
    try:
        signal.pthread_kill(thread, signal.SIGUSR1)
    except ProcessLookupError:
        _log.debug("a worker had ended already")


def _ignore(_number: int, _frame: Any) -> None:
    pass
