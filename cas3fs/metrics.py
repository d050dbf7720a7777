# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters, timers and gauges, kept by one `Metrics` object that is passed to the subpackages.

Vocabulary:

- *counter*: a number that only grows.
- *timer*: how often something was done, the seconds it took in total, and the longest one.
- *gauge*: a value that rises and falls; its owner sets it, or it is read when a snapshot is taken.
- *snapshot*: all of them at one moment, as plain numbers by name.
- *last error*: of background work that continues in spite of errors.

Names are words joined by dots, from the subpackage to the detail: ``store.put.bytes``. There is no global registry:
whatever counts is passed a `Metrics`.

Locks: each counter and timer has its own, held only for an addition, so it may be taken under any other lock. The lock
of `Metrics` is held while a name is looked up: keep the returned object where speed matters.
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
        """Add `amount`; safe from any thread."""
        with self._lock:
            self._value += amount

    @property
    def value(self) -> int:
        """The count so far."""
        return self._value


class _StartTimes(threading.local):
    """When the running measurements of this thread began, in seconds; the innermost is last."""

    def __init__(self) -> None:
        self.stack: list[float] = []


class Timer:
    """How often something was done, and for how many seconds in total and at most.

    ``with timer:`` measures its body, also where it raises, in any thread and nested; `observe` adds a duration.
    """

    __slots__ = ("_clock", "_count", "_lock", "_longest_s", "_start_times", "_total_s")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start_times = _StartTimes()
        self._lock = threading.Lock()
        self._count = 0
        self._total_s = 0.0
        self._longest_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Add one duration; safe from any thread."""
        with self._lock:
            self._count += 1
            self._total_s += duration_s
            self._longest_s = max(self._longest_s, duration_s)

    def __enter__(self) -> None:
        self._start_times.stack.append(self._clock())

    def __exit__(self, *_: object) -> None:
        self.observe(self._clock() - self._start_times.stack.pop())

    def values(self) -> tuple[int, float, float]:
        """The count, the total seconds and the longest seconds, all of one moment."""
        with self._lock:
            return self._count, self._total_s, self._longest_s


class Gauge:
    """A value that rises and falls."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: float = 0

    def set(self, value: float) -> None:
        """Set the value."""
        self._value = value

    def add(self, amount: float) -> None:
        """Add `amount`, which may be negative."""
        with self._lock:
            self._value += amount

    @property
    def value(self) -> float:
        """The current value."""
        return self._value


class LastError(NamedTuple):
    """The last error of background work, and how many there were."""

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
        """Record an error of the background work `name`; safe from any thread."""
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
        """The counter `name`, created at first use."""
        with self._lock:
            return self._counters.setdefault(name, Counter())

    def timer(self, name: str) -> Timer:
        """The timer `name`, created at first use."""
        with self._lock:
            return self._timers.setdefault(name, Timer(self._clock))

    def gauge(self, name: str) -> Gauge:
        """The gauge `name`, created at first use."""
        with self._lock:
            return self._gauges.setdefault(name, Gauge())

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Call `read` for the value of `name` whenever a snapshot is taken; it must be fast and must not raise."""
        with self._lock:
            self._watched[name] = read

    def snapshot(self) -> dict[str, float]:
        """All current values; a timer has three: ``.count``, ``.seconds`` and ``.longest_seconds``.

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
