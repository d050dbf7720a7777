# SPDX-License-Identifier: GPL-3.0-or-later
"""What maintenance works on: an open volume, as the one who opened it hands it over."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import attrs

from cas3fs.blocks.codec import Compression
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs
from cas3fs.filesystem import FileSystem
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import SnapshotNumber

ProgressCallback = Callable[[Mapping[str, Any]], None]
"""Told how far the work is: ``what`` is done, how many of how many bytes (``done``, ``total``)."""


def ignore_progress(report: Mapping[str, Any]) -> None:
    """A `Report` that tells nobody."""


class SnapshotPublisher(Protocol):
    """Who publishes snapshots of the volume."""

    def exclusively(self) -> AbstractContextManager[None]:
        """While this is open nobody else publishes or deletes snapshots."""

    def publish_locked(self, progress: ProgressCallback = ...) -> str:
        """Stores everything and publishes it unless nothing has changed; gives the id of the newest snapshot, which is
        acknowledged: no other writer had taken over. Called within `exclusively`."""

    @property
    def next_number(self) -> SnapshotNumber:
        """The least number that a snapshot yet to come can have; asked within `exclusively`."""

    def check_fence(self) -> None:
        """Asked before anything is deleted.

        Raises:
            Fenced: another writer has taken over; the file system is read-only from now on.
            StoreError: nobody knows.
        """


@attrs.frozen
class VolumeContext:
    """An open volume, with the right to write it.

    epoch: the one that was claimed.
    scratch: a folder on the local disk for restored indexes; what is left there may be removed at any start.
    pack_size_bytes, compression: of new packs.
    """

    store: ObjectStore
    archive: SnapshotArchive
    epochs: Epochs
    epoch: int
    filesystem: FileSystem
    publisher: SnapshotPublisher
    scratch: Path
    pack_size_bytes: int
    compression: Compression

    @property
    def shelf(self) -> Shelf:
        """The volume's entries."""
        return Shelf(self.store)
