# SPDX-License-Identifier: GPL-3.0-or-later
"""The writers of a volume, one after the other, and the release of an epoch whose writer is lost.

Neither needs a claim: the release of an epoch is an object of its own, which a listing has or has not.
"""

from contextlib import closing
from datetime import UTC, datetime

from cas3fs.config import StoreSettings
from cas3fs.control import Message
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import EpochHistory, PastEpoch
from cas3fs.metrics import Metrics
from cas3fs.volume.loading import open_volume


def list_epochs(settings: StoreSettings, most: int) -> list[Message]:
    """The last `most` epochs of a volume, and all overruled ones, ascending.

    Raises:
        VolumeMissing, VolumeFormatError, StoreError, UsageError: there is no volume that can be read.
    """
    with closing(open_volume(settings, Metrics())) as opened:
        return [describe_epoch(one) for one in EpochHistory(Shelf(opened.store)).recent(most)]


def release_epoch(settings: StoreSettings, number: int) -> bool:
    """Release an overruled epoch in its writer's place; False where it was released or continued already.

    Raises:
        EpochHeld: it is the newest.
        EpochUnknown: there is no such epoch.
        as `list_epochs`.
    """
    with closing(open_volume(settings, Metrics())) as opened:
        return EpochHistory(Shelf(opened.store)).release(number, datetime.now(UTC))


def describe_epoch(one: PastEpoch) -> Message:
    """As JSON has it."""
    entry = one.entry
    return {
        "epoch": entry.epoch,
        "time": entry.time.isoformat(),
        "host": entry.host,
        "user": entry.user,
        "pid": entry.pid,
        "took_over": entry.took_over,
        "standing": one.status,
    }
