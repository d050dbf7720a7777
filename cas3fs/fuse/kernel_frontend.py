# SPDX-License-Identifier: GPL-3.0-or-later
"""The front-end on the kernel's own protocol (`cas3fs.fuse.kernel`): handlers for it, and one mount.

The reader of the session runs every handler that does not wait. Reads and writes that would wait, and everything that
waits for a disk, go to its pool; `workers` is how many threads that has. A read and a sync change nothing, so a program
that is killed is answered at once, while its request is carried to its end.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from cas3fs.errors import FileSystemError, MountError
from cas3fs.filesystem import FileSystem, Inode
from cas3fs.fuse.attribute_view import DEFAULT_TIMEOUT_S, AttributeView
from cas3fs.fuse.handlers import RequestHandlers, errno_of_failure
from cas3fs.fuse.kernel.channel import FLAG_NAMES, Channel, ChannelError
from cas3fs.fuse.kernel.channel import MountOptions as ChannelOptions
from cas3fs.fuse.kernel.dispatch import Caller, Changes, Deferred, Handlers
from cas3fs.fuse.kernel.protocol import OpenFlag
from cas3fs.fuse.kernel.replies import (
    Buffer,
    DirectoryPage,
    ExtendedAttributes,
    FileSystemStatistics,
    Opened,
    ReplyFormat,
)
from cas3fs.fuse.kernel.session import Session, SessionSettings, name_of
from cas3fs.fuse.limiter import BlockingLimiter
from cas3fs.fuse.mountpoints import SUBTYPE, source_of
from cas3fs.fuse.options import MountOptions
from cas3fs.fuse.signals import StopSignals

_FREE_THREADS = 2
_REQUEST_BYTES = 256 * 1024
"""The largest read and write: measured, larger ones are slower."""
_KEEP_CACHE = OpenFlag.KEEP_CACHE


class KernelHandlers(Handlers):
    """`RequestHandlers` as the session calls them."""

    def __init__(self, handlers: RequestHandlers) -> None:
        self._handlers = handlers
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
        self.releasedir = handlers.releasedir  # type: ignore[method-assign]
        self.getxattr = handlers.getxattr  # type: ignore[method-assign]
        self.removexattr = handlers.removexattr  # type: ignore[method-assign]
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
        )

    def setxattr(self, inode: int, name: bytes, value: bytes, flags: int, kills_set_gid: bool) -> None:
        self._handlers.setxattr(inode, name, value, flags)

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

    # Names

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, caller: Caller) -> None:
        if flags:
            raise FileSystemError(errno.EINVAL)
        self._handlers.rename(parent, name, new_parent, new_name)

    # Files

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Inode, Opened]:
        inode, handle = self._handlers.create(parent, name, mode, flags, caller)
        return inode, Opened(handle, _KEEP_CACHE)

    def open(self, inode: int, flags: int, caller: Caller, *, kills_set_ids: bool) -> Opened:
        return Opened(self._handlers.open(inode, flags, caller), _KEEP_CACHE)

    def read(self, handle: int, offset: int, size: int) -> Buffer | Deferred:
        content = self._read_now(handle, offset, size)
        if content is not None:
            return content
        return Deferred(lambda: self._handlers.read(handle, offset, size), abandonable=True)

    def write(self, handle: int, offset: int, data: memoryview, kills_set_ids: bool) -> int | Deferred:
        written = self._write_now(handle, offset, data)
        if written is not None:
            return written
        kept = bytes(data)
        return Deferred(lambda: self._handlers.write(handle, offset, kept))

    def flush(self, handle: int) -> None:
        self._handlers.flush()

    def fsync(self, handle: int, data_only: bool) -> Deferred:
        return Deferred(lambda: self._handlers.fsync(handle, data_only), abandonable=True)

    # Directories

    def opendir(self, inode: int, flags: int) -> Opened:
        return Opened(self._handlers.opendir(inode))

    def readdir(self, handle: int, cookie: int, page: DirectoryPage) -> None:
        if page.with_attributes:
            self._handlers.list_with_inodes(handle, cookie, page)
            return
        for name, number, mode, following in self._handlers.readdir(handle, cookie):
            if not page.add_bare(name, number, mode, following):
                break

    def fsyncdir(self, handle: int, data_only: bool) -> Deferred:
        return Deferred(lambda: self._handlers.fsyncdir(handle), abandonable=True)


class KernelSession:
    """One mount; `open`, `serve` and `close` are called in that order."""

    def __init__(
        self,
        filesystem: FileSystem,
        mountpoint: Path,
        *,
        url: str,
        workers: int,
        options: MountOptions,
        control: Path,
        last_response_at: Callable[[], float],
        capabilities: bool = True,
        sync: Callable[[], None] | None = None,
    ) -> None:
        """Prepare the mount of `filesystem` on `mountpoint`; the arguments are those of `LlfuseSession`."""
        self._mountpoint = mountpoint
        self._options = channel_options(options, url, read_only=filesystem.read_only)
        handlers = RequestHandlers(
            filesystem,
            limiter=BlockingLimiter(max(1, workers - _FREE_THREADS), last_response_at),
            control=os.fsencode(control),
            capabilities=capabilities,
            sync=sync,
        )
        timeout_s = DEFAULT_TIMEOUT_S if options.timeout_s is None else options.timeout_s
        view = AttributeView(timeout_s, options.uid, options.gid)
        self._handlers = KernelHandlers(handlers)
        self._settings = SessionSettings(
            format=ReplyFormat(
                entry_timeout_s=view.entry_timeout_s,
                file_timeout_s=view.file_timeout_s,
                directory_timeout_s=view.directory_timeout_s,
                uid=options.uid,
                gid=options.gid,
                block_size=128 * 1024,
            ),
            max_write=_REQUEST_BYTES,
            pool_threads=workers,
        )
        self._session: Session | None = None

    def open(self) -> None:
        """Mount.

        Raises:
            MountError: FUSE is missing, the mount point is unusable, or an option is unknown.
        """
        try:
            channel = Channel.mount(self._mountpoint, self._options)
        except ChannelError as error:
            raise MountError(str(error)) from error
        self._session = Session(channel, self._handlers, self._settings, _errno_of)
        try:
            self._session.begin()
        except ChannelError as error:
            raise MountError(f"{self._mountpoint} cannot be mounted: {error}") from error

    def serve(self, signals: StopSignals) -> None:
        """Handle requests until the volume is unmounted or `signals` receives one."""
        assert self._session is not None
        signals.run_loop(self._session.serve, self._session.stop)

    def close(self) -> None:
        """Remove the mount if it still exists; the second call does nothing."""
        if self._session is not None:
            self._session.stop()
            self._session = None


def channel_options(options: MountOptions, url: str, *, read_only: bool) -> ChannelOptions:
    """The options that the channel gets.

    Raises:
        MountError: an option is unknown.
    """
    unknown = sorted(options.passed_on - FLAG_NAMES - _ALWAYS_ON - {"allow_other"})
    if unknown:
        raise MountError(
            f"unknown mount option {unknown[0]!r}; the option --frontend llfuse passes others on to libfuse"
        )
    flags = options.passed_on & FLAG_NAMES
    return ChannelOptions(
        source=source_of(url),
        subtype=SUBTYPE,
        allow_other=options.allow_other or "allow_other" in options.passed_on,
        max_read=_REQUEST_BYTES,
        flags=flags | {"ro"} if read_only else flags,
    )


_ALWAYS_ON = frozenset({"default_permissions"})


def _errno_of(error: BaseException, opcode: int, inode: int) -> int:
    return errno_of_failure(name_of(opcode).lower(), (inode,), error)
