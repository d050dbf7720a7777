# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of layers: many bytes, each layer's in a sparse file of the staging folder.

**Descriptors** are few, files may be many. `LayerFiles` keeps a bounded number of them open and opens the others again
when they are used. A file with bytes that may not be on the disk stays open, and is synced before it is closed: the
system reports a failed write only to a process that has had the file open.

**What the disk loses** stays lost. The system reports once that pages could not be written, and forgets which: after
that a sync succeeds, and a read returns what is on the disk, zeros perhaps. So when a sync fails, or a write that the
system made on its own has failed, every byte that was written since the last sync counts as `lost`: it cannot be read
until it is written anew. A read asks for such failures afterwards: what it read before one was reported was right.

Locks, each taken while holding those before it at most: the file system's; a file's `_sync_mutex` (one sync at a time;
held while waiting for the disk); the lock of `LayerFiles`, for all files, which is held for no system call.
"""

import errno
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cas3fs.filesystem.state.extents import Range, RangeSet
from cas3fs.localdisk import LocalDisk
from cas3fs.values import Buffer

REMOVED_SUFFIX = ".gone"
"""The end of the name of a file that is removed when its last reader is done."""

_FEWEST_OPEN, _MOST_OPEN, _SHARE = 16, 4096, 4
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_ATTEMPTS = 16

OnLost = Callable[["FileBytes", OSError], None]
"""Called by any thread when the disk has lost bytes of a file; takes no lock."""


def default_open_files() -> int:
    """How many files are kept open: a share of what the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_FEWEST_OPEN, min(_MOST_OPEN, soft // _SHARE))


class PendingWrite(NamedTuple):
    """Bytes that are in a file, and do not count yet.

    failures: the file's count of losses when the write began.
    dirty: the file's set of unsynced ranges at that time; it is replaced when a sync begins.
    """

    offset: int
    length: int
    failures: int
    dirty: RangeSet


class FileBytes:
    """Bytes in a sparse file.

    Attributes:
        valid: the ranges whose bytes count.
        lost: the ranges of these that the disk has lost.
    """

    __slots__ = (
        "_dirty",
        "_files",
        "_is_name_unsynced",
        "_sync_mutex",
        "_syncing",
        "close_when_unused",
        "descriptor",
        "failures",
        "lost",
        "path",
        "unsynced",
        "uses",
        "valid",
    )

    def __init__(
        self,
        path: Path,
        files: "LayerFiles",
        ranges: Iterable[Range] = (),
        lost: Iterable[Range] = (),
        *,
        create: bool,
    ) -> None:
        """Creates the file, or refers to an existing one.

        Raises:
            OSError: as open(2).
        """
        self.path = path
        self.valid = RangeSet(ranges)
        self.lost = RangeSet(lost)
        self.unsynced = create
        """Bytes that count may not be on the disk."""
        self.failures = 0
        """How often the disk has lost bytes of it."""
        self.descriptor, self.uses, self.close_when_unused = -1, 0, False  # these belong to `files`
        self._files = files
        self._sync_mutex = threading.Lock()
        self._dirty = RangeSet()
        """What was written since the last sync began, whether it counts or not."""
        self._syncing = RangeSet()
        """What the sync under way covers."""
        self._is_name_unsynced = create
        if create:
            files.create(self)

    @property
    def size_bytes(self) -> int:
        return self.valid.size_bytes

    @property
    def range_count(self) -> int:
        return len(self.valid)

    @property
    def is_clean(self) -> bool:
        """Whether a sync has nothing to do."""
        return not self.unsynced and not self._dirty.starts

    def ranges(self) -> list[Range]:
        return list(self.valid)

    def lost_ranges(self) -> list[Range]:
        with self._files.lock:
            return list(self.lost)

    def write(self, offset: int, data: Buffer) -> PendingWrite:
        """Writes the bytes, which do not count before `finish_write`.  May block on the disk: call it without a lock.

        The file is in use until `finish_write`, which has to follow.

        Raises:
            OSError: as pwrite(2), a full disk among them; nothing has to follow.
        """
        view = memoryview(data)
        length, files = len(view), self._files
        with files.lock:
            pending = PendingWrite(offset, length, self.failures, self._dirty)
            if length:
                self._dirty.add(offset, offset + length)
            descriptor = files.use(self)
        if descriptor < 0:
            descriptor = files.acquire(self)
        try:
            written = 0
            while written < length:
                written += files.disk.write(descriptor, view[written:] if written else view, offset + written)
        except BaseException:
            with files.lock:
                self._mark_dirty_again(pending)
            files.release(self)
            raise
        return pending

    def _mark_dirty_again(self, pending: PendingWrite) -> None:
        """Marks the bytes of a write dirty, where a sync has begun since: it may have come too early for them."""
        if pending.dirty is not self._dirty and pending.length:
            self._dirty.add(pending.offset, pending.offset + pending.length)

    def finish_write(self, pending: PendingWrite) -> None:
        """Makes the bytes that `write` wrote count."""
        offset, length, failures, dirty = pending
        end, files = offset + length, self._files
        with files.lock:
            if dirty is not self._dirty:
                self._mark_dirty_again(pending)
            was_lost = failures != self.failures
            if length:
                self.valid.add(offset, end)
                if was_lost:
                    self.lost.add(offset, end)
                elif self.lost.starts:
                    self.lost.remove(offset, end)
            self.unsynced = True
            descriptor = files.end_use(self)
        if descriptor >= 0:
            files.disk.close(descriptor)
        if was_lost:
            files.on_lost(self, OSError(errno.EIO, os.strerror(errno.EIO)))

    def truncate(self, size: int) -> None:
        """Drops everything from `size` on."""
        with self._files.lock:
            self.valid.truncate(size)
            self.lost.truncate(size)

    def remove(self, start: int, end: int) -> None:
        """Drops ``[start, end)``; the local disk has its space again when the file goes."""
        with self._files.lock:
            self.valid.remove(start, end)
            self.lost.remove(start, end)

    def shrink(self, size: int) -> None:
        """Frees the disk space behind `size`, if it can; only while no row names those bytes."""
        with suppress(OSError):
            descriptor = self._files.acquire(self)
            try:
                self._files.disk.truncate(descriptor, size)
            finally:
                self._files.release(self)

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any of ``[start, end)`` counts."""
        return self.valid.overlaps(start, end)

    def within(self, start: int, end: int) -> list[Range]:
        """The parts of ``[start, end)`` that count, ascending."""
        return self.valid.within(start, end)

    def read_into(self, start: int, into: memoryview) -> None:
        """Fills `into` with the bytes from `start` on, of a range that `within` gave.

        The file is not mapped: a sector that cannot be read is an error of this call then, and not a signal that ends
        the process.

        Raises:
            OSError: as preadv(2); EIO where the disk has lost some of these bytes, or the file is too short.
        """
        end = start + len(into)
        self._check_not_lost(start, end)
        position = start
        descriptor = self._files.acquire(self)
        try:
            while into:
                count = self._files.disk.read_into(descriptor, into, position)
                if not count:
                    raise OSError(errno.EIO, f"staging file {self.path} is shorter than its ranges")
                into = into[count:]
                position += count
            if self._may_be_lost(start, end):
                with self._sync_mutex:  # a sync that is under way finds the failure
                    self._check(descriptor)
        finally:
            self._files.release(self)
        self._check_not_lost(start, end)

    def _may_be_lost(self, start: int, end: int) -> bool:
        """Whether the disk may have lost some of these bytes, and has not reported it."""
        with self._files.lock:
            return self._dirty.overlaps(start, end) or self._syncing.overlaps(start, end)

    def _check_not_lost(self, start: int, end: int) -> None:
        with self._files.lock:
            lost = self.lost.within(start, end) if self.lost.starts else []
        if lost:
            raise OSError(
                errno.EIO,
                f"the local disk has lost bytes {lost[0][0]} to {lost[-1][1]} of staging file {self.path}; "
                "write them again",
            )

    def verify(self) -> None:
        """Asks the system for failed writes: if `failures` is unchanged after it, what was read before is right.

        Raises:
            OSError: the file cannot be opened.
        """
        with self._sync_mutex:
            if self._dirty.starts:
                descriptor = self._files.acquire(self)
                try:
                    self._check(descriptor)
                finally:
                    self._files.release(self)

    def _check(self, descriptor: int) -> None:
        """Notes it if a write that the system made on its own has failed.  Needs `_sync_mutex`."""
        try:
            self._files.disk.check(descriptor)
        except OSError as error:
            self._mark_lost(RangeSet(), error)

    def sync(self) -> None:
        """Puts the bytes that count on the disk; those that it does not take are `lost`.

        Raises:
            OSError: the file cannot be opened, so nothing was tried; the bytes are as they were.
        """
        with self._sync_mutex:
            self._sync()

    def sync_at_once(self) -> bool:
        """As `sync`, but returns False at once if another sync is under way."""
        if not self._sync_mutex.acquire(blocking=False):
            return False
        try:
            self._sync()
        finally:
            self._sync_mutex.release()
        return True

    def _sync(self) -> None:
        try:
            descriptor = self._files.acquire(self)  # first: else the file could look clean, and be closed
        except FileNotFoundError as error:  # it was removed: no later sync can find it either
            self._mark_lost(self.valid, error)
            return
        try:
            self.unsynced = False  # before the call: a write during it sets the flag again
            with self._files.lock:
                syncing = self._syncing = self._dirty
                self._dirty = RangeSet()
            try:
                self._files.disk.sync(descriptor)
            except OSError as error:
                self._mark_lost(syncing, error)
            else:
                self._sync_name()
        finally:
            with self._files.lock:
                self._syncing = RangeSet()
            self._files.release(self)

    def _sync_name(self) -> None:
        """Puts the file's name on the disk: without it nothing of the file is there."""
        if self._is_name_unsynced:
            try:
                self._files.sync_folder()
                self._is_name_unsynced = False
            except OSError as error:
                self._mark_lost(self.valid, error)

    def _mark_lost(self, syncing: Iterable[Range], error: OSError) -> None:
        """Marks all of `syncing`, and all that was written since, as lost."""
        with self._files.lock:
            for start, end in [*syncing, *self._dirty]:
                for part in self.valid.within(start, end):
                    self.lost.add(*part)
            self._dirty = RangeSet()
            self.failures += 1
            self.unsynced = False
        self._files.on_lost(self, error)

    def close(self) -> None:
        """Closes the file; it stays on the disk."""
        self._files.close_file(self)

    def rename_for_removal(self) -> None:
        """Renames the file, which only its present readers need; `discard` follows."""
        self._files.rename(self, self.path.with_name(self.path.name + REMOVED_SUFFIX))

    def discard(self) -> None:
        """Removes the file."""
        with suppress(OSError):  # the next mount quarantines what is left
            self._files.disk.unlink(self.path)
        self._files.close_file(self)


class LayerFiles:
    """The files of one staging folder, and the few that are open."""

    def __init__(self, folder: Path, disk: LocalDisk, on_lost: OnLost, most_open: int | None = None) -> None:
        self.disk = disk
        self.on_lost = on_lost
        self._folder = folder
        self._folder_descriptor = -1
        self._most_open = default_open_files() if most_open is None else most_open
        self.lock = threading.Lock()
        """Guards the ranges and descriptors of all files."""
        self._open: OrderedDict[FileBytes, None] = OrderedDict()
        """Those that were used longest ago first."""

    @property
    def open_count(self) -> int:
        return len(self._open)

    def create(self, held: FileBytes) -> None:
        """Makes its file, empty, and opens it.

        Raises:
            OSError: as open(2).
        """
        self._open_folder()  # before there is anything to sync
        self._register(held, self._open_file(held, os.O_CREAT | os.O_TRUNC))

    def _open_folder(self) -> None:
        if self._folder_descriptor >= 0:
            return
        descriptor = self.disk.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        with self.lock:
            if self._folder_descriptor < 0:
                self._folder_descriptor, descriptor = descriptor, -1
        if descriptor >= 0:
            self.disk.close(descriptor)

    def acquire(self, held: FileBytes) -> int:
        """A descriptor of its file; `release` has to follow.

        Raises:
            OSError: as open(2).
        """
        with self.lock:
            descriptor = self.use(held)
        if descriptor < 0:
            self._register(held, self._open_file(held, 0), uses=1)
            descriptor = held.descriptor
        return descriptor

    def use(self, held: FileBytes) -> int:
        """As `acquire`, and -1 where its file is not open; needs the lock."""
        descriptor = held.descriptor
        if descriptor >= 0:
            held.uses += 1
            self._open.move_to_end(held)
        return descriptor

    def _register(self, held: FileBytes, descriptor: int, uses: int = 0) -> None:
        with self.lock:
            held.uses += uses
            if held.descriptor < 0:
                held.descriptor, descriptor = descriptor, -1
                self._open[held] = None
        if descriptor >= 0:  # another thread was faster
            self.disk.close(descriptor)

    def release(self, held: FileBytes) -> None:
        """Ends the use of the descriptor that `acquire` gave."""
        with self.lock:
            descriptor = self.end_use(held)
        if descriptor >= 0:
            self.disk.close(descriptor)

    def end_use(self, held: FileBytes) -> int:
        """As `release`; gives the descriptor that is to be closed, or -1; needs the lock."""
        held.uses -= 1
        return self._detach(held) if held.close_when_unused and not held.uses else -1

    def close_file(self, held: FileBytes) -> None:
        """Closes its file as soon as nothing uses it."""
        with self.lock:
            held.close_when_unused = True
            descriptor = -1 if held.uses else self._detach(held)
        if descriptor >= 0:
            self.disk.close(descriptor)

    def rename(self, held: FileBytes, path: Path) -> None:
        """Renames its file; it keeps the old name where that fails."""
        with suppress(OSError):
            self.disk.rename(held.path, path)
            held.path = path

    def sync_folder(self) -> None:
        """Puts the names of the folder on the disk.

        Raises:
            OSError: as fsync(2).
        """
        self.disk.sync_folder(self._folder_descriptor)

    def close(self) -> None:
        """Closes all files; they stay on the disk."""
        with self.lock:
            descriptors = [self._detach(held) for held in list(self._open)]
            if self._folder_descriptor >= 0:
                descriptors.append(self._folder_descriptor)
                self._folder_descriptor = -1
        for descriptor in descriptors:
            self.disk.close(descriptor)

    def _detach(self, held: FileBytes) -> int:
        descriptor, held.descriptor = held.descriptor, -1
        self._open.pop(held, None)
        return descriptor

    def _open_file(self, held: FileBytes, flags: int) -> int:
        while len(self._open) >= self._most_open and self._close_one():
            pass
        attempts = _ATTEMPTS
        while True:
            attempts -= 1
            path = held.path
            try:
                return self._open_for_both(path, flags)
            except FileNotFoundError:
                if path == held.path or not attempts:  # else it was renamed meanwhile
                    raise
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR or not attempts or not self._close_one():
                    raise

    def _open_for_both(self, path: Path, flags: int) -> int:
        """Opens a file for reading and writing.

        Links are followed but where a file is made: `cas3fs rescue` works on links to the files of a state directory,
        whose disk may be read-only by then.
        """
        if flags:
            return self.disk.open(path, os.O_RDWR | os.O_NOFOLLOW | flags)
        try:
            return self.disk.open(path, os.O_RDWR)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            return self.disk.open(path, os.O_RDONLY)

    def _close_one(self) -> bool:
        """Closes the file that was used longest ago, if there is one, of those that need no sync before it.

        Waits for no other thread: the caller may be in the middle of a sync of its own.

        Returns:
            False if all files are in use, or being synced.
        """
        with self.lock:
            idle = [held for held in self._open if not held.uses]
            clean = next((held for held in idle if held.is_clean), None)
            descriptor = -1 if clean is None else self._detach(clean)
        if descriptor >= 0:
            self.disk.close(descriptor)
        return descriptor >= 0 or any(self._close_dirty(held) for held in idle[:_ATTEMPTS])

    def _close_dirty(self, held: FileBytes) -> bool:
        """Syncs a file and closes it, unless something uses it."""
        with self.lock:
            if held.uses or held.descriptor < 0:
                return False
            held.uses += 1
        was_synced = held.sync_at_once()
        with self.lock:
            held.uses -= 1
            may_go = not held.uses and ((was_synced and held.is_clean) or held.close_when_unused)
            descriptor = self._detach(held) if may_go else -1
        if descriptor >= 0:
            self.disk.close(descriptor)
        return descriptor >= 0
