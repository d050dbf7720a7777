# SPDX-License-Identifier: GPL-3.0-or-later
"""The handlers as a session of the kernel's protocol calls them.

The reader of the session runs every handler that does not wait. Reads and writes that would wait, and everything that
waits for a disk, go to its pools: one for reads, one for writes, one for syncs and one for the rest. So writers that
wait for space in staging keep no reader from the store, and neither keeps a sync from the disk. A read and a sync
change nothing, so a program that is killed is answered at once, while its request is carried to its end. A write and a
copy end where they wait, for space or for the store.

Where the kernel's page cache collects writes (module `page_cache`), the file system learns of them late, and neither in
order nor with the size that the file has for programs. What follows from that is decided here.
"""

import errno
import time
from contextlib import suppress

from cas3fs.errors import FileSystemError
from cas3fs.filesystem import Inode
from cas3fs.fuse.handlers import RequestHandlers
from cas3fs.fuse.kernel.dispatch import Caller, Changes, Deferred, Handlers, Unsupported
from cas3fs.fuse.kernel.notify import Notifier
from cas3fs.fuse.kernel.pauses import Pauses
from cas3fs.fuse.kernel.protocol import OpenFlag
from cas3fs.fuse.kernel.replies import Buffer, DirectoryPage, ExtendedAttributes, FileSystemStatistics, Opened
from cas3fs.fuse.kernel_frontend.flag_ioctls import ioctl_of_flags
from cas3fs.fuse.kernel_frontend.listings import KernelListings
from cas3fs.fuse.kernel_frontend.page_cache import PageCache

_KEEP_CACHE = OpenFlag.KEEP_CACHE


