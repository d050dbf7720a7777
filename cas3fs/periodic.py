# SPDX-License-Identifier: GPL-3.0-or-later
"""Periodic work of a thread that survives its errors.

A thread that ended by an error would leave its work undone for the rest of the process's life, without a report. A
*guard* surrounds each run of such work: it logs exceptions, with a traceback where they are unexpected, and records
them in the metrics under its name, where ``stats`` shows them. A *periodic thread* runs a task within a guard.
"""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final

from cas3fs.errors import Cas3fsError
from cas3fs.metrics import Metrics

_FIRST_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 30.0

_log = logging.getLogger(__name__)


class FailureGuard:
    """A reusable context that swallows every `Exception`; for one thread at a time.

    Attributes:
        failures: how many of the last runs have failed, without a success in between.
    """

    def __init__(self, name: str, metrics: Metrics, message: str) -> None:
        """`name` is that of the work in ``stats``; `message` begins the line in the log, such as "commit failed"."""
        self._name = name
        self._metrics = metrics
        self._message = message
        self.failures = 0

    @property
    def pause_s(self) -> float:
        """How much longer than usual to wait before the next run: it doubles with each failure."""
        if not self.failures:
            return 0.0
        return float(min(_FIRST_PAUSE_S * 2 ** min(self.failures - 1, 10), _MAX_PAUSE_S))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self.failures = 0
            return False
        if not isinstance(error, Exception):
            return False
        self.failures += 1
        self._metrics.note_error(self._name, error)
        if isinstance(error, Cas3fsError | OSError):
            _log.error("%s: %s", self._message, error)
        else:
            _log.error("%s, with an unexpected error: %r", self._message, error, exc_info=error)
        return True


class PeriodicThread:
    """A thread that runs a task every `interval_s`; a daemon, so the process may end without it.

    Lock: none; `stop` may be called by any thread but its own.
    """

    def __init__(self, name: str, interval_s: float, task: Callable[[], bool | None], guard: FailureGuard) -> None:
        """`task` returns True to end the thread."""
        self._interval_s = interval_s
        self._task = task
        self._guard = guard
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; the first run follows after the interval."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s + self._guard.pause_s):
            with self._guard:
                if self._task():
                    return

    def stop(self) -> None:
        """End the thread; returns when a run in progress is finished."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
