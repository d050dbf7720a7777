# SPDX-License-Identifier: GPL-3.0-or-later
"""From the bytes of a request to the call of a handler, and from what it returns to a reply.

`Handlers` is what a file system implements. Every method that is left out answers ENOSYS; for most of them the kernel
then never asks again, and does without. A handler raises whatever it likes: the session turns it into an errno.
"""

import errno
import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from cas3fs.fuse.kernel import protocol, replies
from cas3fs.fuse.kernel.pauses import Pauses
from cas3fs.fuse.kernel.protocol import Opcode, Valid
from cas3fs.fuse.kernel.replies import (
    Attributes,
    Buffer,
    DirectoryPage,
    Encoder,
    ExtendedAttributes,
    FileSystemStatistics,
    Opened,
    Reply,
)

_HEADER_BYTES = protocol.REQUEST_HEADER.size
_CALLER, _CALLER_OFFSET = struct.Struct("=III"), 24
"""uid, gid and pid in the header."""
_BILLION = 10**9


class Caller(NamedTuple):
    """Who asks.

    Args:
        uid: the user.
        gid: the group.
        pid: the thread, 0 where it is of another namespace.
        umask: what applies where something is made.
    """

    uid: int
    gid: int
    pid: int
    umask: int = 0


class Changes(NamedTuple):
    """What a SETATTR asks for; None is left as it is. Times are in nanoseconds, and "now" is None with a flag."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    atime_now: bool = False
    mtime_now: bool = False
    handle: int | None = None
    kills_set_ids: bool = False
    """The set-id bits and the capability have to go with it."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Returned by a handler that would have to wait: `run` does the work, in a thread of the pool.

    Args:
        run: returns what the handler would have returned, or raises.
        abandonable: whether the caller may be answered EINTR while `run` goes on, when the caller is being killed.
            True only for what changes nothing, since a write that ends after its reply could undo a later one.
        kind: what waits for the same thing, such as writes for space. Each kind has threads of its own, so that those
            which wait for one thing never keep others from being carried out.
        pauses: says when the caller may be answered EINTR although `run` changes something.
    """

    run: Callable[[], Any]
    abandonable: bool = False
    kind: str = ""
    pauses: Pauses | None = None


class Pending(NamedTuple):
    """A request that was deferred, with what makes its reply of what `run` returns."""

    run: Callable[[], Any]
    encode: Callable[[Any], Reply]
    abandonable: bool
    kind: str
    pauses: Pauses | None


class Malformed(Exception):
    """The kernel sent what the protocol does not allow."""


class Unsupported(Exception):
    """The file system has no such operation; the kernel gets ENOSYS."""


class Handlers:
    """The methods that a file system may have; those with `Deferred` in their result may defer.

    A name is bytes of at least one byte. A memoryview is valid during the call only.
    """

    def lookup(self, parent: int, name: bytes) -> Attributes | None:
        """The inode of that name, whose lookups grow by one; None where there is none, which the kernel remembers."""
        _unsupported()

    def forget(self, inodes: list[tuple[int, int]]) -> None:
        """Subtracts lookups: of each inode so many."""

    def getattr(self, inode: int, handle: int | None) -> Attributes:
        _unsupported()

    def statx(self, inode: int, handle: int | None) -> tuple[Attributes, ExtendedAttributes]:
        _unsupported()

    def setattr(self, inode: int, changes: Changes, caller: Caller) -> Attributes | Deferred:
        _unsupported()

    def readlink(self, inode: int) -> bytes:
        _unsupported()

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        _unsupported()

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Attributes:
        _unsupported()

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attributes:
        _unsupported()

    def unlink(self, parent: int, name: bytes) -> None:
        _unsupported()

    def rmdir(self, parent: int, name: bytes) -> None:
        _unsupported()

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, caller: Caller) -> None:
        """`flags` as renameat2(2) has them."""
        _unsupported()

    def link(self, inode: int, new_parent: int, new_name: bytes) -> Attributes:
        _unsupported()

    def open(self, inode: int, flags: int, caller: Caller, *, kills_set_ids: bool) -> Opened | Deferred:
        _unsupported()

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attributes, Opened]:
        _unsupported()

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[Attributes, Opened]:
        _unsupported()

    def read(self, handle: int, offset: int, size: int) -> Buffer | list[Buffer] | Deferred:
        """At most `size` bytes, fewer only at the end of the file."""
        _unsupported()

    def write(self, handle: int, offset: int, data: memoryview, kills_set_ids: bool) -> int | Deferred:
        """How many bytes were written."""
        _unsupported()

    def flush(self, handle: int) -> Deferred | None:
        _unsupported()

    def release(self, handle: int) -> None:
        _unsupported()

    def fsync(self, handle: int, data_only: bool) -> Deferred | None:
        _unsupported()

    def opendir(self, inode: int, flags: int, caller: Caller) -> Opened:
        _unsupported()

    def readdir(self, handle: int, cookie: int, page: DirectoryPage) -> None:
        """Adds entries behind `cookie` (0: from the first) to `page`, until one does not fit or there is none.

        Where it raises, the kernel gets no entry: no lookups may have grown.
        """
        _unsupported()

    def releasedir(self, handle: int) -> None:
        _unsupported()

    def fsyncdir(self, handle: int, data_only: bool) -> Deferred | None:
        _unsupported()

    def statfs(self) -> FileSystemStatistics:
        _unsupported()

    def syncfs(self) -> Deferred | None:
        _unsupported()

    def getxattr(self, inode: int, name: bytes) -> bytes:
        _unsupported()

    def listxattr(self, inode: int) -> bytes:
        """The names, each followed by a zero byte."""
        _unsupported()

    def setxattr(self, inode: int, name: bytes, value: bytes, flags: int, kills_set_gid: bool) -> None:
        _unsupported()

    def removexattr(self, inode: int, name: bytes) -> None:
        _unsupported()

    def fallocate(self, handle: int, offset: int, length: int, mode: int) -> Deferred | None:
        _unsupported()

    def lseek(self, handle: int, offset: int, whence: int) -> int | Deferred:
        """`whence` is SEEK_DATA or SEEK_HOLE."""
        _unsupported()

    def copy_file_range(
        self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, *, flags: int
    ) -> int | Deferred:
        _unsupported()

    def ioctl(
        self, inode: int, handle: int, command: int, data: bytes, out_size: int, *, argument: int, caller: Caller
    ) -> bytes:
        """What goes into the caller's buffer; `argument` is its address, or 0 where the kernel itself asks."""
        _unsupported()


