# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of epochs that cannot be read, and what takes their place.

A claim, or the base of a take-over, is there though its bytes are damaged: the number is in the name. Both are passed
by whoever mounts (`cas3fs.epochs`, `cas3fs.snapshots.divergence`), at the price of caution: what only they could tell
is taken for the worst. A repair moves the damaged object to ``damaged/``, so nothing is deleted, and puts another in
its place:

- for a claim, one of an unknown writer, which took over from the one before;
- for a base, one that tells the snapshot which the first one of its epoch names as its parent; where that first one is
  not there any more, the newest of the epochs before, so that all of them count as on the line from then on.

Where a repair breaks off in between, the next one finds the place empty, and fills it. Only the last few epochs are
looked at, and those that wait for a person.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import BASE_ID, EpochEntry
from cas3fs.epochs import EpochHistory
from cas3fs.epochs.epoch_entries import is_placeholder
from cas3fs.maintenance.fsck.findings import Finding
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo

DAMAGED_CLAIM: Final = "epoch-damaged"
DAMAGED_BASE: Final = "base-damaged"
RECENT: Final = 8
"""Epochs of which the entries are read."""


def check_epochs(archive: SnapshotArchive) -> list[Finding]:
    """What cannot be read of the claims and bases that matter.

    Raises:
        StoreError: the store failed.
    """
    told = [one.entry for one in EpochHistory(archive.shelf).recent(RECENT)]
    found = [Finding(DAMAGED_CLAIM, {"epoch": one.epoch, "object": one.key}) for one in told if is_placeholder(one)]
    for base in archive.bases.all():
        if base.start is None:
            key = EpochEntry.key_of(f"{base.epoch:08d}") + SUB_SEPARATOR + BASE_ID
            found.append(Finding(DAMAGED_BASE, {"epoch": base.epoch, "object": key}))
    return found


def replace_epoch_entry(archive: SnapshotArchive, finding: Finding, snapshots: Sequence[SnapshotInfo]) -> None:
    """Puts what serves in the place of an object that was moved away; `snapshots` are all, ascending.

    Raises:
        ObjectExists: the place is not empty.
        StoreError: the store failed.
    """
    epoch, key = int(finding.touches["epoch"]), str(finding.touches["object"])
    if finding.code == DAMAGED_BASE:
        archive.bases.write(key.removesuffix(SUB_SEPARATOR + BASE_ID), epoch, _start_of(epoch, snapshots))
        return
    archive.shelf.save(
        EpochEntry(
            id=key.removeprefix(EpochEntry.prefix()),
            epoch=epoch,
            claim=uuid4(),
            host="unknown",
            user="unknown",
            pid=0,
            time=datetime.now(UTC),
            took_over=EpochEntry.key_of(f"{epoch - 1:08d}") if epoch > 1 else None,
        )
    )


def _start_of(epoch: int, snapshots: Iterable[SnapshotInfo]) -> str | None:
    """The snapshot that the line of `epoch` went on from."""
    before: str | None = None
    for one in snapshots:
        if one.number.epoch >= epoch:
            is_first = one.parent is not None and int(one.parent.partition("-")[0]) < epoch
            return one.parent if is_first else before
        before = one.id
    return before
