# SPDX-License-Identifier: GPL-3.0-or-later
"""gc of a volume: by the process of its mount, or by opening it for that."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager

from cas3fs.commands.mount_service import MountService
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Progress
from cas3fs.control.messages.maintenance import GcPlanReply, GcPlanRequest, GcRequest
from cas3fs.errors import Cas3fsError, SnapshotError, StoreError, UsageError
from cas3fs.maintenance.gc.request import GcResult, GcSettings
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume, open_writer

_log = logging.getLogger(__name__)


def collect_mounted(
    service: MountService, request: GcRequest | GcPlanRequest, progress: Progress
) -> GcResult | GcPlanReply:
    """Run or plan a gc of a mounted volume."""
    return _carry_out(service.gc_scheduler, request, progress)


def collect_unmounted(
    store: StoreSettings, folders: LocalFolders, request: GcRequest | GcPlanRequest, progress: Progress
) -> GcResult | GcPlanReply:
    """Run or plan a gc of a volume that no process has open: it is opened for that, published and released.

    Raises:
        Cas3fsError, OSError: as opening, the gc, publishing and releasing do.
    """
    settings_of(request)  # before anything is claimed
    with _opened(store, folders) as volume:
        return _carry_out(GcScheduler(volume), request, progress)


def _carry_out(
    scheduler: GcScheduler, request: GcRequest | GcPlanRequest, progress: Progress
) -> GcResult | GcPlanReply:
    settings = settings_of(request)
    if isinstance(request, GcPlanRequest):
        return GcPlanReply(**scheduler.plan(settings, progress).as_json())
    return scheduler.collect(settings, progress)


def settings_of(request: GcRequest | GcPlanRequest) -> GcSettings:
    """The settings in a request.

    Raises:
        UsageError: a value is out of its range.
    """
    if not 0 <= request.min_live <= 1 or request.grace_s < 0:
        raise UsageError("--min-live must be between 0 and 1, and --grace must not be negative")
    return GcSettings(request.min_live, request.max_rewrite_bytes, request.grace_s, request.reencrypt)


@contextmanager
def _opened(store: StoreSettings, folders: LocalFolders) -> Iterator[OpenVolume]:
    """A volume that is open for writing, without a mount; it is published and released at the end.

    That is done too if the gc refuses to go on because of something in the store: whatever was done is complete in
    itself, and a volume that stays held could not be mounted elsewhere.
    """
    with closing(open_writer(store, WriterSettings(cache_size_bytes=0, snapshot_interval_s=0), folders)) as volume:
        volume.start(0)
        try:
            yield volume
        except (SnapshotError, StoreError):
            _finish_quietly(volume)
            raise
        volume.finish()


def _finish_quietly(volume: OpenVolume) -> None:
    """Publishes and releases after a failure; a second failure is only logged."""
    try:
        volume.finish()
    except (Cas3fsError, OSError) as error:
        _log.warning("the volume stays held for this machine: %s", error)
