# SPDX-License-Identifier: GPL-3.0-or-later
"""Commits: how changes in memory become durable on this machine.

Operations run in one open transaction of the index, the *group*; a commit ends it every few seconds, at fsync and
fsyncdir, and before a snapshot. One commit, step by step; a kill or a loss of power between any two steps loses at most
what happened since the commit before:

1. without the lock: the bytes of layer files are synced, staging rows are written and made durable; what the disk loses
   of a file concerns that file, whose row says so (module `layer_files`), and the programs that fsync it;
2. under the lock, so that no operation comes between: the same for the little that has changed meanwhile;
3. under the lock: dirty inodes are written back, and the group is committed;
4. without the lock: the index is synced;
5. under the lock: layers that the index now durably has are dropped, and rows that had to wait for it are written.

Two before three: a rename in the index never becomes durable before the staged bytes of what was renamed. Four before
five: a staging row is deleted only when the index is durable.

The group is in memory until it is committed, so a group that has changed many pages is committed at once. A group that
SQLite has undone is redone by the index (`cas3fs.index.sqlite`): the file system accepts no changes while that fails,
and each commit tries it again.

A commit goes to the index's log. The same thread moves the log into the database file when it is long
(`cas3fs.index.index_file`), most of it without the lock.

`commit_mutex` makes commits one at a time; callers that come while one is under way share the next.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cas3fs.errors import Cas3fsError, IndexDatabaseError, IndexRowRefused
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.localdisk import LocalDisk
from cas3fs.periodic import FailureGuard

_MIB = 1 << 20
_SLICE_BYTES = 4 * _MIB
_RESERVE_BYTES = 32 * _MIB
_RESERVE_SHARE = 20
_RESERVES_KEPT_FREE = 2
_DISK_CHECK_S = 0.5
_LOST_RETRY_S = 1.0
_GROUP_PAGES = 20_000
"""With so many changed pages, 80 MiB at most, the group is committed at the next check."""

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class DiskReserve:
    """Space on the local disk that is kept for commits: a file that is deleted when the disk is nearly full.

    While it is missing, writers get ENOSPC; so a commit never meets a full disk, which would undo all operations of its
    group. Staging has no space any more before that: it leaves twice the reserve to others.
    """

    def __init__(self, folder: Path, local_disk: LocalDisk) -> None:
        self._path = folder / "reserve"
        self._folder = folder
        self._disk = local_disk
        disk = os.statvfs(folder)
        self._size_bytes = min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // _RESERVE_SHARE)
        self.is_low = False
        self.stageable_bytes = 0
        """How much more may be staged, by the last check."""

    def check(self) -> bool:
        """Whether the disk is nearly full; deletes the reserve, or makes it, as needed."""
        free = self._disk.free_bytes(self._folder)
        self.stageable_bytes = max(0, free - _RESERVES_KEPT_FREE * self._size_bytes)
        if self.is_low:
            self.is_low = free < 3 * self._size_bytes
        elif free < self._size_bytes // 2:
            self._path.unlink(missing_ok=True)
            self.is_low = True
        if not self.is_low and not self._path.exists():
            self._fill()
        return self.is_low

    def _fill(self) -> None:
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, max(self._size_bytes, 1))
        except OSError:
            self._path.unlink(missing_ok=True)
            self.is_low = True
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Deletes the reserve."""
        self._path.unlink(missing_ok=True)


