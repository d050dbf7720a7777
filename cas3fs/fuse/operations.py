# SPDX-License-Identifier: GPL-3.0-or-later
"""The handlers of FUSE requests: each calls the file system once and turns its error into an errno.

Rules of the binding that shape this module:

- an exception other than FUSEError ends the mount, so `_handler` stands around every handler and lets none pass;
forget,
  init and destroy may not raise even that one;
- a handler runs under llfuse's global lock. Lock order: llfuse's, then the file system's. Whatever may wait for the
disk, the
  store or room in staging runs under ``lock_released``, where no lock of the file system is held;
- a name that is absent is answered by an entry with inode number 0, which the kernel remembers as absent: this mount
is the only
  writer, so the kernel sees every change itself, and names and attributes stay valid for long;
- every write is preceded by a request for ``security.capability``: it is answered from a flag, until such an
attribute exists;
- close() has nothing to wait for, since what was written is in staging: FLUSH is answered by ENOSYS, upon which the
kernel leaves
  it out.

Workers: who waits for room in staging or for the store, to read or to sync, needs a slot (module `limiter`), and there
are fewer than workers. A writer that finds none waits a moment, and then goes over staging's limit with its one
request: that limit is there to be near, and a worker to be free. The kernel's own reads ahead are bounded by the mount
option ``max_background`` as well (module `session`).
"""

import errno
import functools
import logging
import stat
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import llfuse
from llfuse import EntryAttributes, FUSEError

from cas3fs.errors import Cas3fsError, FileSystemError, errno_of
from cas3fs.filesystem import FileSystem
from cas3fs.filesystem.inodes import Inode
from cas3fs.fuse.limiter import BlockingLimiter
from cas3fs.fuse.mountpoints import CONTROL_XATTR
from cas3fs.values import Buffer

ROOT = llfuse.ROOT_INODE
DEFAULT_TIMEOUT_S = 3600.0
_DIRECTORY_TIMEOUT_S, _FILE_TIMEOUT_S = 1.0, 60.0
"""How long the kernel may believe attributes at most. It may keep an answer that a change has overtaken on its way: it
numbers what it learns by write and setattr, but at mkdir, unlink, rename or setxattr it only forgets (Linux, commit
1fb69e7817, "fuse: fix race between getattr and write"). So the times of a directory that is changed and looked at by
several programs at once may be old for as long, and so may the ctime of a file."""
_CAPABILITY = b"security.capability"
_CONTROL = CONTROL_XATTR.encode()
_ACCESS_LISTS = b"system.posix_acl_"
_BLOCK_SIZE = 128 * 1024
"""What programs are told to read and write at once: the largest request."""
_WRITER_WAIT_S = 0.25
"""How long a writer waits for a slot."""
_DOTS = 2
"""Readdir's offsets 0 and 1 stand for ``.`` and ``..``; those of the file system come behind."""

_log = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _handler(function: _Function) -> _Function:
    """`function`, out of which nothing but FUSEError comes."""
    name = function.__name__

    @functools.wraps(function)
    def guarded(self: "Operations", *args: Any) -> Any:
        try:
            return function(self, *args)
        except FileSystemError as error:
            raise FUSEError(error.errno) from None
        except FUSEError:
            raise
        except BaseException as error:  # noqa: BLE001 - anything else would end the mount
            raise FUSEError(_report(name, args, error)) from None

    return guarded  # type: ignore[return-value]


def _silent(function: _Function) -> _Function:
    """`function`, out of which nothing comes at all."""

    @functools.wraps(function)
    def guarded(self: "Operations", *args: Any) -> Any:
        try:
            return function(self, *args)
        except BaseException as error:  # noqa: BLE001 - anything would end the mount
            _report(function.__name__, args, error)

    return guarded  # type: ignore[return-value]


def _report(operation: str, args: tuple[Any, ...], error: BaseException) -> int:
    """Logs what no program caused; gives the errno."""
    number = errno_of(error)
    about = f"inode or handle {args[0]}" if args else "the mount"
    if not isinstance(error, Cas3fsError | OSError):
        _log.error("%s of %s failed in a way that was not foreseen", operation, about, exc_info=error)
    elif number == errno.EIO:
        _log.error("%s of %s: %s", operation, about, error)
    else:
        _log.warning("%s of %s: %s", operation, about, error)
    return number


