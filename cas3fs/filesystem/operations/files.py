# SPDX-License-Identifier: GPL-3.0-or-later
"""Contents: open, read, write, truncate, and the attributes of inodes.

A write goes to the file's top layer (module `state.staging`) and nowhere else; storers bring it to the store later.

There are two calls for one thing: `read_now` and `write_now` never wait for anything but the lock, and return None
where they would have to; `read` and `write` may wait for the store, the disk, or space in staging. A front-end that
serves many requests with few threads tries the first, and calls the second where waiting blocks no other request.

A few KiB for a layer that is in a file are written to the system's cache by `write_now` too: that takes microseconds,
and handing the request to another thread would take 80. Only where the disk is so busy that the system makes writers
wait does it take longer; after the first such write, the next ones are left to `write` for a second.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

from cas3fs.blockstore.reader import WaitGuard
from cas3fs.errors import BlockMissing, FileSystemError
from cas3fs.filesystem.limits import SIZE_MAX, check_owner, clamped_ns
from cas3fs.filesystem.operations.directories import Directories
from cas3fs.filesystem.reading.chunk_cache import ChunkCache, NeighbourChunks
from cas3fs.filesystem.reading.read_plan import ReadPlan
from cas3fs.filesystem.reading.readahead import ReadAhead
from cas3fs.filesystem.settings import Caller
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inode_flags import APPEND, IMMUTABLE, KNOWN, PROTECTED, refuse_if
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layer_files import FileBytes, PendingWrite
from cas3fs.filesystem.state.layers import Layer
from cas3fs.values import Buffer

_log = logging.getLogger(__name__)

_MODE_BITS = 0o7777
_LOG_INTERVAL_S = 60.0
_QUICK_WRITE_BYTES = 32 * 1024
_SLOW_WRITE_S = 0.005
_AFTER_SLOW_WRITE_S = 1.0
_CHECK_INTERVAL_S = 1.0
"""How often a writer that waits for space checks for it, at least."""


class OpenFile:
    """A handle of a regular file."""

    __slots__ = ("appends", "chunks", "inode", "losses_seen", "privileged", "readable", "readahead", "writable")

    def __init__(self, inode: Inode, flags: int, privileged: bool, chunks: ChunkCache) -> None:
        self.inode = inode
        access = flags & os.O_ACCMODE
        self.readable = access != os.O_WRONLY
        self.writable = access != os.O_RDONLY
        self.privileged = privileged
        """Its writes do not clear set-id bits, where nobody says whether they are to."""
        self.appends = False
        """Its file is append-only: it may write behind the end, and nowhere else."""
        self.readahead = ReadAhead()
        self.chunks = chunks
        self.losses_seen = 0
        """How many losses of staged bytes were reported to it."""


class Files:
    """The operations on contents and attributes."""

    def __init__(self, state: FileSystemState, directories: Directories) -> None:
        self._state = state
        self._directories = directories
        self._lock = state.lock
        self._index = state.index
        self._neighbours = NeighbourChunks(state.index)
        self._inodes = state.inodes
        self._staging = state.staging
        self._access = state.access
        self._reader = state.reader
        self._open: dict[int, OpenFile] = {}
        self.has_cache_above = False
        """Whether a cache above collects what programs write, as the kernel's can. It keeps mtime and ctime and clears
        set-id bits itself, and reads through handles for writing. To be set before a file is opened."""
        self.on_set_ids_cleared: Callable[[int], None] = lambda _: None
        """Called under the lock with the number of a file whose set-id bits a change of its content has cleared."""
        self._next_log_at_s: dict[str, float] = {}
        """By reason for refusing writers, when it may be logged again."""
        self._file_writes_wait_until_s = 0.0
        """Until then, by the monotonic clock, `write_now` writes to no file: the disk was slow."""

    # -- attributes

    def getattr(self, number: int) -> Inode:
        """The inode.

        Raises:
            FileSystemError: ENOENT.
        """
        with self._lock:
            return self._inodes.get(number)

    def setattr(
        self,
        number: int,
        caller: Caller,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        is_touch: bool = False,
        kills_set_ids: bool = False,
    ) -> Inode:
        """Changes what is not None; of `mode` only the permission bits count, and times range from 1677 to 2262.

        The ctime becomes now, unless the caller keeps it. With `is_touch`, times are set to now, which an append-only
        file permits. With `kills_set_ids` a new size clears set-id bits.

        Raises:
            FileSystemError: ENOENT, EROFS, ENOSPC; EPERM, a flag forbids it; EINVAL for an owner that there cannot be;
                for a size also EISDIR, EINVAL, EFBIG.
        """
        check_owner(uid or 0, gid or 0)
        with self._lock:
            self._access.check_change()
            inode = self._inodes.get(number)
            if inode.flags & PROTECTED:
                sets_times = not is_touch and not (atime_ns is mtime_ns is None)
                refuse_if(inode.flags & IMMUTABLE or sets_times or not (mode is uid is gid is size is None))
            if mode is not None:
                self._state.access_lists.change_mode(inode, mode)
            now = time.time_ns()
            if size is not None:
                self._truncate(inode, size, now)
                if kills_set_ids:
                    self._clear_set_ids(inode)
            if uid is not None or gid is not None:
                self._change_owner(inode, uid, gid)
            if mode is not None:
                inode.mode = stat.S_IFMT(inode.mode) | mode & _MODE_BITS
            if atime_ns is not None:
                inode.atime_ns = clamped_ns(atime_ns)
            if mtime_ns is not None:
                inode.mtime_ns = clamped_ns(mtime_ns)
            inode.ctime_ns = now if ctime_ns is None else clamped_ns(ctime_ns)
            self._state.attributes_changed(inode)
            return inode

    def set_flags(self, number: int, flags: int) -> None:
        """Sets the flags of a file or directory (module `inode_flags`); who may is not checked.

        Raises:
            FileSystemError: ENOENT, EROFS; EOPNOTSUPP, there is a flag that cannot be kept; EBUSY, a cache
                above may hold writes to a file that is to be protected.
        """
        if flags & ~KNOWN:
            raise FileSystemError(errno.EOPNOTSUPP)
        with self._lock:
            self._access.check_removal()
            inode = self._inodes.get(number)
            if self.has_cache_above and inode.writers and flags & ~inode.flags & PROTECTED:
                raise FileSystemError(errno.EBUSY)  # what programs have written may be there still, and is welcome
            inode.flags = flags
            inode.ctime_ns = time.time_ns()
            self._state.attributes_changed(inode)

    def _change_owner(self, inode: Inode, uid: int | None, gid: int | None) -> None:
        """Changes the owner and clears the set-id bits of a file, as chown(2) does."""
        if uid is not None:
            inode.uid = uid
        if gid is not None:
            inode.gid = gid
        if not inode.is_directory:
            inode.mode = _without_set_ids(inode.mode)

    def _truncate(self, inode: Inode, size: int, now: int) -> None:
        if inode.is_directory:
            raise FileSystemError(errno.EISDIR)
        if not stat.S_ISREG(inode.mode) or size < 0:
            raise FileSystemError(errno.EINVAL)
        if size > SIZE_MAX:
            raise FileSystemError(errno.EFBIG)
        self._staging.truncate(inode, size)
        inode.size = size
        if not self.has_cache_above:
            inode.mtime_ns = inode.ctime_ns = now
        self._staging.update_active_layer(inode)

    # -- opening

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Inode, int]:
        """Makes a regular file and opens it.

        Raises:
            FileSystemError: as `Directories.mknod`.
        """
        with self._lock:
            inode = self._directories.make_inode(parent, name, stat.S_IFREG | mode & _MODE_BITS, caller)
            return inode, self._open_inode(inode, flags, caller)

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[Inode, int]:
        """Makes a regular file without a name, as if in that directory, and opens it; open(2) with O_TMPFILE.

        Without O_EXCL in `flags`, `Directories.link` may give it a name while it is open.

        Raises:
            FileSystemError: as `Directories.mknod`.
        """
        with self._lock:
            inode = self._directories.make_unnamed(parent, mode & _MODE_BITS, caller, linkable=not flags & os.O_EXCL)
            return inode, self._open_inode(inode, flags, caller)

    def open(self, number: int, flags: int, caller: Caller, *, kills_set_ids: bool = False) -> int:
        """Opens a regular file, and cuts it to nothing for O_TRUNC, which clears set-id bits with `kills_set_ids`.

        Returns:
            the handle.

        Raises:
            FileSystemError: ENOENT, EISDIR, EINVAL for other types, EROFS; EPERM, a flag forbids it.
        """
        with self._lock:
            inode = self._inodes.get(number)
            if inode.is_directory:
                raise FileSystemError(errno.EISDIR)
            if not stat.S_ISREG(inode.mode):
                raise FileSystemError(errno.EINVAL)
            if flags & (os.O_ACCMODE | os.O_TRUNC):
                self._access.check_removal()
                if inode.flags & PROTECTED:
                    refuse_if(inode.flags & IMMUTABLE or flags & os.O_TRUNC or not flags & os.O_APPEND)
                if flags & os.O_TRUNC:
                    self._truncate(inode, 0, time.time_ns())
                    if kills_set_ids:
                        self._clear_set_ids(inode)
                    self._inodes.mark_dirty(inode)
            return self._open_inode(inode, flags, caller)

    def _open_inode(self, inode: Inode, flags: int, caller: Caller) -> int:
        chunks = ChunkCache(self._index, inode.number, self._neighbours)
        if self.has_cache_above and flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
        opened = OpenFile(inode, flags, caller.uid == 0 or self.has_cache_above, chunks)
        opened.appends = bool(inode.flags & APPEND) and not self.has_cache_above  # that writes whole pages
        if (failure := self._staging.losses.get(inode.number)) is not None:
            opened.losses_seen = failure.reported
        inode.handles += 1
        inode.writers += opened.writable
        handle = self._state.next_handle()
        self._open[handle] = opened
        return handle

    def release(self, handle: int) -> None:
        """Closes a handle."""
        with self._lock:
            opened = self._open.pop(handle)
            inode = opened.inode
            inode.handles -= 1
            if opened.writable:
                inode.writers -= 1
                if inode.layers:
                    inode.changed_at_s = time.monotonic()
            if not inode.nlink:
                self._state.remove_if_unreferenced(inode)

    def has_writers(self) -> bool:
        """Whether a file is open for writing."""
        with self._lock:
            return any(opened.writable for opened in self._open.values())

    @property
    def open_count(self) -> int:
        """How many handles are open."""
        return len(self._open)

    def inode_of(self, handle: int) -> Inode | None:
        """The file of a handle; None where it is closed.  Needs no lock."""
        opened = self._open.get(handle)
        return None if opened is None else opened.inode

    def opened(self, handle: int) -> OpenFile:
        """An open handle.  Needs the lock."""
        return self._open[handle]

    def check_losses(self, handle: int) -> None:
        """Reports once to a handle that staged bytes of its file are lost.

        Raises:
            FileSystemError: EIO.
        """
        with self._lock:
            self._staging.record_losses()
            opened = self._open.get(handle)
            failure = None if opened is None else self._staging.losses.get(opened.inode.number)
            if opened is None or failure is None or opened.losses_seen >= failure.count:
                return
            opened.losses_seen = failure.reported = failure.count
            raise FileSystemError(errno.EIO, failure.reason)

    # -- reading

    def read_now(self, handle: int, offset: int, size: int) -> Buffer | None:
        """As `read` where the bytes are in memory, else None. Never waits."""
        with self._lock:
            plan = self._plan(handle, offset, size)
            data = b"" if plan is None else plan.now(self._reader)
            if data is None and plan is not None and plan.holds_files:
                plan.finish(self._staging)
            return data

    def read(self, handle: int, offset: int, size: int, wait_guard: WaitGuard = nullcontext) -> Buffer:
        """Reads up to `size` bytes from `offset` on: fewer only at the end of the file; holes are zeros.

        `wait_guard` makes the context in which the read waits for the store; what it raises ends the read.

        Raises:
            FileSystemError: EBADF, the handle is not open for reading; EINVAL.
            BlockError, StoreError, OSError: bytes of this range cannot be read.
        """
        with self._lock:
            plan = self._plan(handle, offset, size)
        if plan is None:
            return b""
        try:
            return self._execute(plan, wait_guard)
        except BlockMissing:
            with self._lock:
                again = self._plan(handle, offset, size)
            if again is None:
                return b""
            if [span.block for span in again.spans] == [span.block for span in plan.spans]:
                with self._lock:
                    again.finish(self._staging)
                raise
            return self._execute(again, wait_guard)  # gc has moved the blocks to another pack, and deleted the old one

    def _execute(self, plan: ReadPlan, wait_guard: WaitGuard) -> Buffer:
        try:
            return plan.execute(self._reader, wait_guard)
        finally:
            if plan.holds_files:
                with self._lock:
                    plan.finish(self._staging)

    def _plan(self, handle: int, offset: int, size: int) -> ReadPlan | None:
        """How to read; None at or behind the end of the file."""
        opened = self._open[handle]
        if not opened.readable:
            raise FileSystemError(errno.EBADF)
        inode = opened.inode
        if offset < 0:
            raise FileSystemError(errno.EINVAL)
        end = min(offset + size, inode.size)
        if offset >= end:
            return None
        window = opened.readahead.record_read(offset, end)
        if window is not None and window[0] < inode.size:
            with suppress(BlockMissing):  # a read of that block reports it
                spans = self._index.chunks.spans(inode.number, window[0], min(window[1], inode.size))
                self._reader.prefetch([span.block for span in spans])
        return ReadPlan(opened.chunks, inode.read_layers, offset, end)

    # -- writing

    def write_now(self, handle: int, offset: int, data: Buffer, *, kills_set_ids: bool | None = None) -> int | None:
        """As `write` where the bytes fit in memory, or are few for a file of staging, else None. Never waits."""
        staging = self._staging
        with self._lock:
            if staging.is_in_file(self._open[handle].inode):
                if not self._may_write_to_file_now(self._open[handle].inode, len(data)):
                    return None
                inode = self._begin_write(handle, offset, data, kills_set_ids)
                layer, held = self._file_layer(inode)
            else:
                return self._write_to_memory_now(handle, offset, data, kills_set_ids)
        began_s = time.monotonic()
        self._write_to_layer(inode, layer, held, offset, data)
        if time.monotonic() - began_s > _SLOW_WRITE_S:
            self._file_writes_wait_until_s = time.monotonic() + _AFTER_SLOW_WRITE_S
        return len(data)

    def _may_write_to_file_now(self, inode: Inode, length: int) -> bool:
        """Whether writing so many bytes to the file of the active layer waits for nothing, most likely."""
        return (
            length <= _QUICK_WRITE_BYTES
            and not (self._staging.is_full or self._access.refusal or inode.layers[-1].closing)
            and time.monotonic() >= self._file_writes_wait_until_s
        )

    def _write_to_memory_now(self, handle: int, offset: int, data: Buffer, kills_set_ids: bool | None) -> int | None:
        """As `write_now`, for a layer in memory; the lock is held."""
        staging = self._staging
        if self._access.refusal == errno.ENOSPC and staging.may_free_space:
            return None
        inode = self._begin_write(handle, offset, data, kills_set_ids)
        if not staging.write_to_memory(inode, offset, data):
            return None
        self._update_after_write(inode, offset + len(data))
        staging.update_active_layer(inode)
        return len(data)

    def write(
        self,
        handle: int,
        offset: int,
        data: Buffer,
        *,
        wait: bool = True,
        since_s: float | None = None,
        kills_set_ids: bool | None = None,
        pause: WaitGuard = nullcontext,
    ) -> int:
        """Writes all of `data` at `offset`; waits while staging is full.

        Without `wait` it waits for two seconds at most, and then exceeds the limit, up to a point. `since_s` is when
        the caller began to wait, by the monotonic clock: now if None. `kills_set_ids` says whether to clear set-id
        bits; None: unless the superuser has opened the file. `pause` makes the context in which it waits; what that
        raises ends the write before anything is written.

        Raises:
            FileSystemError: EBADF, EFBIG, EINVAL, EROFS; EPERM, a flag forbids it; ENOSPC where the local disk has no
                space, and storing what is staged frees none, or for a caller that could not wait.
        """
        staging = self._staging
        with self._lock:
            if self._access.refusal == errno.ENOSPC and not staging.may_free_space:
                self._access.check_change()
            if staging.is_full or self._access.refusal:
                self._require_space(wait, time.monotonic() if since_s is None else since_s, pause)
            inode = self._begin_write(handle, offset, data, kills_set_ids)
            if not staging.is_in_file(inode) and staging.write_to_memory(inode, offset, data):
                self._update_after_write(inode, offset + len(data))
                staging.update_active_layer(inode)
                return len(data)
            layer, held = self._file_layer(inode)
        self._write_to_layer(inode, layer, held, offset, data)
        return len(data)

    def _write_to_layer(self, inode: Inode, layer: Layer, held: FileBytes, offset: int, data: Buffer) -> None:
        """Writes to the file of a layer, after `_file_layer`, without the lock."""
        written = None
        try:
            written = held.write(offset, data)
        except OSError as error:
            raise FileSystemError(error.errno or errno.EIO, str(error)) from error
        finally:
            with self._lock:
                self._end_file_write(inode, layer, held, written)

    def _require_space(self, wait: bool, since_s: float, pause: WaitGuard) -> None:
        """Waits for space in staging.

        Raises:
            FileSystemError: ENOSPC, as `write` says.
        """
        staging = self._staging
        self._await_space(since_s, None if wait else since_s + staging.max_wait_s, pause)
        if staging.is_short_of_disk and staging.is_waiting_useless(since_s):
            raise self._no_space("the local disk has no space for what waits for the store")
        if staging.is_full_of_unstorable:
            raise self._no_space("staging is full of files that cannot be stored: see `cas3fs stats`")
        if not wait and staging.is_overfull:
            raise self._no_space("staging is full, and too many writers wait for the store already")

    def _no_space(self, reason: str) -> FileSystemError:
        """The error that a writer gets; ``stats`` shows it, and the log has each reason once in a while."""
        error, now_s = FileSystemError(errno.ENOSPC, reason), time.monotonic()
        self._state.metrics.note_error("writing", error)
        if now_s >= self._next_log_at_s.get(reason, now_s):
            self._next_log_at_s[reason] = now_s + _LOG_INTERVAL_S
            _log.error("writers get ENOSPC: %s", reason)
        return error

    def _await_space(self, since_s: float, deadline_s: float | None, pause: WaitGuard) -> None:
        """Returns when staging has space, or when waiting for it is useless, or at the deadline."""
        staging = self._staging
        while not self._access.read_only_reason:
            if staging.size_bytes < staging.limit_bytes:
                is_short = staging.is_short_of_disk or self._access.refusal == errno.ENOSPC
                if not is_short or staging.is_waiting_useless(since_s):
                    return
            elif staging.is_full_of_unstorable:
                return
            left_s = _CHECK_INTERVAL_S if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                return
            staging.store_requested.set()
            with pause():
                staging.space_available.wait(min(left_s, _CHECK_INTERVAL_S))

    def _begin_write(self, handle: int, offset: int, data: Buffer, kills_set_ids: bool | None) -> Inode:
        """Checks that the bytes may be written, and clears set-id bits as write(2) does."""
        self._access.check_change()
        if offset < 0 or offset + len(data) > SIZE_MAX:
            raise FileSystemError(errno.EINVAL if offset < 0 else errno.EFBIG)
        return self.begin_change_from(handle, offset, kills_set_ids)

    def begin_change_from(self, handle: int, offset: int, kills_set_ids: bool | None = None) -> Inode:
        """As `begin_change`, for bytes that are put at `offset`.  Needs the lock.

        Raises:
            FileSystemError: as that; EPERM also where the file is append-only, and not at its end.
        """
        inode = self.begin_change(handle, kills_set_ids)
        if inode.flags & APPEND:  # a program may have cleared O_APPEND since it has opened the file
            refuse_if(self._open[handle].appends and offset < inode.size)
        return inode

    def begin_change(self, handle: int, kills_set_ids: bool | None = None) -> Inode:
        """The file of a handle, whose content is about to change: clears set-id bits as write(2) does.  Needs the lock.

        Raises:
            FileSystemError: EBADF, the handle is not open for writing; EPERM, the file is immutable.
        """
        opened = self._open[handle]
        if not opened.writable:
            raise FileSystemError(errno.EBADF)
        inode = opened.inode
        refuse_if(inode.flags & IMMUTABLE)
        if inode.mode & (stat.S_ISUID | stat.S_ISGID) and (
            not opened.privileged if kills_set_ids is None else kills_set_ids
        ):
            self._clear_set_ids(inode)
        return inode

    def _clear_set_ids(self, inode: Inode) -> None:
        mode = _without_set_ids(inode.mode)
        if mode != inode.mode:
            inode.mode = mode
            self._inodes.mark_dirty(inode)
            self.on_set_ids_cleared(inode.number)

    def _file_layer(self, inode: Inode) -> tuple[Layer, FileBytes]:
        try:
            return self._staging.begin_file_write(inode)
        except OSError as error:
            raise FileSystemError(error.errno or errno.EIO, str(error)) from error

    def _end_file_write(self, inode: Inode, layer: Layer, held: FileBytes, written: PendingWrite | None) -> None:
        if written is not None:
            self._update_after_write(inode, written.offset + written.length)
        self._staging.end_file_write(inode, layer, held, written)

    def _update_after_write(self, inode: Inode, end: int) -> None:
        """Sets size and times after a write that reached `end`."""
        inode.size = max(inode.size, end)
        if not self.has_cache_above:
            inode.mtime_ns = inode.ctime_ns = time.time_ns()

    def times_of_change(self, inode: Inode) -> tuple[int, int]:
        """The mtime and ctime of a file whose content changes now; a cache above sets them itself."""
        if self.has_cache_above:
            return inode.mtime_ns, inode.ctime_ns
        now_ns = time.time_ns()
        return now_ns, now_ns


def _without_set_ids(mode: int) -> int:
    """`mode` without the set-user-id bit, and without set-group-id where the group may execute."""
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID
