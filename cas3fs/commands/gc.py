# SPDX-License-Identifier: GPL-3.0-or-later
"""gc of a volume that no process has open."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Message, Progress
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume, open_writer


def collect_unmounted(store: StoreSettings, folders: LocalFolders, args: Message, progress: Progress) -> dict[str, Any]:
    """A gc, or the plan of one, of a volume that no process has open: it is opened for that, published and released.

    Raises:
        Cas3fsError, OSError: as opening, the gc, publishing and releasing do.
    """
    with opened(store, folders) as volume:
        return GcScheduler(volume).answer_gc(args, progress)


@contextmanager
def opened(store: StoreSettings, folders: LocalFolders) -> Iterator[OpenVolume]:
    """A volume that is open for writing, without a mount; it is published and released at the end.

    Raises:
        Cas3fsError, OSError: it cannot be opened, published or released.
    """
    volume = open_writer(store, WriterSettings(cache_size_bytes=0, snapshot_interval_s=0), folders)
    try:
        volume.start(0)
        yield volume
        volume.finish()
    finally:
        volume.close()