class KernelHandlers(Handlers):
    """`RequestHandlers` as the session calls them."""

    def __init__(
        self, handlers: RequestHandlers, page_cache: PageCache | None = None, listing_timeout_s: float = 0.0
    ) -> None:
        """Make the methods of `handlers`.

        Args:
            handlers: what carries requests out.
            page_cache: the kernel's, where that collects writes.
            listing_timeout_s: how long the kernel may keep listings.
        """
        self._listings = KernelListings(listing_timeout_s)
        self._handlers = handlers
        self._page_cache = page_cache
        self.lookup = handlers.lookup  # type: ignore[method-assign]
        self.forget = handlers.forget  # type: ignore[method-assign, assignment]
        self.readlink = handlers.readlink  # type: ignore[method-assign]
        self.symlink = handlers.symlink  # type: ignore[method-assign]
        self.mknod = handlers.mknod  # type: ignore[method-assign]
        self.mkdir = handlers.mkdir  # type: ignore[method-assign]
        self.unlink = handlers.unlink  # type: ignore[method-assign]
        self.rmdir = handlers.rmdir  # type: ignore[method-assign]
        self.link = handlers.link  # type: ignore[method-assign]
        self.release = handlers.release  # type: ignore[method-assign]
        self.getxattr = handlers.getxattr  # type: ignore[method-assign]
        self.removexattr = handlers.removexattr  # type: ignore[method-assign]
        self.notifier: Notifier | None = None
        """Of the session; set before it serves."""
        self._read_now = handlers.read_now
        self._write_now = handlers.write_now

    # Attributes

    def getattr(self, inode: int, handle: int | None) -> Inode:
        return self._handlers.getattr(inode)

    def statx(self, inode: int, handle: int | None) -> tuple[Inode, ExtendedAttributes]:
        found = self._handlers.getattr(inode)
        return found, ExtendedAttributes(found.crtime_ns)

    def setattr(self, inode: int, changes: Changes, caller: Caller) -> Inode:
        now_ns = time.time_ns() if changes.atime_now or changes.mtime_now else 0
        return self._handlers.setattr(
            inode,
            caller,
            mode=changes.mode,
            uid=changes.uid,
            gid=changes.gid,
            size=changes.size,
            atime_ns=now_ns if changes.atime_now else changes.atime_ns,
            mtime_ns=now_ns if changes.mtime_now else changes.mtime_ns,
            ctime_ns=changes.ctime_ns,
            is_touch=(changes.atime_now and changes.mtime_now) or changes.ctime_ns is not None,
            kills_set_ids=changes.kills_set_ids,
        )

    def setxattr(self, inode: int, name: bytes, value: bytes, flags: int, kills_set_gid: bool) -> None:
        self._handlers.setxattr(inode, name, value, flags, kills_set_gid)

    def listxattr(self, inode: int) -> bytes:
        return b"".join(name + b"\0" for name in self._handlers.listxattr(inode))

    def statfs(self) -> FileSystemStatistics:
        found = self._handlers.statfs()
        return FileSystemStatistics(
            found.blocks,
            found.blocks_free,
            found.blocks_free,
            found.files,
            found.files_free,
            found.block_size,
            found.name_max,
        )

    def ioctl(
        self, inode: int, handle: int, command: int, data: bytes, out_size: int, *, argument: int, caller: Caller
    ) -> bytes:
        if argument:  # an address in the program: a kernel that checks nothing passes on whatever comes
            raise Unsupported
        return ioctl_of_flags(self._handlers, inode, command, data)

    def forget_attributes(self, inode: int) -> None:
        """Has the kernel ask for the attributes of an inode anew: a write or an open has cleared set-id bits, which the
        kernel leaves to us, and it would still run the file with them."""
        with suppress(OSError):  # the mount has ended
            if self.notifier is not None:
                self.notifier.invalidate_inode(inode, -1)

    # Names

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, caller: Caller) -> None:
        self._handlers.rename((parent, name), (new_parent, new_name), flags, caller=caller)

    # Files

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Inode, Opened]:
        inode, handle = self._handlers.create(parent, name, mode, flags, caller)
        return inode, Opened(handle, _KEEP_CACHE)

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[Inode, Opened]:
        inode, handle = self._handlers.tmpfile(parent, mode, flags, caller)
        return inode, Opened(handle, _KEEP_CACHE)

    def open(self, inode: int, flags: int, caller: Caller, *, kills_set_ids: bool) -> Opened:
        return Opened(self._handlers.open(inode, flags, caller, kills_set_ids=kills_set_ids), _KEEP_CACHE)

    def read(self, handle: int, offset: int, size: int) -> Buffer | Deferred:
        content = self._read_now(handle, offset, size)
        if content is not None:
            return content
        return Deferred(lambda: self._handlers.read(handle, offset, size), abandonable=True, kind="read")

    def write(self, handle: int, offset: int, data: memoryview, kills_set_ids: bool) -> int | Deferred:
        written = self._write_now(handle, offset, data, kills_set_ids=kills_set_ids)
        if written is not None:
            return written
        kept, since_s, pauses = bytes(data), time.monotonic(), Pauses()
        return Deferred(
            lambda: self._handlers.write_when_possible(
                handle, offset, kept, since_s, kills_set_ids=kills_set_ids, pause=pauses
            ),
            kind="write",
            pauses=pauses,
        )

    def lseek(self, handle: int, offset: int, whence: int) -> int | Deferred:
        if self._page_cache is not None:
            raise Unsupported  # the kernel does not write dirty pages before it asks, and they are no hole
        place = self._handlers.seek_now(handle, offset, whence)
        if place is not None:
            return place
        return Deferred(
            lambda: self._handlers.seek(handle, offset, whence, self._write_back), abandonable=True, kind="seek"
        )

    def _write_back(self, inode: int, start: int, end: int) -> bool:
        """Has the kernel write what programs have changed in a range through mappings: it does not do so by itself
        before it asks for data and holes. It waits for requests, which other threads than those that seek carry out.

        Returns:
            False where it was not done.
        """
        if self.notifier is None:
            return False
        try:
            self.notifier.invalidate_inode(inode, start, end - start)
        except OSError:
            return False
        return True

    def fallocate(self, handle: int, offset: int, length: int, mode: int) -> None:
        self._handlers.allocate(handle, offset, length, mode)

    def copy_file_range(
        self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, *, flags: int
    ) -> int | Deferred:
        if self._page_cache is not None and offset + length > self._handlers.size_of(handle):
            raise FileSystemError(errno.EOPNOTSUPP)  # dirty pages further on make it longer; the kernel copies itself
        wanted = (handle, offset, to_handle, to_offset, length)
        copied = self._handlers.copy_range_now(*wanted, flags=flags)
        if copied is not None:
            return copied
        pauses = Pauses()
        return Deferred(
            lambda: self._handlers.copy_range(*wanted, flags=flags, pause=pauses), kind="copy", pauses=pauses
        )

    def flush(self, handle: int) -> None:
        if self._page_cache is None:
            self._handlers.flush()  # of ENOSYS, older kernels conclude that they need not write at close either

    def fsync(self, handle: int, data_only: bool) -> Deferred:
        return Deferred(lambda: self._handlers.fsync(handle, data_only), abandonable=True, kind="sync")

    # Directories

    def opendir(self, inode: int, flags: int, caller: Caller) -> Opened:
        handle = self._handlers.opendir(inode)
        if self._page_cache is not None:
            self._page_cache.opened(handle, caller.pid)
        return Opened(handle, self._listings.opened(inode, handle))

    def releasedir(self, handle: int) -> None:
        self._listings.released(handle)
        self._handlers.releasedir(handle)
        if self._page_cache is not None:
            self._page_cache.released(handle)

    def readdir(self, handle: int, cookie: int, page: DirectoryPage) -> None:
        self._handlers.fill_page(handle, cookie, page)

    def fsyncdir(self, handle: int, data_only: bool) -> Deferred:
        return Deferred(lambda: self._handlers.fsyncdir(handle), abandonable=True, kind="sync")
