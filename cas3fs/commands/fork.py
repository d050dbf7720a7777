# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving a copied volume an identity of its own.

A bucket that was copied has the uuid of the volume that it was copied from, and its epochs too: the last one is held,
if the original was mounted at the time. `fork` ends that epoch in the copy, as a take-over does, and creates
``forks/00000001`` with a new uuid, which counts in place of the one in ``volume`` from then on (`volumes.load_volume`).
Nothing is overwritten, and data, snapshots and numbers stay as they are.

Where the process dies between the claim and the release, the epoch is held by an unknown writer: forking again needs
a take-over.
"""

import tempfile
import uuid
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cas3fs.config import StoreSettings
from cas3fs.entries.kinds import ForkEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.errors import EpochHeld
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.volume.handover import apply_handover, release
from cas3fs.volume.loading import open_volume


def fork(settings: StoreSettings, *, take_over: bool) -> dict[str, Any]:
    """Gives the volume a new uuid; returns what ``--json`` prints.

    Args:
        take_over: ignore a writer that has not released the volume, because it uses the original.

    Raises:
        VolumeMissing, VolumeFormatError: there is no volume that can be read.
        EpochHeld: a writer has not released it.
        StoreError: the store failed.
    """
    with closing(open_volume(settings, Metrics())) as opened:
        store, volume = opened.store, opened.entry
        shelf = Shelf(store)
        epochs = Epochs(shelf, conditional_writes=volume.conditional_writes)
        with tempfile.TemporaryDirectory(prefix="cas3fs-fork-") as folder:
            try:
                claim = epochs.claim(WriterIdentity.of_this_process(), Path(folder) / "claim.json", take_over=take_over)
                archive = SnapshotArchive(shelf)
                apply_handover(archive, claim, Path(folder) / "known")
            except EpochHeld as error:
                raise EpochHeld(
                    f"{error}; if that writer works with the volume that this one was copied from, "
                    "`cas3fs fork --take-over` ignores it"
                ) from error
        made = _save(shelf, volume)
        release(epochs, claim, archive, archive.newest_id())
        opened.look()
        return {"url": store.url, "uuid": str(made.uuid), "was": str(volume.uuid)}


def _save(shelf: Shelf, volume: VolumeEntry) -> ForkEntry:
    number = 1
    while shelf.exists(ForkEntry, ForkEntry.id_of(number)):
        number += 1
    entry = ForkEntry(id=ForkEntry.id_of(number), uuid=uuid.uuid4(), was=volume.uuid, time=datetime.now(UTC))
    shelf.save(entry)
    return entry
