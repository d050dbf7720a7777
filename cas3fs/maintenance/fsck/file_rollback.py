# SPDX-License-Identifier: GPL-3.0-or-later
"""Reverting: a file of which the index has lost chunks is taken from the newest snapshot that has it whole.

Snapshots are restored to temporary files, the newest first, until every such file is found. Where a snapshot has the
very chunks that the file's sums tell of, nothing is lost. Else the file has the content of that snapshot from then on,
and what the index had left of it is kept in lost+found.

A file that no snapshot has whole keeps what is left of it; what may have been lost of it, which is where it has holes,
gives I/O errors from then on, and never zeros.

Where the process may die: each file is one operation.
"""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from cas3fs.errors import SnapshotArchived, SnapshotError
from cas3fs.index import FileState, IndexChecker
from cas3fs.maintenance.context import ProgressCallback, VolumeContext
from cas3fs.maintenance.snapshot_index import restored_index

_log = logging.getLogger(__name__)


class RolledBackFile(NamedTuple):
    """What became of a file."""

    told: str
    lost_ranges: int = 0


class FileRollback:
    """Takes files of an open volume from its snapshots; no file system may be at work on them."""

    def __init__(self, context: VolumeContext, report: ProgressCallback) -> None:
        self._context = context
        self._report = report
        self._archived = ""

    def revert(self, inodes: Collection[int]) -> dict[int, RolledBackFile]:
        """Takes these files from snapshots; tells of each what it is now.

        Raises:
            StoreError, IndexDatabaseError, OSError: the store or the local disk failed; what was done is done.
        """
        left, told = set(inodes), dict[int, RolledBackFile]()
        for snapshot, path in self._snapshots(left):
            with IndexChecker(path) as index_checker:
                states = {inode: index_checker.file_state(inode) for inode in sorted(left)}
            for inode, state in states.items():
                if state is not None and state.is_whole:
                    told[inode] = RolledBackFile(self._take(inode, state, snapshot))
                    left.discard(inode)
        if self._archived:
            _log.warning("%s: what only that may have is left as it is", self._archived)
            return told
        return told | {inode: self._give_up(inode) for inode in sorted(left)}

    def _give_up(self, inode: int) -> RolledBackFile:
        filesystem = self._context.filesystem
        with filesystem.index_transaction() as index:
            lost = index.repairs().mark_holes_lost(inode)
        return RolledBackFile(
            f"no snapshot has it whole: what is left may be of an older content, and {lost} ranges without any give "
            "I/O errors",
            max(lost, 1),
        )

    def _snapshots(self, left: Collection[int]) -> Iterator[tuple[str, Path]]:
        """The indexes of snapshots, while anything is left to be found."""
        orphans = self._context.archive.diverged()
        for snapshot in reversed([one for one in self._context.archive.ids() if one not in orphans]):
            if not left:
                return
            self._report({"what": f"looking into snapshot {snapshot}"})
            try:
                with restored_index(self._context.archive, snapshot, self._context.scratch) as path:
                    yield snapshot, path
            except SnapshotArchived as error:  # an older one would give an older content
                self._archived = str(error)
                return
            except SnapshotError as error:
                _log.warning("%s", error)

    def _take(self, inode: int, state: FileState, snapshot: str) -> str:
        filesystem = self._context.filesystem
        with IndexChecker(filesystem.index_path) as index_checker:
            here = index_checker.file_state(inode)
        with filesystem.index_transaction() as index:
            repairs = index.repairs()
            if here is not None and (here.checksum, here.size) == (state.checksum, state.size):
                told = f"it is whole again, from snapshot {snapshot}"
            else:
                kept = repairs.keep_copy(inode).decode(errors="backslashreplace")
                told = f"it is as in snapshot {snapshot}; what was left of it since is lost+found/{kept}"
            repairs.restore_file(inode, state)
        return told
