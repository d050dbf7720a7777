# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls of llfuse: arguments become those of `RequestHandlers`, results become llfuse's entries.

Rules of the binding:

- an exception other than FUSEError ends the mount, so `_handler` is around every method and lets none pass; forget,
  init and destroy may not even raise that one;
- a method runs under llfuse's global lock, and releases it around a handler that may wait.
"""

import functools
import stat
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import llfuse
from llfuse import EntryAttributes, FUSEError

from cas3fs.filesystem.state.inodes import Inode
from cas3fs.fuse.attribute_view import BLOCK_SIZE, AttributeView
from cas3fs.fuse.handlers import RequestHandlers, errno_of_failure
from cas3fs.values import Buffer

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _handler(function: _Function) -> _Function:
    """Wrap `function` so that it raises nothing but FUSEError."""
    name = function.__name__

    @functools.wraps(function)
    def guarded(self: "LlfuseOperations", *args: Any) -> Any:
        try:
            return function(self, *args)
        except BaseException as error:  # noqa: BLE001 - anything but FUSEError would end the mount
            raise FUSEError(errno_of_failure(name, args, error)) from None

    return guarded  # type: ignore[return-value]


def _silent(function: _Function) -> _Function:
    """Wrap `function` so that it raises nothing at all."""

    @functools.wraps(function)
    def guarded(self: "LlfuseOperations", *args: Any) -> Any:
        try:
            return function(self, *args)
        except BaseException as error:  # noqa: BLE001 - anything would end the mount
            errno_of_failure(function.__name__, args, error)

    return guarded  # type: ignore[return-value]


class LlfuseOperations(llfuse.Operations):  # type: ignore[misc]
    """llfuse's operations, which the handlers carry out; `ctx` is the caller."""

    def __init__(self, handlers: RequestHandlers, view: AttributeView) -> None:
        super().__init__()
        self._handlers = handlers
        self._view = view
        self._entry_timeout_s = view.entry_timeout_s
        self._absent = EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = view.entry_timeout_s

    def _entry(self, inode: Inode) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = inode.number
        entry.generation = inode.generation
        entry.st_mode = inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid, entry.st_gid = self._view.owner(inode)
        entry.st_rdev = inode.rdev
        entry.st_size = inode.size
        entry.st_blocks = inode.blocks
        entry.st_blksize = BLOCK_SIZE
        entry.st_atime_ns = inode.atime_ns
        entry.st_mtime_ns = inode.mtime_ns
        entry.st_ctime_ns = inode.ctime_ns
        entry.entry_timeout = self._entry_timeout_s
        entry.attr_timeout = self._view.attr_timeout_s(inode)
        return entry

    # Names

    @_handler
    def lookup(self, parent: int, name: bytes, ctx: Any) -> EntryAttributes:
        inode = self._handlers.lookup(parent, name)
        return self._absent if inode is None else self._entry(inode)

    @_silent
    def forget(self, counts: list[tuple[int, int]]) -> None:
        self._handlers.forget(counts)

    @_handler
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> EntryAttributes:
        return self._entry(self._handlers.mknod(parent, name, mode, rdev, ctx))

    @_handler
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> EntryAttributes:
        return self._entry(self._handlers.mkdir(parent, name, mode, ctx))

    @_handler
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> EntryAttributes:
        return self._entry(self._handlers.symlink(parent, name, target, ctx))

    @_handler
    def link(self, inode: int, new_parent: int, new_name: bytes, ctx: Any) -> EntryAttributes:
        return self._entry(self._handlers.link(inode, new_parent, new_name))

    @_handler
    def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        self._handlers.unlink(parent, name)

    @_handler
    def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        self._handlers.rmdir(parent, name)

    @_handler
    def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, ctx: Any) -> None:
        self._handlers.rename((old_parent, old_name), (new_parent, new_name), caller=ctx)

    @_handler
    def readlink(self, inode: int, ctx: Any) -> bytes:
        return self._handlers.readlink(inode)

    # Attributes

    @_handler
    def getattr(self, inode: int, ctx: Any) -> EntryAttributes:
        return self._entry(self._handlers.getattr(inode))

    @_handler
    def setattr(self, inode: int, attr: EntryAttributes, fields: Any, handle: int | None, ctx: Any) -> EntryAttributes:
        changed = self._handlers.setattr(
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
        return self._handlers.getxattr(inode, name)

    @_handler
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        # llfuse has checked by getxattr, under the same lock, whether the attribute may or must exist
        self._handlers.setxattr(inode, name, value, 0)

    @_handler
    def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return self._handlers.listxattr(inode)

    @_handler
    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        self._handlers.removexattr(inode, name)

    @_handler
    def statfs(self, ctx: Any) -> llfuse.StatvfsData:
        statistics, data = self._handlers.statfs(), llfuse.StatvfsData()
        data.f_bsize = data.f_frsize = statistics.block_size
        data.f_blocks = statistics.blocks
        data.f_bfree = data.f_bavail = statistics.blocks_free
        data.f_files = statistics.files
        data.f_ffree = data.f_favail = statistics.files_free
        data.f_namemax = statistics.name_max
        return data

    # Files

    @_handler
    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> tuple[int, EntryAttributes]:
        inode, handle = self._handlers.create(parent, name, mode, flags, ctx)
        return handle, self._entry(inode)

    @_handler
    def open(self, inode: int, flags: int, ctx: Any) -> int:
        return self._handlers.open(inode, flags, ctx)

    @_handler
    def read(self, handle: int, offset: int, size: int) -> Buffer:
        content = self._handlers.read_now(handle, offset, size)
        if content is not None:
            return content
        with llfuse.lock_released:
            return self._handlers.read(handle, offset, size)

    @_handler
    def write(self, handle: int, offset: int, data: bytes) -> int:
        written = self._handlers.write_now(handle, offset, data)
        if written is not None:
            return written
        with llfuse.lock_released:
            return self._handlers.write(handle, offset, data)

    @_handler
    def flush(self, handle: int) -> None:
        self._handlers.flush()

    @_handler
    def release(self, handle: int) -> None:
        self._handlers.release(handle)

    @_handler
    def fsync(self, handle: int, datasync: bool) -> None:
        with llfuse.lock_released:
            self._handlers.fsync(handle, datasync)

    # Directories

    @_handler
    def opendir(self, inode: int, ctx: Any) -> int:
        return self._handlers.opendir(inode)

    def readdir(self, handle: int, offset: int) -> Iterator[tuple[bytes, EntryAttributes, int]]:
        """Entries from `offset` on, each with the offset of the next; a generator, so it guards itself."""
        try:
            for name, number, mode, following in self._handlers.readdir(handle, offset):
                entry = EntryAttributes()  # the kernel takes these two from a listing, and nothing else
                entry.st_ino = number
                entry.st_mode = mode
                yield name, entry, following
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - anything but FUSEError would end the mount
            raise FUSEError(errno_of_failure("readdir", (handle,), error)) from None

    @_handler
    def fsyncdir(self, handle: int, datasync: bool) -> None:
        with llfuse.lock_released:
            self._handlers.fsyncdir(handle)

    @_handler
    def releasedir(self, handle: int) -> None:
        self._handlers.releasedir(handle)
