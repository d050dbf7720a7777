# SPDX-License-Identifier: GPL-3.0-or-later
"""What a claim knows of the snapshots of a volume before it lists them, and what it leaves to the next claim.

A release names the newest snapshot and all others, and the next claim reads these by name. Where the writer before did
not release, the numbers after its last known snapshot are tried. This machine keeps the snapshots that it knew in a
file of the state directory. So an incomplete listing neither rolls the volume back nor permits the deletion of anything
that a snapshot needs.

A claim that took over, or that follows one which took over and then died, records where it continues from before
it restores anything: whatever the writer before still publishes has diverged from then on.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from cas3fs.epochs import Claim, Epochs, EpochState
from cas3fs.errors import VolumeFormatError
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import check_snapshot_id
from cas3fs.snapshots.tracker import load_snapshot_ids, save_snapshot_ids
from cas3fs.volume.seen import SeenState

_MOST_EPOCHS_BACK: Final = 4
"""How many epochs are searched for a head that no release names: writers may have died before they published."""


def apply_handover(archive: SnapshotArchive, claim: Claim, known: Path) -> None:
    """Adds the known snapshots to `archive`, and writes a base if one is due. `known`: this machine's file.

    Raises:
        StoreError: the store failed; nothing has changed, except that the base may be written.
    """
    # others may have deleted what this machine knew, unless it was the last to write
    ids, under = load_snapshot_ids(known)
    archive.tracker.add(ids, expected=not claim.after_release and under in map(str, claim.lineage[-1:]))
    archive.tracker.add(_ids(claim.handover.retained), expected=claim.after_release)
    if claim.bases is not None:
        archive.bases.set_known_epochs(claim.bases)
    last = _last(claim.handover.snapshot)
    if claim.after_release:
        archive.set_expected_head(last)
    elif last is not None:
        archive.tracker.add([last])
    if last is None or not claim.after_release:
        for back in range(min(_MOST_EPOCHS_BACK, claim.before)):
            if archive.find_unlisted_of_epoch(claim.before - back):
                break
    if claim.base_due:
        archive.bases.write(claim.key, claim.epoch, archive.newest_id())


def expect_released_head(archive: SnapshotArchive, newest: EpochState | None) -> None:
    """As `apply_handover`, for a reader: the release of the newest epoch names the head."""
    if newest is not None and newest.release is not None:
        archive.tracker.add(_ids(newest.release.retained), expected=True)
        archive.set_expected_head(_last(newest.release.snapshot))


def expect_seen_head(archive: SnapshotArchive, seen: SeenState | None) -> None:
    """Expect the newest snapshot that this machine has seen, after the others: a store may hide it from listings.

    Raises:
        StoreError: the store failed.
    """
    if seen is not None and seen.newest_snapshot is not None:
        archive.expect_at_least(seen.newest_snapshot)


def release(epochs: Epochs, claim: Claim, archive: SnapshotArchive, newest: str | None) -> None:
    """Releases a claim, and records for the next one which snapshots exist; raises as `Epochs.release`."""
    epochs.release(claim, newest, tuple(archive.tracker.ids()))


def save_known_snapshots(archive: SnapshotArchive, claim: Claim, known: Path, without: Collection[str] = ()) -> None:
    """Writes this machine's file, without snapshots that are about to be deleted, so that they are not expected after a
    crash."""
    save_snapshot_ids(known, [one for one in archive.tracker.ids() if one not in without], str(claim.uuid))


def _last(snapshot: str | None) -> str | None:
    return next(iter(_ids([snapshot] if snapshot else [])), None)


def _ids(named: tuple[str, ...] | list[str]) -> list[str]:
    """Returns those that are ids of snapshots."""
    return [one for one in named if _is_id(one)]


def _is_id(text: str) -> bool:
    try:
        check_snapshot_id(text)
    except VolumeFormatError:
        return False
    return True