class Commits:
    """Commits the changes of one file system, in the background and on request."""

    def __init__(self, state: FileSystemState) -> None:
        self._state = state
        self._reserve = DiskReserve(state.staging.folder, state.staging.layer_files.disk)
        self.commit_mutex = threading.Lock()
        self.last_pause_s = 0.0
        """How long operations waited for the last commit."""
        self._refused: Set[int] = frozenset()
        self._refused_staged: Set[int] = frozenset()
        self._requested = 0
        self._completed = 0
        self._wake = threading.Event()
        self._stopping = False
        self._waited_s = 0.0
        self._disk_guard = FailureGuard("local disk", state.metrics, "the free space of the local disk is not known")
        self._commit_guard = FailureGuard("commits", state.metrics, "commit failed, will be tried again")
        self._log_guard = FailureGuard("index log", state.metrics, "the index's log could not be moved into its file")
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        with self._disk_guard:
            self.check_disk()
        self._state.index.own_file()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a commit in progress is finished."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._reserve.close()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_DISK_CHECK_S)
            with self._disk_guard:
                self.check_disk()
            with self._commit_guard:
                self._commit_in_time()
            with self._log_guard:
                self._move_log_in_time()

    def _commit_in_time(self) -> None:
        self._waited_s += _DISK_CHECK_S
        if self._is_due(self._waited_s) and not self._stopping:
            self._waited_s = 0.0
            self.commit()

    def _move_log_in_time(self) -> None:
        file = self._state.index.file
        if file is not None:
            file.move_in_time(self._state.lock)

    def _is_due(self, waited_s: float) -> bool:
        state = self._state
        interval_s = state.settings.commit_interval_s
        if state.access.group_lost_reason:
            interval_s = min(interval_s, _LOST_RETRY_S + self._commit_guard.pause_s)
        return waited_s >= interval_s or state.index.changed_pages >= _GROUP_PAGES

    def check_disk(self) -> None:
        """Measures the free space of the local disk, and refuses or allows what needs more of it."""
        low = self._reserve.is_low
        self._state.reader.free_disk_space()  # first: what is in the caches can be fetched again
        self._state.access.set_disk_low(self._reserve.check())
        with self._state.lock:
            self._state.staging.set_free_disk_bytes(self._reserve.stageable_bytes)
        if self._reserve.is_low != low:
            _log.warning("the local disk %s", "is nearly full: writers get ENOSPC" if not low else "has space again")

    def commit(self) -> None:
        """Returns when all that happened before the call is durable on this machine.

        Raises:
            IndexDatabaseError, OSError: it is not durable; the in-memory state is unchanged, and a later commit may
                succeed.
        """
        with self._state.lock:
            self._requested += 1
            ticket = self._requested
        with self.commit_mutex:
            if self._completed >= ticket:
                return
            with self._state.lock:
                covered = self._requested
            self._commit(lambda: None)
            self._completed = covered

    def commit_and(self, action: Callable[[], Result]) -> Result:
        """Commits, and calls `action` while operations still wait; errors as `commit`."""
        with self.commit_mutex:
            return self._commit(action)

    def _commit(self, action: Callable[[], Result]) -> Result:
        try:
            return self._commit_durably(action)
        except IndexDatabaseError as error:
            if error.is_final:
                self._give_up(error)
            raise

    def _give_up(self, error: IndexDatabaseError) -> None:
        """Refuses all further changes, and writes what is in memory without making it durable.

        The next mount finds it, unless the machine goes down before or the disk loses it again.
        """
        state = self._state
        state.access.turn_read_only(
            f"{error}, so nothing can be kept for sure: unmount, see to the disk, and mount again"
        )
        with state.lock:
            for step in (self._save_rest, self._commit_group):
                with suppress(Cas3fsError, OSError):
                    step()

    def _commit_durably(self, action: Callable[[], Result]) -> Result:
        state = self._state
        self._prepare()
        with state.lock:
            begun_s = time.monotonic()
            self._save_rest()
            waiting, dropped_uncommitted = state.staging.take_stored()
            try:
                self._commit_group()
                self.last_pause_s = time.monotonic() - begun_s
                result = action()
            except BaseException:
                state.staging.restore_stored(waiting, dropped_uncommitted)
                raise
        try:
            state.index.sync()
        except BaseException:
            with state.lock:
                state.staging.restore_stored(waiting, dropped_uncommitted)
            raise
        with state.lock:
            state.staging.drop(waiting)
            if dropped_uncommitted:
                self._save_rest()
        state.metrics.counter("commits").add(1)
        return result

    def _prepare(self) -> None:
        """Step 1: most of the bytes, in slices, so that operations go on meanwhile."""
        state = self._state
        with state.lock:
            state.staging.rows.retry_refused()
            pinned = state.staging.rows.pin_unsynced()
        try:
            for layer in pinned:
                layer.sync()
        finally:
            with state.lock:
                state.staging.release_readers(pinned)
                state.staging.record_losses()
        more = True
        while more:
            with state.lock:
                more = state.staging.rows.save_some(_SLICE_BYTES)
            state.staging.rows.commit()  # each slice by itself: until then SQLite holds it in memory, too

    def _save_rest(self) -> None:
        """As step 1, with the lock held: it should be little."""
        staging = self._state.staging
        pinned = staging.rows.pin_unsynced()
        try:
            for layer in pinned:
                layer.sync()
        finally:
            staging.release_readers(pinned)
            staging.record_losses()
        more = True
        while more:
            more = staging.rows.save_some(_SLICE_BYTES)
            staging.rows.commit()

    def _commit_group(self) -> None:
        """Step 3."""
        state = self._state
        state.dentries.flush()
        if state.inodes.dirty or state.inodes.to_delete:
            with state.index.operation():
                state.inodes.write_back()
        state.index.commit()
        self._report_refused()
        state.inodes.write_back_committed()

    def _report_refused(self) -> None:
        refused = self._state.inodes.refused
        for number in refused.keys() - self._refused:
            _log.error(
                "attributes of inode %d cannot be kept, it stays as it was last kept: %s", number, refused[number]
            )
            self._state.metrics.counter("commits.refused").add(1)
        self._refused = refused.keys()
        staged = self._state.staging.rows.refused
        for number in staged.keys() - self._refused_staged:
            _log.error("%s", staged[number])
            self._state.metrics.note_error("staging", IndexRowRefused(staged[number]))
        self._refused_staged = frozenset(staged)
