# SPDX-License-Identifier: GPL-3.0-or-later
"""What each FUSE request does to the file system; the same for every front-end.

Each handler calls the file system once, or a few times. The rules of the kernel's requests that are kept here:

- a lookup of an absent name is no error: the front-end replies with inode number 0, and the kernel remembers the name
  as absent;
- the kernel asks for ``security.capability`` before a file is written, through llfuse before every write; that is
  answered from a flag until such an attribute exists;
- close() has nothing to wait for, since written data is in staging: FLUSH is answered by ENOSYS, and the kernel stops
  sending it;
- access lists are refused where the front-end has not agreed with the kernel that it enforces them; programs that copy
  them then use the mode.

A front-end may run handlers under a lock of its own (llfuse has a global one), or in the one thread that reads
requests. Lock order: the front-end's lock, then the file system's. A handler that may wait for the disk, for the store
or for space in staging says so; a front-end calls it without any lock, in a thread that may wait. For reading and
writing there are `read_now` and `write_now` beside, which never wait, and return None where they would have to.

Requests that wait: one that waits for the store, to read or to sync, needs a slot of the `BlockingLimiter`, and there
are fewer slots than threads. A writer that waits for space in staging needs one too, where all requests share the
threads (llfuse's workers): one that finds none waits a moment, and then exceeds staging's limit by its one request. The
limit is approximate there, but a worker must be free. Where writers have threads of their own (`write_when_possible`),
they wait as long as it takes.
"""

import errno
import logging
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from cas3fs.blockstore.reader import WaitGuard
from cas3fs.errors import Cas3fsError, FileSystemError, errno_of
from cas3fs.filesystem import ROOT, Entry, EntryWithInode, FileSystem, VolumeStatistics
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.fuse.limiter import BlockingLimiter
from cas3fs.fuse.mountpoints import CONTROL_XATTR
from cas3fs.values import Buffer

_CAPABILITY = b"security.capability"
_CONTROL = CONTROL_XATTR.encode()
_ACCESS_LISTS = b"system.posix_acl_"
_WRITER_WAIT_S = 0.25
"""How long a writer waits for a slot."""
_DOTS = 2
"""Readdir's offsets 0 and 1 are ``.`` and ``..``; the entries of the file system follow."""
_AFTER_A_JUMP = 16
_UNBOUNDED = 1 << 30
_BATCH = 128
"""Entries that are fetched at once where nobody says how many are wanted."""
_LARGEST_BATCH = 1000
"""Entries that are fetched at once at most, as other requests wait meanwhile."""

_log = logging.getLogger(__name__)


def errno_of_failure(request: str, args: tuple[Any, ...], error: BaseException) -> int:
    """The errno with which a front-end answers a request that raised `error`; logs errors that no program caused.

    Args:
        request: the name of the request.
        args: its arguments; the first is an inode or a handle.
        error: what the handler raised.
    """
    number = errno_of(error)
    if isinstance(error, FileSystemError):
        return number
    target = f"inode or handle {args[0]}" if args else "the mount"
    if not isinstance(error, Cas3fsError | OSError):
        _log.error("%s of %s failed unexpectedly", request, target, exc_info=error)
    elif number == errno.EIO:
        _log.error("%s of %s: %s", request, target, error)
    else:
        _log.warning("%s of %s: %s", request, target, error)
    return number


class Page(Protocol):
    """What a front-end collects entries of a directory in, until its reply is full."""

    @property
    def with_attributes(self) -> bool:
        """Whether it wants the inodes of the entries."""

    @property
    def room(self) -> int:
        """About how many more entries it takes; 0 where it is as good as full."""

    def add_all(self, entries: list[EntryWithInode], cookie_shift: int) -> int:
        """Adds entries, their cookies greater by `cookie_shift`; returns for how many of them there was space."""

    def add_all_bare(self, entries: list[Entry], cookie_shift: int) -> int:
        """The same for entries without their inodes."""


