# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters, timers and gauges, kept by one `Metrics` object that is handed to the rooms.

Vocabulary: a *counter* only grows; a *timer* counts how often something was done, the seconds it took in all and the
longest one; a *gauge* is a value that rises and falls, set by its owner or asked for when a snapshot is taken; a
*snapshot* is all of them at one moment, as plain numbers by name; a *trouble* is the last error of something that goes
on in spite of errors. Names are words joined by dots, from the room to the
detail: ``store.put.bytes``. There is no global registry: who wants to count is given a `Metrics`.

Locks: each counter and timer has one of its own, held for an addition and nothing else, so it may be taken under any
other lock. The registry's lock is held while a name is looked up or made: keep the returned object where speed matters.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple


class Counter:
    """A number that only grows."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0

    def add(self, amount: int = 1) -> None:
        """Count `amount` more; safe from any thread."""
        with self._lock:
            self._value += amount

    @property
    def value(self) -> int:
        """What was counted so far."""
        return self._value


class _Begins(threading.local):
    """When the measurements under way in this thread began, innermost last, in seconds."""

    def __init__(self) -> None:
        self.stack: list[float] = []


class Timer:
    """How often, how long in all, and how long at most, in seconds.

    ``with timer:`` measures its body, also when that raises, in any thread and nested; `observe` enters a duration.
    """

    __slots__ = ("_begins", "_clock", "_count", "_lock", "_longest_s", "_total_s")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begins = _Begins()
        self._lock = threading.Lock()
        self._count = 0
        self._total_s = 0.0
        self._longest_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Enter one duration; safe from any thread."""
        with self._lock:
            self._count += 1
            self._total_s += duration_s
            self._longest_s = max(self._longest_s, duration_s)

    def __enter__(self) -> None:
        self._begins.stack.append(self._clock())

    def __exit__(self, *_: object) -> None:
        self.observe(self._clock() - self._begins.stack.pop())

    def values(self) -> tuple[int, float, float]:
        """Count, seconds in all, seconds of the longest: of one moment."""
        with self._lock:
            return self._count, self._total_s, self._longest_s


class Gauge:
    """A value that rises and falls."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: float = 0

    def set(self, value: float) -> None:
        """Take this value."""
        self._value = value

    def add(self, amount: float) -> None:
        """Rise by `amount`, or fall where it is negative."""
        with self._lock:
            self._value += amount

    @property
    def value(self) -> float:
        """The value now."""
        return self._value


class LastError(NamedTuple):
    """The last error of something that went on, and how many there were."""

    error: str
    time: str
    """ISO 8601, UTC."""
    times: int


class Metrics:
    """All counters, timers and gauges of one program or test, by name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[str, Counter] = {}
        self._timers: dict[str, Timer] = {}
        self._gauges: dict[str, Gauge] = {}
        self._watched: dict[str, Callable[[], float]] = {}
        self._last_errors: dict[str, LastError] = {}

    def note_error(self, name: str, error: BaseException) -> None:
        """Something of that name failed, and goes on; safe from any thread."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        said = str(error) or type(error).__name__
        with self._lock:
            before = self._last_errors.get(name)
            self._last_errors[name] = LastError(said, now, 1 if before is None else before.times + 1)

    def last_errors(self) -> dict[str, LastError]:
        """The last error of each name that had any."""
        with self._lock:
            return dict(sorted(self._last_errors.items()))

    def counter(self, name: str) -> Counter:
        """The counter of that name, made at first use."""
        with self._lock:
            return self._counters.setdefault(name, Counter())

    def timer(self, name: str) -> Timer:
        """The timer of that name, made at first use; for ``with`` or `observe`."""
        with self._lock:
            return self._timers.setdefault(name, Timer(self._clock))

    def gauge(self, name: str) -> Gauge:
        """The gauge of that name, made at first use."""
        with self._lock:
            return self._gauges.setdefault(name, Gauge())

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Ask `read` for the value of `name` whenever a snapshot is taken; it must be quick and must not raise."""
        with self._lock:
            self._watched[name] = read

    def snapshot(self) -> dict[str, float]:
        """Everything now; a timer gives three values: ``.count``, ``.seconds`` and ``.longest_seconds``.

        Watched values are read outside the registry's lock, so they may take locks of their own.
        """
        with self._lock:
            counters, timers = dict(self._counters), dict(self._timers)
            gauges, watched = dict(self._gauges), dict(self._watched)
        values: dict[str, float] = {name: counter.value for name, counter in counters.items()}
        values |= {name: gauge.value for name, gauge in gauges.items()}
        values |= {name: read() for name, read in watched.items()}
        for name, timer in timers.items():
            count, total_s, longest_s = timer.values()
            values |= {f"{name}.count": count, f"{name}.seconds": total_s, f"{name}.longest_seconds": longest_s}
        return dict(sorted(values.items()))
