# SPDX-License-Identifier: GPL-3.0-or-later
"""gc of an open volume, on demand and at intervals.

The thread is a daemon; `GcScheduler.stop` ends a running gc before its next step and waits for it, so that nothing is
deleted after the epoch was released.
"""

import logging
import threading
from typing import TYPE_CHECKING

from cas3fs.control import Progress
from cas3fs.errors import ControlError
from cas3fs.maintenance.gc.request import GcResult, GcSettings
from cas3fs.maintenance.last_results import save_last_result
from cas3fs.periodic import FailureGuard, PeriodicThread
from cas3fs.volume.opening import OpenVolume

if TYPE_CHECKING:
    from cas3fs.maintenance.gc.collector import GarbageCollector
    from cas3fs.maintenance.gc.plan import GcPlan

_log = logging.getLogger(__name__)


class GcScheduler:
    """Runs the gc of one open volume, one at a time."""

    def __init__(self, volume: OpenVolume) -> None:
        self._volume = volume
        self._collector: GarbageCollector | None = None
        self._is_stopped = False
        self._running = threading.Lock()
        self._thread: PeriodicThread | None = None

    def plan(self, settings: GcSettings, progress: Progress) -> "GcPlan":
        """Returns what a gc would do.

        Raises:
            ControlError: the volume is open for reading only.
            Cas3fsError, OSError: as `GarbageCollector.plan`.
        """
        with self._running:
            return self._open_collector().plan(settings, lambda report: progress(dict(report)))

    def collect(self, settings: GcSettings, progress: Progress) -> GcResult:
        """Runs a gc, and saves its result for ``cas3fs stats``.

        Raises:
            ControlError: the volume is open for reading only.
            Cas3fsError, OSError: as `GarbageCollector.collect`.
        """
        with self._running:
            result = self._open_collector().collect(settings, lambda report: progress(dict(report)))
            save_last_result(self._volume.state.path, "gc", result.as_json())
        _log.info("gc: %s", result.as_json())
        for problem in result.problems:
            _log.error("gc skipped something: %s", problem)
        return result

    def _open_collector(self) -> "GarbageCollector":
        """Returns the collector; it is imported and made for the first gc, so that no mount waits for the import."""
        if self._volume.context is None:
            raise ControlError(f"{self._volume.url} is mounted read-only, so gc cannot delete anything in it")
        if self._collector is None:
            from cas3fs.maintenance.gc.collector import GarbageCollector

            self._collector = GarbageCollector(self._volume.context)
        if self._is_stopped:
            self._collector.stop()
        return self._collector

    # -- at intervals

    def start(self, interval_s: float) -> None:
        """Runs a gc every `interval_s`; an interval of 0 means never."""
        if interval_s > 0 and self._volume.context is not None:
            guard = FailureGuard("gc", self._volume.metrics, "gc failed, nothing is lost")
            self._thread = PeriodicThread("gc", interval_s, self._collect_by_interval, guard)
            self._thread.start()

    def _collect_by_interval(self) -> None:
        self.collect(GcSettings(), lambda _: None)

    def stop(self) -> None:
        """Ends the intervals, and a running gc at its next step."""
        self._is_stopped = True
        if self._collector is not None:
            self._collector.stop()
        if self._thread is not None:
            self._thread.stop()
        with self._running:
            pass
