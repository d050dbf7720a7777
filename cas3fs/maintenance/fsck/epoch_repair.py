# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of epochs that cannot be read, and what replaces them.

The claim of an epoch, or the base of a take-over (the snapshot that it went on from), may have damaged bytes; its
number is in its name. Mounts pass such an entry over (`cas3fs.epochs`, `cas3fs.snapshots.divergence`), and assume the
worst of what only the entry could say. A repair moves the damaged object to ``damaged/``, so nothing is deleted, and
writes another in its place:

- for a claim, the claim of an unknown writer, which took over from the epoch before;
- for a base, the parent of the first snapshot of its epoch. If that snapshot is gone, the newest snapshot of the epochs
  before, so that all of them count as part of the lineage from then on.

If a repair breaks off in between, the next one finds no entry, and writes it. Only the entries of the last few epochs
are read, and of those that wait for a person.
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
"""The number of epochs of which the entries are read."""


def check_epochs(archive: SnapshotArchive) -> list[Finding]:
    """Finds claims and bases that cannot be read.

    Raises:
        StoreError: the store failed.
    """
    claims = [one.entry for one in EpochHistory(archive.shelf).recent(RECENT)]
    findings = [
        Finding(DAMAGED_CLAIM, {"epoch": one.epoch, "object": one.key}) for one in claims if is_placeholder(one)
    ]
    for base in archive.bases.all():
        if base.start is None:
            key = EpochEntry.key_of(f"{base.epoch:08d}") + SUB_SEPARATOR + BASE_ID
            findings.append(Finding(DAMAGED_BASE, {"epoch": base.epoch, "object": key}))
    return findings


def replace_epoch_entry(archive: SnapshotArchive, finding: Finding, snapshots: Sequence[SnapshotInfo]) -> None:
    """Writes an entry in place of a damaged one that was moved away.

    Args:
        snapshots: all, ascending.

    Raises:
        ObjectExists: there is an entry.
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
    """The snapshot that the writer of `epoch` went on from."""
    before: str | None = None
    for one in snapshots:
        if one.number.epoch >= epoch:
            is_first = one.parent is not None and int(one.parent.partition("-")[0]) < epoch
            return one.parent if is_first else before
        before = one.id
    return before
