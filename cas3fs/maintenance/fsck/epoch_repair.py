# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of epochs that cannot be read, and what replaces them.

The claim of an epoch, the base of a take-over (the snapshot that it went on from), or the last release may have damaged
bytes; the number of the epoch is in the name. Mounts pass such an entry over (`cas3fs.epochs`,
`cas3fs.snapshots.divergence`), and assume the worst of what only the entry could say; without the release, that is that
the listing of the snapshots is complete. A repair moves the damaged object to ``damaged/``, so nothing is deleted, and
writes another in its place:

- for a claim, the claim of an unknown writer, which took over from the epoch before;
- for a base, the parent of the first snapshot of its epoch. If that snapshot is gone, the newest snapshot of the epochs
  before, so that all of them count as part of the lineage from then on;
- for a release, one that names the snapshots that are listed now.

If a repair breaks off in between, the next one finds no entry, and writes it. Only the entries of the last few epochs
are read, and of those that wait for a person.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import BASE_ID, EpochEntry, ReleaseEntry
from cas3fs.epochs import EpochHistory, PastEpoch
from cas3fs.epochs.epoch_entries import (
    RELEASE_SUFFIX,
    epoch_number,
    is_placeholder,
    read_epoch_entry,
    read_release,
)
from cas3fs.maintenance.fsck.findings import Finding
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo

DAMAGED_CLAIM: Final = "epoch-damaged"
DAMAGED_BASE: Final = "base-damaged"
DAMAGED_RELEASE: Final = "release-damaged"
RECENT: Final = 8
"""The number of epochs of which the entries are read."""


def check_epochs(archive: SnapshotArchive) -> list[Finding]:
    """Finds claims, bases and a last release that cannot be read.

    Raises:
        StoreError: the store failed.
    """
    epochs = EpochHistory(archive.shelf).recent(RECENT)
    claims = [one.entry for one in epochs]
    findings = [
        Finding(DAMAGED_CLAIM, {"epoch": one.epoch, "object": one.key}) for one in claims if is_placeholder(one)
    ]
    released = _last_released(epochs)
    if released is not None and read_release(archive.shelf, released) == (True, None):
        about = {"epoch": epoch_number(released), "object": released + RELEASE_SUFFIX}
        findings.append(Finding(DAMAGED_RELEASE, about))
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
    if finding.code == DAMAGED_RELEASE:
        _replace_release(archive, epoch, key.removesuffix(RELEASE_SUFFIX), snapshots)
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


def _last_released(epochs: Sequence[PastEpoch]) -> str | None:
    """The key of the epoch whose release the next claim reads, as far as the newest of `epochs` shows it."""
    if not epochs:
        return None
    newest = epochs[-1]
    return newest.entry.key if newest.status == "released" else newest.entry.handover


def _replace_release(archive: SnapshotArchive, epoch: int, key: str, snapshots: Iterable[SnapshotInfo]) -> None:
    claim = read_epoch_entry(archive.shelf, key)
    ids = [one.id for one in snapshots if one.number.epoch <= epoch]
    diverged = archive.diverged()
    head = next((one for one in reversed(ids) if one not in diverged), None)
    archive.shelf.save(
        ReleaseEntry(
            owner=key,
            claim=uuid4() if claim is None else claim.claim,
            time=datetime.now(UTC),
            snapshot=head,
            retained=tuple(ids),
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