def _unsupported() -> NoReturn:
    raise Unsupported


Operation = Callable[[memoryview, int, int, int], Reply | Pending | None]
"""Takes the message, its length, unique and inode."""


class Dispatcher:
    """The table of operations by opcode: each returns a reply, None where there is none, or `Pending`.

    Raises whatever a handler raises, `Malformed`, and `struct.error` for a result without sense.
    """

    def __init__(self, handlers: Handlers, encoder: Encoder, *, long_setxattr: bool) -> None:
        """`long_setxattr`: SETXATTR_EXT was negotiated."""
        self._handlers = handlers
        self._encoder = encoder
        self._setxattr_in = protocol.SETXATTR_IN if long_setxattr else protocol.SETXATTR_SHORT_IN
        self.operations: list[Operation | None] = [None] * protocol.OPCODES
        self.least_bytes: list[int] = [0] * protocol.OPCODES
        for opcode, (operation, layout) in self._table().items():
            self.operations[opcode] = operation
            self.least_bytes[opcode] = _HEADER_BYTES + (layout.size if layout is not None else 0)

    def _table(self) -> dict[Opcode, tuple[Operation, Any]]:
        return {
            Opcode.LOOKUP: (self._lookup, None),
            Opcode.FORGET: (self._forget, protocol.FORGET_IN),
            Opcode.BATCH_FORGET: (self._batch_forget, protocol.BATCH_FORGET_IN),
            Opcode.GETATTR: (self._getattr, protocol.GETATTR_IN),
            Opcode.STATX: (self._statx, protocol.STATX_IN),
            Opcode.SETATTR: (self._setattr, protocol.SETATTR_IN),
            Opcode.READLINK: (self._readlink, None),
            Opcode.SYMLINK: (self._symlink, None),
            Opcode.MKNOD: (self._mknod, protocol.MKNOD_IN),
            Opcode.MKDIR: (self._mkdir, protocol.MKDIR_IN),
            Opcode.UNLINK: (self._unlink, None),
            Opcode.RMDIR: (self._rmdir, None),
            Opcode.RENAME: (self._rename, protocol.RENAME_IN),
            Opcode.RENAME2: (self._rename2, protocol.RENAME2_IN),
            Opcode.LINK: (self._link, protocol.LINK_IN),
            Opcode.OPEN: (self._open, protocol.OPEN_IN),
            Opcode.CREATE: (self._create, protocol.CREATE_IN),
            Opcode.TMPFILE: (self._tmpfile, protocol.CREATE_IN),
            Opcode.READ: (self._read, protocol.READ_IN),
            Opcode.WRITE: (self._write, protocol.WRITE_IN),
            Opcode.FLUSH: (self._flush, protocol.FLUSH_IN),
            Opcode.RELEASE: (self._release, protocol.RELEASE_IN),
            Opcode.FSYNC: (self._fsync, protocol.FSYNC_IN),
            Opcode.OPENDIR: (self._opendir, protocol.OPEN_IN),
            Opcode.READDIR: (self._readdir, protocol.READ_IN),
            Opcode.READDIRPLUS: (self._readdirplus, protocol.READ_IN),
            Opcode.RELEASEDIR: (self._releasedir, protocol.RELEASE_IN),
            Opcode.FSYNCDIR: (self._fsyncdir, protocol.FSYNC_IN),
            Opcode.STATFS: (self._statfs, None),
            Opcode.SYNCFS: (self._syncfs, None),
            Opcode.GETXATTR: (self._getxattr, protocol.GETXATTR_IN),
            Opcode.LISTXATTR: (self._listxattr, protocol.GETXATTR_IN),
            Opcode.SETXATTR: (self._setxattr, self._setxattr_in),
            Opcode.REMOVEXATTR: (self._removexattr, None),
            Opcode.FALLOCATE: (self._fallocate, protocol.FALLOCATE_IN),
            Opcode.LSEEK: (self._lseek, protocol.LSEEK_IN),
            Opcode.COPY_FILE_RANGE: (self._copy_file_range, protocol.COPY_FILE_RANGE_IN),
            Opcode.IOCTL: (self._ioctl, protocol.IOCTL_IN),
            Opcode.DESTROY: (self._destroy, None),
        }

    # --- inodes and names

    def _lookup(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        found = self._handlers.lookup(inode, _name(view, _HEADER_BYTES, length))
        return self._encoder.absent(unique) if found is None else self._encoder.entry(unique, found)

    def _forget(self, view: memoryview, length: int, unique: int, inode: int) -> None:
        self._handlers.forget([(inode, protocol.FORGET_IN.unpack_from(view, _HEADER_BYTES)[0])])

    def _batch_forget(self, view: memoryview, length: int, unique: int, inode: int) -> None:
        number, _padding = protocol.BATCH_FORGET_IN.unpack_from(view, _HEADER_BYTES)
        begin = _HEADER_BYTES + protocol.BATCH_FORGET_IN.size
        end = begin + number * protocol.FORGET_ONE.size
        if end > length:
            raise Malformed(f"BATCH_FORGET of {number} inodes in {length} bytes")
        self._handlers.forget(list(protocol.FORGET_ONE.iter_unpack(view[begin:end])))

    def _getattr(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        flags, _padding, handle = protocol.GETATTR_IN.unpack_from(view, _HEADER_BYTES)
        return self._encoder.attributes(
            unique, self._handlers.getattr(inode, handle if flags & protocol.GETATTR_HANDLE else None)
        )

    def _statx(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        flags, _padding, handle, _flags, _mask = protocol.STATX_IN.unpack_from(view, _HEADER_BYTES)
        found, more = self._handlers.statx(inode, handle if flags & protocol.GETATTR_HANDLE else None)
        return self._encoder.statx(unique, found, more)

    def _setattr(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        changed = self._handlers.setattr(inode, _changes(view), _caller(view))
        return _finished(changed, self._encoder.attributes, unique)

    def _readlink(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        return replies.data(unique, self._handlers.readlink(inode))

    def _symlink(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        name, target = _two_names(view, _HEADER_BYTES, length)
        return self._encoder.entry(unique, self._handlers.symlink(inode, name, target, _caller(view)))

    def _mknod(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        mode, rdev, umask, _padding = protocol.MKNOD_IN.unpack_from(view, _HEADER_BYTES)
        name = _name(view, _HEADER_BYTES + protocol.MKNOD_IN.size, length)
        made = self._handlers.mknod(inode, name, mode, replies.rdev_of(rdev), _caller(view, umask))
        return self._encoder.entry(unique, made)

    def _mkdir(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        mode, umask = protocol.MKDIR_IN.unpack_from(view, _HEADER_BYTES)
        name = _name(view, _HEADER_BYTES + protocol.MKDIR_IN.size, length)
        return self._encoder.entry(unique, self._handlers.mkdir(inode, name, mode, _caller(view, umask)))

    def _unlink(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        self._handlers.unlink(inode, _name(view, _HEADER_BYTES, length))
        return replies.done(unique)

    def _rmdir(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        self._handlers.rmdir(inode, _name(view, _HEADER_BYTES, length))
        return replies.done(unique)

    def _rename(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        (new_parent,) = protocol.RENAME_IN.unpack_from(view, _HEADER_BYTES)
        name, new_name = _two_names(view, _HEADER_BYTES + protocol.RENAME_IN.size, length)
        self._handlers.rename(inode, name, new_parent, new_name, 0, caller=_caller(view))
        return replies.done(unique)

    def _rename2(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        new_parent, flags, _padding = protocol.RENAME2_IN.unpack_from(view, _HEADER_BYTES)
        name, new_name = _two_names(view, _HEADER_BYTES + protocol.RENAME2_IN.size, length)
        self._handlers.rename(inode, name, new_parent, new_name, flags, caller=_caller(view))
        return replies.done(unique)

    def _link(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        (linked,) = protocol.LINK_IN.unpack_from(view, _HEADER_BYTES)
        name = _name(view, _HEADER_BYTES + protocol.LINK_IN.size, length)
        return self._encoder.entry(unique, self._handlers.link(linked, inode, name))

    # --- open files

    def _open(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        flags, more = protocol.OPEN_IN.unpack_from(view, _HEADER_BYTES)
        opened = self._handlers.open(inode, flags, _caller(view), kills_set_ids=bool(more & protocol.OPEN_KILL_SUIDGID))
        return _finished(opened, replies.opened, unique)

    def _create(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        flags, mode, umask, _more = protocol.CREATE_IN.unpack_from(view, _HEADER_BYTES)
        name = _name(view, _HEADER_BYTES + protocol.CREATE_IN.size, length)
        made, opened = self._handlers.create(inode, name, mode, flags, _caller(view, umask))
        return self._encoder.created(unique, made, opened)

    def _tmpfile(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        flags, mode, umask, _more = protocol.CREATE_IN.unpack_from(view, _HEADER_BYTES)
        made, opened = self._handlers.tmpfile(inode, mode, flags, _caller(view, umask))
        return self._encoder.created(unique, made, opened)

    def _read(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, offset, size, *_rest = protocol.READ_IN.unpack_from(view, _HEADER_BYTES)
        return _finished(self._handlers.read(handle, offset, size), _content, unique)

    def _write(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, offset, size, flags, *_rest = protocol.WRITE_IN.unpack_from(view, _HEADER_BYTES)
        begin = _HEADER_BYTES + protocol.WRITE_IN.size
        if begin + size > length:
            raise Malformed(f"WRITE of {size} bytes in {length}")
        written = self._handlers.write(
            handle, offset, view[begin : begin + size], bool(flags & protocol.WRITE_KILL_SUIDGID)
        )
        return _finished(written, replies.count, unique)

    def _flush(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, *_rest = protocol.FLUSH_IN.unpack_from(view, _HEADER_BYTES)
        return _finished(self._handlers.flush(handle), _nothing, unique)

    def _release(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        handle, *_rest = protocol.RELEASE_IN.unpack_from(view, _HEADER_BYTES)
        self._handlers.release(handle)
        return replies.done(unique)

    def _fsync(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, flags, _padding = protocol.FSYNC_IN.unpack_from(view, _HEADER_BYTES)
        synced = self._handlers.fsync(handle, bool(flags & protocol.FSYNC_DATA_ONLY))
        return _finished(synced, _nothing, unique)

    def _fallocate(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, offset, size, mode, _padding = protocol.FALLOCATE_IN.unpack_from(view, _HEADER_BYTES)
        return _finished(self._handlers.fallocate(handle, offset, size, mode), _nothing, unique)

    def _lseek(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, offset, whence, _padding = protocol.LSEEK_IN.unpack_from(view, _HEADER_BYTES)
        return _finished(self._handlers.lseek(handle, offset, whence), replies.offset, unique)

    def _copy_file_range(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, offset, _to, to_handle, to_offset, size, flags = protocol.COPY_FILE_RANGE_IN.unpack_from(
            view, _HEADER_BYTES
        )
        copied = self._handlers.copy_file_range(handle, offset, to_handle, to_offset, size, flags=flags)
        return _finished(copied, replies.count, unique)

    def _ioctl(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        handle, _flags, command, argument, in_size, out_size = protocol.IOCTL_IN.unpack_from(view, _HEADER_BYTES)
        begin = _HEADER_BYTES + protocol.IOCTL_IN.size
        if begin + in_size > length:
            raise Malformed(f"IOCTL with {in_size} bytes in {length}")
        content = bytes(view[begin : begin + in_size])
        answer = self._handlers.ioctl(
            inode, handle, command, content, out_size, argument=argument, caller=_caller(view)
        )
        return replies.ioctl(unique, answer)

    # --- directories

    def _opendir(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        flags, _more = protocol.OPEN_IN.unpack_from(view, _HEADER_BYTES)
        return replies.opened(unique, self._handlers.opendir(inode, flags, _caller(view)))

    def _readdir(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        return self._read_page(view, unique, with_attributes=False)

    def _readdirplus(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        return self._read_page(view, unique, with_attributes=True)

    def _read_page(self, view: memoryview, unique: int, *, with_attributes: bool) -> Reply:
        handle, cookie, size, *_rest = protocol.READ_IN.unpack_from(view, _HEADER_BYTES)
        page = self._encoder.page(size, with_attributes=with_attributes)
        self._handlers.readdir(handle, cookie, page)
        return page.reply(unique)

    def _releasedir(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        handle, *_rest = protocol.RELEASE_IN.unpack_from(view, _HEADER_BYTES)
        self._handlers.releasedir(handle)
        return replies.done(unique)

    def _fsyncdir(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        handle, flags, _padding = protocol.FSYNC_IN.unpack_from(view, _HEADER_BYTES)
        synced = self._handlers.fsyncdir(handle, bool(flags & protocol.FSYNC_DATA_ONLY))
        return _finished(synced, _nothing, unique)

    # --- the whole file system, and extended attributes

    def _statfs(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        return replies.statistics(unique, self._handlers.statfs())

    def _syncfs(self, view: memoryview, length: int, unique: int, inode: int) -> Reply | Pending:
        return _finished(self._handlers.syncfs(), _nothing, unique)

    def _getxattr(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        size, _padding = protocol.GETXATTR_IN.unpack_from(view, _HEADER_BYTES)
        name = _name(view, _HEADER_BYTES + protocol.GETXATTR_IN.size, length)
        return _within(unique, size, self._handlers.getxattr(inode, name))

    def _listxattr(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        size, _padding = protocol.GETXATTR_IN.unpack_from(view, _HEADER_BYTES)
        return _within(unique, size, self._handlers.listxattr(inode))

    def _setxattr(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        size, flags, *more = self._setxattr_in.unpack_from(view, _HEADER_BYTES)
        begin = _HEADER_BYTES + self._setxattr_in.size
        value_begin = length - size
        name = _name(view, begin, value_begin)
        kills = bool(more and more[0] & protocol.SETXATTR_ACL_KILL_SGID)
        self._handlers.setxattr(inode, name, bytes(view[value_begin:length]), flags, kills)
        return replies.done(unique)

    def _removexattr(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        self._handlers.removexattr(inode, _name(view, _HEADER_BYTES, length))
        return replies.done(unique)

    def _destroy(self, view: memoryview, length: int, unique: int, inode: int) -> Reply:
        return replies.done(unique)


def _finished(result: Any, encode: Callable[[int, Any], Reply], unique: int) -> Reply | Pending:
    if result.__class__ is Deferred:
        return Pending(result.run, functools.partial(encode, unique), result.abandonable, result.kind, result.pauses)
    return encode(unique, result)


def _nothing(unique: int, _result: None) -> Reply:
    return replies.done(unique)


def _content(unique: int, content: Buffer | list[Buffer]) -> Reply:
    return replies.pieces(unique, content) if isinstance(content, list) else replies.data(unique, content)


def _within(unique: int, size: int, content: bytes) -> Reply:
    """The reply of GETXATTR and LISTXATTR: `size` 0 asks how long the content is."""
    if size == 0:
        return replies.count(unique, len(content))
    if len(content) > size:
        return replies.error(unique, errno.ERANGE)
    return replies.data(unique, content)


def _caller(view: memoryview, umask: int = 0) -> Caller:
    uid, gid, pid = _CALLER.unpack_from(view, _CALLER_OFFSET)
    return Caller(uid, gid, pid, umask)


def _name(view: memoryview, begin: int, end: int) -> bytes:
    """The one name that lies there, with its zero byte."""
    name = bytes(view[begin : end - 1])
    if end - begin < 2 or view[end - 1] or b"\0" in name:
        raise Malformed(f"no name in {end - begin} bytes")
    return name


def _two_names(view: memoryview, begin: int, end: int) -> tuple[bytes, bytes]:
    parts = bytes(view[begin:end]).split(b"\0")
    if len(parts) != 3 or not parts[0] or not parts[1] or parts[2]:
        raise Malformed(f"no two names in {end - begin} bytes")
    return parts[0], parts[1]


def _changes(view: memoryview) -> Changes:
    (valid, _0, handle, size, _1, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _2, uid, gid, _3) = (
        protocol.SETATTR_IN.unpack_from(view, _HEADER_BYTES)
    )
    return Changes(
        mode=mode & 0o7777 if valid & Valid.MODE else None,
        uid=uid if valid & Valid.UID else None,
        gid=gid if valid & Valid.GID else None,
        size=size if valid & Valid.SIZE else None,
        atime_ns=atime * _BILLION + atime_ns if valid & Valid.ATIME and not valid & Valid.ATIME_NOW else None,
        mtime_ns=mtime * _BILLION + mtime_ns if valid & Valid.MTIME and not valid & Valid.MTIME_NOW else None,
        ctime_ns=ctime * _BILLION + ctime_ns if valid & Valid.CTIME else None,
        atime_now=bool(valid & Valid.ATIME_NOW),
        mtime_now=bool(valid & Valid.MTIME_NOW),
        handle=handle if valid & Valid.HANDLE else None,
        kills_set_ids=bool(valid & Valid.KILL_SUIDGID),
    )