class Operations(llfuse.Operations):  # type: ignore[misc]
    """See the module. Inodes and handles are numbers, names are bytes; `ctx` tells who asks."""

    def __init__(
        self,
        filesystem: FileSystem,
        *,
        limiter: BlockingLimiter,
        control: bytes = b"",
        capabilities: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        uid: int | None = None,
        gid: int | None = None,
        sync: Callable[[], None] | None = None,
    ) -> None:
        """Handlers for `filesystem`.

        `limiter` bounds those who wait; `control` is the answer to the attribute of that name;
        `capabilities` says whether some file may have one; `uid` and `gid` replace every owner that is shown;
        `sync` is what fsync and fsyncdir wait for, where the file system's own does not do.
        """
        super().__init__()
        self._fs = filesystem
        self._limiter = limiter
        self._sync = sync
        self._control = control
        self._capabilities = capabilities
        self._timeout_s = timeout_s
        self._directory_timeout_s = min(timeout_s, _DIRECTORY_TIMEOUT_S)
        self._file_timeout_s = min(timeout_s, _FILE_TIMEOUT_S)
        self._owner = None if uid is None and gid is None else (uid, gid)
        self._directories: dict[int, int] = {}  # handle to inode, for readdir's own two names
        self._absent = EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = timeout_s

    def _entry(self, inode: Inode) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = inode.number
        entry.st_mode = inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        entry.st_size = size = inode.size
        entry.st_blocks = (size + 511) >> 9
        entry.st_blksize = _BLOCK_SIZE
        entry.st_atime_ns = inode.atime_ns
        entry.st_mtime_ns = inode.mtime_ns
        entry.st_ctime_ns = inode.ctime_ns
        entry.entry_timeout = self._timeout_s
        entry.attr_timeout = self._directory_timeout_s if inode.is_directory else self._file_timeout_s
        if self._owner is not None:
            self._show_owner(entry)
        return entry

    def _show_owner(self, entry: EntryAttributes) -> None:
        uid, gid = self._owner or (None, None)
        if uid is not None:
            entry.st_uid = uid
        if gid is not None:
            entry.st_gid = gid

    # -- names

    @_handler
    def lookup(self, parent: int, name: bytes, ctx: Any) -> EntryAttributes:
        try:
            return self._entry(self._fs.lookup(parent, name))
        except FileSystemError as error:
            if error.errno != errno.ENOENT:
                raise
            return self._absent

    @_silent
    def forget(self, counts: list[tuple[int, int]]) -> None:
        self._fs.forget(counts)

    @_handler
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> EntryAttributes:
        return self._entry(self._fs.mknod(parent, name, mode, rdev, ctx))

    @_handler
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> EntryAttributes:
        return self._entry(self._fs.mkdir(parent, name, mode, ctx))

    @_handler
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> EntryAttributes:
        return self._entry(self._fs.symlink(parent, name, target, ctx))

    @_handler
    def link(self, inode: int, new_parent: int, new_name: bytes, ctx: Any) -> EntryAttributes:
        return self._entry(self._fs.link(inode, new_parent, new_name))

    @_handler
    def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        self._fs.unlink(parent, name)

    @_handler
    def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        self._fs.rmdir(parent, name)

    @_handler
    def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, ctx: Any) -> None:
        self._fs.rename(old_parent, old_name, new_parent, new_name)

    @_handler
    def readlink(self, inode: int, ctx: Any) -> bytes:
        return self._fs.readlink(inode)

    # -- attributes

    @_handler
    def getattr(self, inode: int, ctx: Any) -> EntryAttributes:
        return self._entry(self._fs.getattr(inode))

    @_handler
    def setattr(self, inode: int, attr: EntryAttributes, fields: Any, handle: int | None, ctx: Any) -> EntryAttributes:
        changed = self._fs.setattr(
            inode,
            ctx,
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(changed)

    @_handler
    def getxattr(self, inode: int, name: bytes, ctx: Any = None) -> bytes:
        if name == _CAPABILITY and not self._capabilities:
            raise FUSEError(errno.ENODATA)
        if inode == ROOT and name == _CONTROL and self._control:
            return self._control
        _refuse_access_lists(name)
        return self._fs.getxattr(inode, name)

    @_handler
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        if name == _CAPABILITY:
            self._capabilities = True
        _refuse_access_lists(name)
        # whether it may or must exist was checked by llfuse, through getxattr, under the same lock
        self._fs.setxattr(inode, name, value, 0)

    @_handler
    def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return self._fs.listxattr(inode)

    @_handler
    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        self._fs.removexattr(inode, name)

    @_handler
    def statfs(self, ctx: Any) -> llfuse.StatvfsData:
        told, data = self._fs.statfs(), llfuse.StatvfsData()
        data.f_bsize = data.f_frsize = told.block_size
        data.f_blocks = told.blocks
        data.f_bfree = data.f_bavail = told.blocks_free
        data.f_files = told.files
        data.f_ffree = data.f_favail = told.files_free
        data.f_namemax = told.name_max
        return data

    # -- files

    @_handler
    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> tuple[int, EntryAttributes]:
        inode, handle = self._fs.create(parent, name, mode, flags, ctx)
        return handle, self._entry(inode)

    @_handler
    def open(self, inode: int, flags: int, ctx: Any) -> int:
        return self._fs.open(inode, flags, ctx)

    @_handler
    def read(self, handle: int, offset: int, size: int) -> Buffer:
        data = self._fs.read_now(handle, offset, size)
        if data is not None:
            return data
        with llfuse.lock_released:
            return self._fs.read(handle, offset, size, self._limiter.reading)

    @_handler
    def write(self, handle: int, offset: int, data: bytes) -> int:
        written = self._fs.write_now(handle, offset, data)
        if written is not None:
            return written
        with llfuse.lock_released:
            if not self._limiter.acquire_for_write(_WRITER_WAIT_S):
                return self._fs.write(handle, offset, data, wait=False)
            try:
                return self._fs.write(handle, offset, data)
            finally:
                self._limiter.release_write()

    @_handler
    def flush(self, handle: int) -> None:
        raise FUSEError(errno.ENOSYS)

    @_handler
    def release(self, handle: int) -> None:
        self._fs.release(handle)

    @_handler
    def fsync(self, handle: int, datasync: bool) -> None:
        with llfuse.lock_released:
            if self._sync is None:
                self._fs.fsync(handle, datasync)
            else:
                with self._limiter.syncing():
                    self._sync()
                self._fs.check_losses(handle)
                self._fs.check_stored(handle)

    # -- folders

    @_handler
    def opendir(self, inode: int, ctx: Any) -> int:
        handle = self._fs.opendir(inode)
        self._directories[handle] = inode
        return handle

    def readdir(self, handle: int, offset: int) -> Iterator[tuple[bytes, EntryAttributes, int]]:
        """Entries from `offset` on, each with the offset of the next; a generator, so it guards itself."""
        try:
            yield from self._dots(handle, offset)
            for name, inode, following in self._fs.readdir(handle, max(0, offset - _DOTS)):
                yield name, _direntry(inode.number, inode.mode), following + _DOTS
        except FileSystemError as error:
            raise FUSEError(error.errno) from None
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - anything else would end the mount
            raise FUSEError(_report("readdir", (handle,), error)) from None

    def _dots(self, handle: int, offset: int) -> Iterator[tuple[bytes, EntryAttributes, int]]:
        number = self._directories.get(handle, ROOT)
        if offset == 0:
            yield b".", _direntry(number, stat.S_IFDIR), 1
        if offset <= 1:
            yield b"..", _direntry(self._parent_of(number), stat.S_IFDIR), _DOTS

    def _parent_of(self, number: int) -> int:
        try:
            parent = self._fs.lookup(number, b"..").number
        except FileSystemError:
            return number  # it was removed while it was open
        self._fs.forget([(parent, 1)])
        return parent

    @_handler
    def fsyncdir(self, handle: int, datasync: bool) -> None:
        with llfuse.lock_released:
            if self._sync is None:
                self._fs.fsyncdir(handle)
            else:
                with self._limiter.syncing():
                    self._sync()

    @_handler
    def releasedir(self, handle: int) -> None:
        self._directories.pop(handle, None)
        self._fs.releasedir(handle)


def _refuse_access_lists(name: bytes) -> None:
    """Nobody would enforce them; refused, programs that copy them fall back to the mode."""
    if name.startswith(_ACCESS_LISTS):
        raise FUSEError(errno.EOPNOTSUPP)


def _direntry(number: int, mode: int) -> EntryAttributes:
    """All of an inode that the kernel takes from a listing."""
    entry = EntryAttributes()
    entry.st_ino = number
    entry.st_mode = mode
    return entry