class _OpenDirectory:
    """How a handle reads its directory.

    A reader that starts, or goes on where it stopped, gets what its page holds. One that has jumped there may want no
    more than an entry; so it gets few, and then twice as many each time that it goes on.
    """

    __slots__ = ("_burst", "end", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._burst = 0
        self.end = 0
        """Where the last reply ended."""

    def burst(self, offset: int) -> int:
        """How many entries a reply from `offset` on has at most."""
        if offset == 0:
            self._burst = _UNBOUNDED
        elif offset == self.end:
            self._burst = min(2 * self._burst, _UNBOUNDED)
        else:
            self._burst = _AFTER_A_JUMP
        return self._burst


class RequestHandlers:
    """The handlers of one mount. Inodes and handles are numbers, names are bytes, a caller has uid, gid and umask.

    A handler raises whatever the file system raises; `errno_of_failure` turns that into the reply.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        *,
        limiter: BlockingLimiter,
        control: bytes = b"",
        capabilities: bool = True,
        sync: Callable[[], None] | None = None,
    ) -> None:
        """Make the handlers for `filesystem`.

        Args:
            filesystem: the mounted file system.
            limiter: bounds the requests that wait.
            control: the value of the root's attribute `CONTROL_XATTR`; empty if there is none.
            capabilities: whether some file may have a ``security.capability``.
            sync: what fsync and fsyncdir wait for; the file system's own commit if None.
        """
        self._fs = filesystem
        self._limiter = limiter
        self._control = control
        self._capabilities = capabilities
        self._access_lists = filesystem.access_lists
        self._sync = sync
        self._directories: dict[int, _OpenDirectory] = {}
        """By handle."""

    # Names

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """The inode of a name; None if the name is absent."""
        return self._fs.find(parent, name)

    def forget(self, counts: list[tuple[int, int]]) -> None:
        """The kernel drops references: inode and number of lookups."""
        self._fs.forget(counts)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Any) -> Inode:
        """Create a file, a FIFO, a socket or a device node."""
        return self._fs.mknod(parent, name, mode, rdev, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Any) -> Inode:
        """Create a directory."""
        return self._fs.mkdir(parent, name, mode, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Any) -> Inode:
        """Create a symbolic link."""
        return self._fs.symlink(parent, name, target, caller)

    def link(self, inode: int, new_parent: int, new_name: bytes) -> Inode:
        """Create a hard link."""
        return self._fs.link(inode, new_parent, new_name)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory."""
        self._fs.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self._fs.rmdir(parent, name)

    def rename(self, old: tuple[int, bytes], new: tuple[int, bytes], flags: int = 0, *, caller: Any) -> None:
        """Rename, from one name in a directory to another; `flags` as in renameat2(2)."""
        self._fs.rename(*old, *new, flags, caller=caller)

    def readlink(self, inode: int) -> bytes:
        """The target of a symbolic link."""
        return self._fs.readlink(inode)

    # Attributes

    def getattr(self, inode: int) -> Inode:
        """The attributes of an inode."""
        return self._fs.getattr(inode)

    def setattr(self, inode: int, caller: Any, **changes: Any) -> Inode:
        """Change those of mode, uid, gid, size, atime_ns and mtime_ns that are not None; see `Files.setattr`."""
        return self._fs.setattr(inode, caller, **changes)

    def flags(self, inode: int) -> int:
        """The flags of an inode, as ``FS_IOC_GETFLAGS`` gives them."""
        return self._fs.getattr(inode).flags

    def set_flags(self, inode: int, flags: int) -> None:
        """Set the flags; the kernel has checked who may."""
        self._fs.set_flags(inode, flags)

    def follow_access_lists(self) -> None:
        """The kernel enforces access lists from now on; before the first request."""
        self._access_lists.enabled = True

    def expect_capabilities(self) -> None:
        """Some file may have a ``security.capability`` from now on."""
        self._capabilities = True

    def getxattr(self, inode: int, name: bytes) -> bytes:
        """The value of an extended attribute."""
        if name == _CAPABILITY and not self._capabilities:
            raise FileSystemError(errno.ENODATA)
        if inode == ROOT and name == _CONTROL and self._control:
            return self._control
        self._check_access_lists(name)
        return self._fs.getxattr(inode, name)

    def setxattr(self, inode: int, name: bytes, value: bytes, flags: int, kills_set_gid: bool = False) -> None:
        """Set an extended attribute; `flags` as in setxattr(2)."""
        if name == _CAPABILITY:
            self._capabilities = True
        self._check_access_lists(name)
        self._fs.setxattr(inode, name, value, flags, kills_set_gid=kills_set_gid)

    def listxattr(self, inode: int) -> list[bytes]:
        """The names of the extended attributes, without those that are refused."""
        names = self._fs.listxattr(inode)
        return names if self._access_lists.enabled else [name for name in names if not name.startswith(_ACCESS_LISTS)]

    def removexattr(self, inode: int, name: bytes) -> None:
        """Remove an extended attribute."""
        self._check_access_lists(name)
        self._fs.removexattr(inode, name)

    def _check_access_lists(self, name: bytes) -> None:
        if not self._access_lists.enabled and name.startswith(_ACCESS_LISTS):
            raise FileSystemError(errno.EOPNOTSUPP)

    def statfs(self) -> VolumeStatistics:
        """Sizes of the file system."""
        return self._fs.statfs()

    # Files

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Any) -> tuple[Inode, int]:
        """Create a file and open it: inode and handle."""
        return self._fs.create(parent, name, mode, flags, caller)

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Any) -> tuple[Inode, int]:
        """Create a file without a name and open it: inode and handle."""
        return self._fs.tmpfile(parent, mode, flags, caller)

    def open(self, inode: int, flags: int, caller: Any, *, kills_set_ids: bool = False) -> int:
        """Open a file: its handle."""
        return self._fs.open(inode, flags, caller, kills_set_ids=kills_set_ids)

    def read_now(self, handle: int, offset: int, size: int) -> Buffer | None:
        """Read from a file what is at hand; shorter than `size` only at its end. None: call `read`."""
        return self._fs.read_now(handle, offset, size)

    def read(self, handle: int, offset: int, size: int) -> Buffer:
        """Read from a file; may wait."""
        return self._fs.read(handle, offset, size, self._limiter.reading)

    def write_now(self, handle: int, offset: int, data: Buffer, *, kills_set_ids: bool | None = None) -> int | None:
        """Write to a file: how many bytes were written. None: call `write`."""
        return self._fs.write_now(handle, offset, data, kills_set_ids=kills_set_ids)

    def write(self, handle: int, offset: int, data: Buffer, *, kills_set_ids: bool | None = None) -> int:
        """Write to a file; may wait. `kills_set_ids` as in `Files.write`."""
        if not self._limiter.acquire_for_write(_WRITER_WAIT_S):
            return self._fs.write(handle, offset, data, wait=False, kills_set_ids=kills_set_ids)
        try:
            return self._fs.write(handle, offset, data, kills_set_ids=kills_set_ids)
        finally:
            self._limiter.release_write()

    def write_when_possible(
        self,
        handle: int,
        offset: int,
        data: Buffer,
        since_s: float,
        *,
        kills_set_ids: bool | None = None,
        pause: WaitGuard = nullcontext,
    ) -> int:
        """Write to a file, however long it takes until staging has space.

        For a front-end whose waiting writers keep nothing else from being carried out. `since_s` is when the request
        came, by the monotonic clock. `pause` as in `Files.write`.
        """
        return self._fs.write(handle, offset, data, since_s=since_s, kills_set_ids=kills_set_ids, pause=pause)

    def size_of(self, handle: int) -> int:
        """The size of an open file in bytes, as far as it was handed over."""
        inode = self._fs.files.inode_of(handle)
        return 0 if inode is None else inode.size

    def seek_now(self, handle: int, offset: int, whence: int) -> int | None:
        """Where data or a hole begin from `offset` on, as lseek(2). None: call `seek`."""
        return self._fs.seek_now(handle, offset, whence)

    def seek(self, handle: int, offset: int, whence: int, write_back: Callable[[int, int, int], bool]) -> int:
        """Where data or a hole begin from `offset` on, as lseek(2); may wait.

        `write_back` has the kernel write what it has of an inode, from and to, or returns False.
        """
        return self._fs.seek(handle, offset, whence, write_back)

    def allocate(self, handle: int, offset: int, length: int, mode: int) -> None:
        """Set the size, make a hole, or zeros; `mode` as in fallocate(2)."""
        self._fs.allocate(handle, offset, length, mode)

    def copy_range_now(
        self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, *, flags: int
    ) -> int | None:
        """Copy a range of a file to another: how many bytes were copied. None: call `copy_range`."""
        return self._fs.copy_range_now(handle, offset, to_handle, to_offset, length, flags=flags)

    def copy_range(
        self,
        handle: int,
        offset: int,
        to_handle: int,
        to_offset: int,
        length: int,
        *,
        flags: int,
        pause: WaitGuard = nullcontext,
    ) -> int:
        """Copy a range of a file to another; may wait. `pause` as in `Copies.copy`."""
        return self._fs.copy_range(
            handle, offset, to_handle, to_offset, length, flags=flags, wait_guard=self._limiter.reading, pause=pause
        )

    def flush(self) -> None:
        """A file descriptor is closed: nothing has to wait for that."""
        raise FileSystemError(errno.ENOSYS)

    def release(self, handle: int) -> None:
        """The last file descriptor of a handle is closed."""
        self._fs.release(handle)

    def fsync(self, handle: int, datasync: bool) -> None:
        """Make a file durable; waits."""
        if self._sync is None:
            self._fs.fsync(handle, datasync)
            return
        with self._limiter.syncing():
            self._sync()
        self._fs.check_losses(handle)
        self._fs.check_stored(handle)

    # Directories

    def opendir(self, inode: int) -> int:
        """Open a directory: its handle."""
        handle = self._fs.opendir(inode)
        self._directories[handle] = _OpenDirectory(inode)
        return handle

    def readdir(self, handle: int, offset: int) -> Iterator[tuple[bytes, int, int, int]]:
        """The entries from `offset` on: name, inode, mode, and the offset of the next entry.

        Who asks for another entry has taken the one before.
        """
        opened = self._directories[handle]
        left = opened.burst(offset)
        for cookie, name, inode, mode in self._dots(opened.number, offset):
            yield name, inode, mode, cookie
        position = max(0, offset - _DOTS)
        while entries := self._fs.list_names(handle, position, min(left, _BATCH)):
            for position, name, inode, mode in entries:
                yield name, inode, mode, position + _DOTS
                opened.end = position + _DOTS
            left -= len(entries)

    def fill_page(self, handle: int, offset: int, page: Page) -> None:
        """Put the entries from `offset` on into `page`, with their inodes where it wants them."""
        opened = self._directories[handle]
        left = opened.burst(offset)
        dots = self._dots(opened.number, offset)
        if page.add_all_bare(dots, 0) < len(dots):
            return
        first = position = max(0, offset - _DOTS)
        while limit := min(page.room, left, _LARGEST_BATCH):
            try:
                taken = self._take(handle, position, limit, page)
            except Exception:
                if position == first:
                    raise
                break  # the kernel has to get the inodes that were counted; its next request meets the error
            if taken:
                position = taken[-1][0]
            if len(taken) < limit:
                break
            left -= limit
        opened.end = position + _DOTS

    def _take(self, handle: int, position: int, limit: int, page: Page) -> Sequence[Entry] | Sequence[EntryWithInode]:
        """Puts up to `limit` entries into `page`; returns those that it took."""
        if page.with_attributes:
            return self._fs.list_into(handle, position, limit, lambda entries: page.add_all(entries, _DOTS))
        entries = self._fs.list_names(handle, position, limit)
        return entries[: page.add_all_bare(entries, _DOTS)]

    def _dots(self, number: int, offset: int) -> list[Entry]:
        """The two names that every directory has, as far as they are behind `offset`."""
        if offset >= _DOTS:
            return []
        above = (_DOTS, b"..", self._parent_of(number), stat.S_IFDIR)
        return [above] if offset else [(1, b".", number, stat.S_IFDIR), above]

    def _parent_of(self, number: int) -> int:
        try:
            parent = self._fs.lookup(number, b"..").number
        except FileSystemError:
            return number  # it was removed while it was open
        self._fs.forget([(parent, 1)])
        return parent

    def fsyncdir(self, handle: int) -> None:
        """Make a directory durable; waits."""
        if self._sync is None:
            self._fs.fsyncdir(handle)
            return
        with self._limiter.syncing():
            self._sync()

    def releasedir(self, handle: int) -> None:
        """An open directory is closed."""
        self._directories.pop(handle, None)
        self._fs.releasedir(handle)
