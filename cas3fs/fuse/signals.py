# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a mount on SIGTERM or SIGINT, without a chance that the signal is missed.

A handler of Python's runs in the main thread only, when that gets to it. So both signals are blocked in every thread,
and one thread of this module waits for them. It calls what ends the main loop, again and again until the loop has
ended. Before the loop runs, a signal ends the process at once: nothing has been promised by then. After the loop the
signal is recorded and otherwise ignored, so that storing data is completed.

Threads inherit the signal mask, so a mount's process enters this context before it starts any thread.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

_AWAITED = (signal.SIGTERM, signal.SIGINT)
_POLL_INTERVAL_S = 0.5
_WAKE_INTERVAL_S = 0.05
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
        self._end_loop: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)

    def run_loop(self, loop: Callable[[], _Result], end_loop: Callable[[], None]) -> _Result:
        """Run `loop` and return its result. When a signal comes, `end_loop` is called in another thread, once or more
        often, to end it."""
        self._end_loop = end_loop
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
                    self._end_loop()
                except Exception:  # noqa: BLE001 - the next try may reach the loop; nothing else would end it
                    _log.exception("cannot end the mount")
