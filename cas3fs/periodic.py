# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that a thread does again and again, and that survives whatever it raises.

A thread that ended by an error would leave its work undone for the rest of the process's life, and nobody would be
told. A *guard* stands around each turn of such work: what is raised within is logged, with a traceback where it was not
foreseen, noted in the metrics under the guard's name, where ``stats`` finds it, and ends nothing but the turn. A
*rhythm* is a thread with a guard around its turns.
"""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final

from cas3fs.errors import Cas3fsError
from cas3fs.metrics import Metrics

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 30.0

_log = logging.getLogger(__name__)


class FailureGuard:
    """A context out of which no `Exception` comes; for one thread at a time, again and again.

    Attributes:
        failures: how many turns have failed one after the other.
    """

    def __init__(self, name: str, metrics: Metrics, what: str) -> None:
        """`name`: of the work, for ``stats``; `what`: begins the line in the log, such as "commit failed"."""
        self._name = name
        self._metrics = metrics
        self._what = what
        self.failures = 0

    @property
    def pause_s(self) -> float:
        """How much longer than usual to wait before the next turn: the longer the oftener the last ones failed."""
        if not self.failures:
            return 0.0
        return float(min(_FIRST_PAUSE_S * 2 ** min(self.failures - 1, 10), _LONGEST_PAUSE_S))

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
            _log.error("%s: %s", self._what, error)
        else:
            _log.error("%s, in a way that was not foreseen: %r", self._what, error, exc_info=error)
        return True


class PeriodicThread:
    """A thread that takes a turn every `interval_s`; a daemon, so a process may end without it.

    Lock: none; `stop` may be called by any thread but its own.
    """

    def __init__(self, name: str, interval_s: float, turn: Callable[[], bool | None], guard: FailureGuard) -> None:
        """`turn` gives True when no other is wanted."""
        self._interval_s = interval_s
        self._turn = turn
        self._guard = guard
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """The first turn comes after the interval."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s + self._guard.pause_s):
            with self._guard:
                if self._turn():
                    return

    def stop(self) -> None:
        """Ends the rhythm; returns when a turn under way is finished."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
