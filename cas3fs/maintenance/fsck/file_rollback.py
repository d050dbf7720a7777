# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes files of which the index has lost chunks from the newest snapshot that has all of their chunks.

Snapshots are restored to temporary files, the newest first, until every such file is found. If a snapshot has the very
chunks that the file's checksums stand for, nothing is lost. Otherwise the file gets the content of that snapshot, and
what the index had left of it is kept in lost+found.

A file that no snapshot has all of keeps what is left of it. Its holes, where chunks may have been lost, give I/O errors
from then on, and never zeros.

Each file is one operation, so a crash keeps the files that were done before.
"""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from cas3fs.errors import SnapshotArchived, SnapshotError
from cas3fs.index.checks import FileState, IndexChecker
from cas3fs.maintenance.context import ProgressCallback, VolumeContext
from cas3fs.maintenance.snapshot_index import restored_index

_log = logging.getLogger(__name__)


class RolledBackFile(NamedTuple):
    """What became of a file.

    Attributes:
        outcome: a text for people.
        lost_ranges: the number of ranges that give I/O errors.
    """

    outcome: str
    lost_ranges: int = 0


class FileRollback:
    """Takes files of an open volume from its snapshots; no file system may be using them."""

    def __init__(self, context: VolumeContext, report: ProgressCallback) -> None:
        self._context = context
        self._report = report
        self._archived = ""

    def roll_back(self, inodes: Collection[int]) -> dict[int, RolledBackFile]:
        """Takes these files from snapshots.

        Returns:
            What became of each file, by inode. Files that only an archived snapshot may have are left out.

        Raises:
            StoreError, IndexDatabaseError, OSError: the store or the local disk failed; what was done is kept.
        """
        left, done = set(inodes), dict[int, RolledBackFile]()
        for snapshot, path in self._snapshots(left):
            with IndexChecker(path) as index:
                states = {inode: index.file_state(inode) for inode in sorted(left)}
            for inode, state in states.items():
                if state is not None and state.is_whole:
                    done[inode] = RolledBackFile(self._restore(inode, state, snapshot))
                    left.discard(inode)
        if self._archived:
            _log.warning("%s: files that only this snapshot may have are left as they are", self._archived)
            return done
        return done | {inode: self._mark_holes_lost(inode) for inode in sorted(left)}

    def _snapshots(self, left: Collection[int]) -> Iterator[tuple[str, Path]]:
        """The ids and indexes of snapshots, the newest first, while any file is left."""
        diverged = self._context.archive.diverged()
        for snapshot in reversed([one for one in self._context.archive.ids() if one not in diverged]):
            if not left:
                return
            self._report({"what": f"searching snapshot {snapshot}"})
            try:
                with restored_index(self._context.archive, snapshot, self._context.scratch) as path:
                    yield snapshot, path
            except SnapshotArchived as error:  # an older snapshot would have older content
                self._archived = str(error)
                return
            except SnapshotError as error:
                _log.warning("%s", error)

    def _restore(self, inode: int, state: FileState, snapshot: str) -> str:
        filesystem = self._context.filesystem
        with IndexChecker(filesystem.index_path) as index_checker:
            here = index_checker.file_state(inode)
        with filesystem.index_transaction() as index:
            repairs = index.repairs()
            if here is not None and (here.checksum, here.size) == (state.checksum, state.size):
                outcome = f"restored completely from snapshot {snapshot}"
            else:
                kept = repairs.keep_copy(inode).decode(errors="backslashreplace")
                outcome = f"set back to snapshot {snapshot}; what was left of it since then is in lost+found/{kept}"
            repairs.restore_file(inode, state)
        return outcome

    def _mark_holes_lost(self, inode: int) -> RolledBackFile:
        with self._context.filesystem.index_transaction() as index:
            lost = index.repairs().mark_holes_lost(inode)
        outcome = (
            f"no snapshot has all of it: what is left may be of an older content, and {lost} ranges without content "
            "give I/O errors"
        )
        return RolledBackFile(outcome, max(lost, 1))
