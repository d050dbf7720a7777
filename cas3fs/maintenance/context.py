# SPDX-License-Identifier: GPL-3.0-or-later
"""What maintenance works on: an open volume, as it is given by the code that opened it."""

from collections.abc import Callable, Collection, Mapping
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
"""Called with the progress of the work: ``what`` is being done, and perhaps how many bytes (``done``) of how many
(``total``)."""


def ignore_progress(report: Mapping[str, Any]) -> None:
    """A `ProgressCallback` that does nothing."""


class SnapshotPublisher(Protocol):
    """Publishes snapshots of the volume."""

    def exclusively(self) -> AbstractContextManager[None]:
        """While this context is open, nobody else publishes or deletes snapshots."""

    def publish_locked(self, progress: ProgressCallback = ..., *, even_unchanged: bool = False) -> str:
        """Stores everything, and publishes a snapshot unless nothing has changed (or `even_unchanged`); to be called
        within `exclusively`.

        Returns:
            The id of the newest snapshot. It is acknowledged: no other writer had taken over.
        """

    @property
    def next_number(self) -> SnapshotNumber:
        """The least number that a future snapshot can have; to be read within `exclusively`."""

    def check_fence(self) -> None:
        """Checks that no other writer has taken over; to be called before anything is deleted.

        Raises:
            Fenced: another writer has taken over; the file system is read-only from now on.
            StoreError: the check failed.
        """


class KeyGenerations(Protocol):
    """The generations of the keys of an encrypted volume."""

    @property
    def older(self) -> tuple[int, ...]:
        """The generations before the newest one."""

    def drop(self, numbers: Collection[int], records: Mapping[str, bytes]) -> None:
        """Drops older generations from the keyring.

        Args:
            records: the keys of the objects that are sealed with them and stay, by their names.

        Raises:
            StoreError: the store failed; dropping again is safe.
        """

    def forget_older_keyrings(self) -> None:
        """Deletes the keyrings before the newest one."""


@attrs.frozen
class VolumeContext:
    """An open volume, with the right to write it.

    Attributes:
        epoch: the number of the epoch that was claimed.
        scratch: a folder on the local disk for restored indexes; its contents may be removed at any start.
        pack_size_bytes, compression: of new packs.
        keys: of an encrypted volume.
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
    keys: KeyGenerations | None = None

    @property
    def shelf(self) -> Shelf:
        """The volume's entries."""
        return Shelf(self.store)
