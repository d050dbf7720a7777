# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a file system: for statfs(2), and for people."""

import time

import attrs

from cas3fs.errors import IndexDatabaseError
from cas3fs.filesystem.limits import NAME_MAX
from cas3fs.filesystem.operations.files import Files
from cas3fs.filesystem.operations.listings import Listings
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.values import StagedSize

_BLOCK_BYTES = 4096
_FREE_BLOCKS = 2**38  # 1 PiB: an object store does not say how much it can take
_FREE_FILES = 2**40
_MAX_AGE_S = 5.0


@attrs.frozen
class Pending:
    """What is not in the store yet."""

    files: int
    size_bytes: int


@attrs.frozen
class VolumeStatistics:
    """The answer to statvfs(2); `blocks` are of `block_size` bytes."""

    block_size: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
    name_max: int


class Statistics:
    """Counts what a file system holds."""

    def __init__(self, state: FileSystemState, listings: Listings, files: Files) -> None:
        self._state = state
        self._listings = listings
        self._files = files
        self._volume: VolumeStatistics | None = None
        self._volume_at_s = 0.0

    def pending(self) -> Pending:
        """What is not in the store yet."""
        staging = self._state.staging
        with self._state.lock:
            return Pending(len(staging.unstored), staging.size_bytes)

    def staged_sizes(self) -> list[StagedSize]:
        """The files with bytes that are not in the store yet, as stat(2) shows them."""
        staging = self._state.staging
        with self._state.lock:
            return [
                StagedSize(one.number, one.size, one.allocated_bytes, one.unstored_bytes)
                for one in staging.unstored.values()
            ]

    def statfs(self) -> VolumeStatistics:
        """Size and use of the volume, at most a few seconds old.

        Where the index cannot be opened once more, for want of a descriptor perhaps, it is the last known answer.

        Raises:
            IndexDatabaseError: the index cannot be opened, and there is no earlier answer.
        """
        now_s = time.monotonic()
        if self._volume is None or now_s - self._volume_at_s > _MAX_AGE_S:
            try:
                with self._state.index.reader() as reader:
                    counts = reader.counts()
            except IndexDatabaseError:
                if self._volume is None:
                    raise
                return self._volume
            used = -(-counts.logical_bytes // _BLOCK_BYTES)
            files = counts.files + counts.directories + counts.symlinks + counts.others
            self._volume = VolumeStatistics(
                _BLOCK_BYTES, used + _FREE_BLOCKS, _FREE_BLOCKS, files + _FREE_FILES, _FREE_FILES, NAME_MAX
            )
            self._volume_at_s = now_s
        return self._volume

    @property
    def refused_inodes(self) -> int:
        """How many inodes are not in the index as programs left them, as it does not take their rows."""
        state = self._state
        return len(state.inodes.refused) + len(state.rejected_inodes) + len(state.staging.rows.refused)

    def by_name(self) -> dict[str, int | float]:
        """Figures of this process, by name."""
        state, staging, inodes = self._state, self._state.staging, self._state.inodes
        with state.lock:
            own: dict[str, int | float] = {
                "staging.files": len(staging.files),
                "staging.size_bytes": staging.size_bytes,
                "staging.memory_bytes": staging.memory_bytes,
                "staging.open_files": staging.layer_files.open_count,
                "staging.lost_files": len(staging.losses),
                "staging.refused": len(staging.rows.refused),
                "staging.put_aside": len(staging.quarantined),
                "inodes.cached": len(inodes.cached),
                "inodes.refused": self.refused_inodes - len(staging.rows.refused),
                "inodes.known_to_kernel": len(inodes.lookups),
                "handles.open": self._files.open_count + self._listings.open_count,
            }
        return own | state.metrics.snapshot()
