# SPDX-License-Identifier: GPL-3.0-or-later
"""gc of an open volume, on demand and at intervals.

The thread is a daemon; `GcScheduler.stop` ends a gc under way before its next step and waits for it, so that nothing is
deleted after the epoch was released.
"""

import logging
import threading
from typing import TYPE_CHECKING

from cas3fs.control import Message, Progress
from cas3fs.errors import ControlError, UsageError
from cas3fs.maintenance.context import VolumeContext
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.maintenance.last_results import save_last_result
from cas3fs.periodic import FailureGuard, PeriodicThread
from cas3fs.volume.opening import OpenVolume

if TYPE_CHECKING:
    from cas3fs.maintenance.gc.collector import GarbageCollector

_log = logging.getLogger(__name__)


class GcScheduler:
    """Maintenance of one open volume."""

    def __init__(self, volume: OpenVolume) -> None:
        self._volume = volume
        self._collector: GarbageCollector | None = None
        self._stopped = False
        self._running = threading.Lock()
        self._thread: PeriodicThread | None = None

    @property
    def context(self) -> VolumeContext:
        """What maintenance works on.

        Raises:
            ControlError: the volume is open for reading only.
        """
        if self._volume.context is None:
            raise ControlError(f"{self._volume.url} is mounted read-only, so nothing can be done to it")
        return self._volume.context

    def gc(self, settings: GcSettings, progress: Progress, *, dry_run: bool = False) -> Message:
        """Plans a gc, or does one; gives what ``--json`` prints. Raises as `GarbageCollector` does."""
        context = self.context
        with self._running:
            collector = self._collector_of(context)
            if dry_run:
                return collector.plan(settings, lambda told: progress(dict(told))).as_json()
            result = collector.collect(settings, lambda told: progress(dict(told))).as_json()
            save_last_result(self._volume.state.path, "gc", result)
        _log.info("gc: %s", result)
        for problem in result["problems"]:
            _log.error("gc went on past something: %s", problem)
        return result

    def _collector_of(self, context: VolumeContext) -> "GarbageCollector":
        """The collector, which is imported and made for the first gc, as no mount needs to wait for it."""
        from cas3fs.maintenance.gc.collector import GarbageCollector

        if self._collector is None:
            self._collector = GarbageCollector(context)
            if self._stopped:
                self._collector.stop()
        return self._collector

    def answer_gc(self, args: Message, progress: Progress) -> Message:
        """The request ``gc`` of the control socket."""
        return self.gc(settings_of(args), progress, dry_run=bool(args.get("dry_run")))

    # -- periodically

    def start(self, interval_s: float) -> None:
        """Does a gc every `interval_s`; an interval of 0 means never."""
        if interval_s > 0 and self._volume.context is not None:
            guard = FailureGuard("gc", self._volume.metrics, "gc ended, nothing is lost")
            self._thread = PeriodicThread("gc", interval_s, self._collect, guard)
            self._thread.start()

    def _collect(self) -> None:
        self.gc(GcSettings(), lambda _: None)

    def stop(self) -> None:
        """Ends what is under way, at its next step."""
        self._stopped = True
        if self._collector is not None:
            self._collector.stop()
        if self._thread is not None:
            self._thread.stop()
        with self._running:
            pass


def settings_of(args: Message) -> GcSettings:
    """The settings in a request.

    Raises:
        UsageError: they make no sense.
    """
    try:
        limit = args.get("max_rewrite_bytes")
        settings = GcSettings(
            float(args.get("min_live", GcSettings().min_live)),
            None if limit is None else int(limit),
            float(args.get("grace_s", GcSettings().grace_s)),
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"no settings of a gc: {error}") from error
    if not 0 <= settings.min_live <= 1 or settings.grace_s < 0:
        raise UsageError("the least live share lies between 0 and 1, and the grace period is not negative")
    return settings
