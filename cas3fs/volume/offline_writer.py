# SPDX-License-Identifier: GPL-3.0-or-later
"""A claim without a file system, for commands that only change which snapshots exist, while the volume is not mounted.

The state directory is locked and an epoch claimed, as a mount does, so no mount can start meanwhile, here or elsewhere.
The epoch is released at the end. But if a mount with this state directory has left its own epoch unreleased, the new
epoch stays unreleased too, since what that mount had not stored exists only here.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import attrs

from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.entries.kinds import EpochEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Claim, Epochs, WriterIdentity
from cas3fs.errors import Cas3fsError
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import SnapshotNumber
from cas3fs.volume.handover import apply_handover, expect_seen_head, release, save_known_snapshots
from cas3fs.volume.loading import open_volume
from cas3fs.volume.location import lock_state_directory
from cas3fs.volume.pruner import SnapshotPruner
from cas3fs.volume.state_directory import StateDirectory

_log = logging.getLogger(__name__)


@attrs.frozen
class OfflineWriter:
    """What a command works with while it holds the claim."""

    volume: VolumeEntry
    state: StateDirectory
    archive: SnapshotArchive
    epochs: Epochs
    claim: Claim
    pruner: SnapshotPruner
    after_release: bool
    """Whether the previous epoch was released; if not, it is this state directory's own."""

    @property
    def next_number(self) -> SnapshotNumber:
        """The number of the first snapshot of this claim."""
        return SnapshotNumber(self.claim.epoch, 1)


@contextmanager
def open_offline_writer(
    settings: StoreSettings, folders: LocalFolders, *, take_over: bool = False
) -> Iterator[OfflineWriter]:
    """Claims the volume until the end of the context; with `take_over`, although another writer has not released it.

    Raises:
        VolumeMissing, VolumeFormatError, StateInUse, EpochHeld, StateConflict: the volume cannot be claimed.
        StoreError, UsageError: store or state directory cannot be used.
    """
    with closing(open_volume(settings.recorded_in(folders), Metrics(), claims=True)) as opened:
        store, volume = opened.store, opened.entry
        with closing(lock_state_directory(folders, str(volume.uuid), settings)) as state:
            epochs = Epochs(Shelf(store), conditional_writes=volume.conditional_writes)
            claim = epochs.claim(WriterIdentity.of_this_process(), state.claim, take_over=take_over)
            store.renew_keys()
            archive = SnapshotArchive(Shelf(store))
            try:
                if opened.seen is not None:
                    opened.seen.note_epoch(claim.key.removeprefix(EpochEntry.prefix()))
                apply_handover(archive, claim, state.known_snapshots)
                expect_seen_head(archive, opened.seen)
                pruner = SnapshotPruner(
                    archive,
                    epochs,
                    claim,
                    lambda: SnapshotNumber(claim.epoch, 1),
                    shown=state.shown,
                    before_delete=partial(save_known_snapshots, archive, claim, state.known_snapshots),
                )
                yield OfflineWriter(volume, state, archive, epochs, claim, pruner, claim.after_release)
            finally:
                save_known_snapshots(archive, claim, state.known_snapshots)
                if claim.after_release:
                    _release(epochs, claim, archive)
            opened.look()


def _release(epochs: Epochs, claim: Claim, archive: SnapshotArchive) -> None:
    try:
        release(epochs, claim, archive, archive.newest_id())
    except Cas3fsError as error:
        _log.warning("epoch %d could not be released; the next mount here releases it: %s", claim.epoch, error)
