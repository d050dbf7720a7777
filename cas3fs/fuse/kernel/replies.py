# SPDX-License-Identifier: GPL-3.0-or-later
"""Replies, put together from what handlers return.

A reply is bytes, or a list of buffers where copying would cost (`writev` sends them). Everything here raises
`struct.error` when a handler returned a value that the protocol has no room for; the session answers EIO then.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from cas3fs.fuse.kernel import protocol
from cas3fs.fuse.kernel.protocol import Opcode, OpenFlag

Buffer = bytes | bytearray | memoryview
Reply = bytes | list[Buffer]

_BILLION = 10**9
_TYPE_SHIFT = 12
_TYPE_MASK = 0o17
_DIRECTORY_TYPE = 0o040000
_FORMAT_MASK = 0o170000
_ALIGNMENT_MASK = 7
_PADDING: Sequence[bytes] = [bytes(-length & _ALIGNMENT_MASK) for length in range(_ALIGNMENT_MASK + 1)]
"""What fills a name of so many bytes, or of 8 more, up to a multiple of 8."""
_USUAL_NAME_BYTES = 16
_LONGEST_S = 2**32
"""The kernel counts in jiffies, and takes what does not fit for ever; far less serves."""


class Attributes(Protocol):
    """What the kernel wants to know of an inode. Times are nanoseconds since 1970, and may be negative."""

    @property
    def number(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def blocks(self) -> int:
        """Allocated, in units of 512 bytes."""

    @property
    def atime_ns(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...


class Opened(NamedTuple):
    """A handle that OPEN, CREATE or OPENDIR made."""

    handle: int
    flags: OpenFlag | int = 0


class FileSystemStatistics(NamedTuple):
    """What statfs(2) reports; blocks are of `block_size` bytes."""

    blocks: int
    free_blocks: int
    available_blocks: int
    files: int
    free_files: int
    block_size: int = 4096
    name_max: int = protocol.NAME_MAX


class ExtendedAttributes(NamedTuple):
    """What only statx(2) shows: the time of birth, and flags as ``STATX_ATTR_*`` with the mask of those supported."""

    birth_ns: int
    flags: int = 0
    flags_mask: int = 0


class ReplyFormat(NamedTuple):
    """What holds for all replies of a session.

    Args:
        entry_timeout_s: how long the kernel may believe a name.
        file_timeout_s: how long it may believe attributes of what is no directory.
        directory_timeout_s: how long it may believe those of a directory.
        uid: the owner that is shown instead of every inode's own.
        gid: the same for the group.
        block_size: what programs are told to read and write at once.
    """

    entry_timeout_s: float = 1.0
    file_timeout_s: float = 1.0
    directory_timeout_s: float = 1.0
    uid: int | None = None
    gid: int | None = None
    block_size: int = 4096


def device_of(rdev: int) -> int:
    """`rdev` of stat(2) as the protocol has it: 12 bits of major, 20 of minor (``new_encode_dev`` of the kernel)."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def rdev_of(device: int) -> int:
    """The `rdev` of which `device_of` made `device`."""
    return os.makedev(device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00)


class Encoder:
    """Makes replies in one format. Has no other state, so that any thread may use it."""

    def __init__(self, form: ReplyFormat) -> None:
        self._form = form
        self._entry_s, self._entry_ns = _seconds(form.entry_timeout_s)
        self._file_s, self._file_ns = _seconds(form.file_timeout_s)
        self._directory_s, self._directory_ns = _seconds(form.directory_timeout_s)

    def _fields(self, of: Attributes) -> tuple[int, ...]:
        atime_s, atime_ns = divmod(of.atime_ns, _BILLION)
        mtime_s, mtime_ns = divmod(of.mtime_ns, _BILLION)
        ctime_s, ctime_ns = divmod(of.ctime_ns, _BILLION)
        form = self._form
        return (
            of.number,
            of.size,
            of.blocks,
            atime_s,
            mtime_s,
            ctime_s,
            atime_ns,
            mtime_ns,
            ctime_ns,
            of.mode,
            of.nlink,
            of.uid if form.uid is None else form.uid,
            of.gid if form.gid is None else form.gid,
            of.rdev and device_of(of.rdev),
            form.block_size,
            0,
        )

    def _entry(self, of: Attributes) -> tuple[int, ...]:
        is_directory = of.mode & _FORMAT_MASK == _DIRECTORY_TYPE
        return (
            of.number,
            of.generation,
            self._entry_s,
            self._directory_s if is_directory else self._file_s,
            self._entry_ns,
            self._directory_ns if is_directory else self._file_ns,
            *self._fields(of),
        )

    def entry(self, unique: int, of: Attributes) -> bytes:
        """The reply to what gives the kernel an inode: LOOKUP, MKDIR, LINK ..."""
        return protocol.ENTRY_REPLY.pack(protocol.ENTRY_REPLY.size, 0, unique, *self._entry(of))

    def absent(self, unique: int) -> bytes:
        """The reply to a LOOKUP of a name that is not there; the kernel remembers that."""
        return protocol.ENTRY_REPLY.pack(
            protocol.ENTRY_REPLY.size, 0, unique, 0, 0, self._entry_s, 0, self._entry_ns, 0, *([0] * 16)
        )

    def created(self, unique: int, of: Attributes, opened: Opened) -> bytes:
        """The reply to CREATE and TMPFILE."""
        return protocol.CREATE_REPLY.pack(
            protocol.CREATE_REPLY.size, 0, unique, *self._entry(of), opened.handle, opened.flags, 0
        )

    def attributes(self, unique: int, of: Attributes) -> bytes:
        """The reply to GETATTR and SETATTR."""
        is_directory = of.mode & _FORMAT_MASK == _DIRECTORY_TYPE
        return protocol.ATTRIBUTES_REPLY.pack(
            protocol.ATTRIBUTES_REPLY.size,
            0,
            unique,
            self._directory_s if is_directory else self._file_s,
            self._directory_ns if is_directory else self._file_ns,
            0,
            *self._fields(of),
        )

    def statx(self, unique: int, of: Attributes, more: ExtendedAttributes) -> bytes:
        """The reply to STATX: the basic attributes and the time of birth."""
        (number, size, blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid, *_) = (
            self._fields(of)
        )
        birth_s, birth_ns = divmod(more.birth_ns, _BILLION)
        is_directory = mode & _FORMAT_MASK == _DIRECTORY_TYPE
        return protocol.STATX_REPLY.pack(
            protocol.STATX_REPLY.size,
            0,
            unique,
            self._directory_s if is_directory else self._file_s,
            self._directory_ns if is_directory else self._file_ns,
            0,
            _STATX_BASIC_AND_BIRTH,
            self._form.block_size,
            more.flags,
            nlink,
            uid,
            gid,
            mode,
            0,
            number,
            size,
            blocks,
            more.flags_mask,
            *(atime_s, atime_ns, 0),
            *(birth_s, birth_ns, 0),
            *(ctime_s, ctime_ns, 0),
            *(mtime_s, mtime_ns, 0),
            os.major(of.rdev),
            os.minor(of.rdev),
            *(0, 0),
        )

    def page(self, size: int, *, with_attributes: bool) -> "DirectoryPage":
        """An empty page of a directory, of at most `size` bytes."""
        return DirectoryPage(self, size, with_attributes=with_attributes)


class DirectoryPage:
    """What one READDIR or READDIRPLUS returns; the handler adds entries until one does not fit.

    An entry is (cookie, name, inode): the cookie is where a reader goes on behind it. A *bare* one is (cookie, name,
    number, mode): the kernel is not given its inode, as it is never for ``.`` and ``..``.
    """

    def __init__(self, encoder: Encoder, size: int, *, with_attributes: bool) -> None:
        self.with_attributes = with_attributes
        """Whether the kernel is given each inode that is added, bare ones excepted: its lookups grow by one."""
        self._fields = encoder._entry
        self._left = size
        self._head = protocol.DIRECTORY_ENTRY_PLUS if with_attributes else protocol.DIRECTORY_ENTRY
        self._parts: list[bytes] = []

    @property
    def room(self) -> int:
        """About how many more entries fit; 0 where trying is not worth it."""
        fitting = self._left // (self._head.size + _USUAL_NAME_BYTES)
        return fitting if self._parts else max(1, fitting)

    def add(self, name: bytes, of: Attributes, cookie: int) -> bool:
        """Adds an entry, where it fits; returns whether it did. Where not, the page is full."""
        return self.add_all([(cookie, name, of)]) == 1

    def add_all(self, entries: Iterable[tuple[int, bytes, Attributes]], cookie_shift: int = 0) -> int:
        """Adds entries, their cookies greater by `cookie_shift`, until one does not fit; returns how many did."""
        if not self.with_attributes:
            return self.add_all_bare(((cookie, name, of.number, of.mode) for cookie, name, of in entries), cookie_shift)
        left, append, fields = self._left, self._parts.append, self._fields
        pack, head_bytes = self._head.pack, self._head.size
        added, before = 0, len(self._parts)
        try:
            for cookie, name, of in entries:
                length = len(name)
                left -= head_bytes + length + (-length & _ALIGNMENT_MASK)
                if left < 0:
                    break
                kind = of.mode >> _TYPE_SHIFT & _TYPE_MASK
                append(pack(*fields(of), of.number, cookie + cookie_shift, length, kind))
                append(name + _PADDING[length & _ALIGNMENT_MASK])
                added += 1
                self._left = left
        except struct.error:
            del self._parts[before:]  # whoever added them does not know of them
            raise
        return added

    def add_bare(self, name: bytes, number: int, mode: int, cookie: int) -> bool:
        """As `add`, without the inode."""
        return self.add_all_bare([(cookie, name, number, mode)]) == 1

    def add_all_bare(self, entries: Iterable[tuple[int, bytes, int, int]], cookie_shift: int = 0) -> int:
        """As `add_all`, without the inodes."""
        left, append, head_bytes = self._left, self._parts.append, self._head.size
        pack = protocol.DIRECTORY_ENTRY.pack
        blank = bytes(head_bytes - protocol.DIRECTORY_ENTRY.size)
        added = 0
        for cookie, name, number, mode in entries:
            length = len(name)
            left -= head_bytes + length + (-length & _ALIGNMENT_MASK)
            if left < 0:
                break
            kind = mode >> _TYPE_SHIFT & _TYPE_MASK
            append(
                blank + pack(number, cookie + cookie_shift, length, kind) + name + _PADDING[length & _ALIGNMENT_MASK]
            )
            added += 1
            self._left = left
        return added

    def reply(self, unique: int) -> Reply:
        """The page as a reply."""
        return data(unique, b"".join(self._parts))


_STATX_BASIC_AND_BIRTH = 0x7FF | 0x800


def done(unique: int) -> bytes:
    """The reply of a request that has nothing to say but that it was carried out."""
    return protocol.REPLY_HEADER.pack(protocol.REPLY_HEADER.size, 0, unique)


def error(unique: int, number: int) -> bytes:
    """The reply of a request that failed with errno `number`; EIO where that is no errno."""
    if not 0 < number <= protocol.LARGEST_ERRNO:
        number = 5
    return protocol.REPLY_HEADER.pack(protocol.REPLY_HEADER.size, -number, unique)


_COPY_BYTES = 8192
"""Up to here one copy is cheaper than a second buffer."""


def data(unique: int, content: Buffer) -> Reply:
    """The reply of READ, READLINK, GETXATTR ...: bytes."""
    length = len(content)
    head = protocol.REPLY_HEADER.pack(protocol.REPLY_HEADER.size + length, 0, unique)
    return head + content if length <= _COPY_BYTES else [head, content]


def pieces(unique: int, parts: list[Buffer]) -> Reply:
    """The same for content that lies in several buffers."""
    length = sum(map(len, parts))
    return [protocol.REPLY_HEADER.pack(protocol.REPLY_HEADER.size + length, 0, unique), *parts]


def opened(unique: int, reply: Opened) -> bytes:
    """The reply of OPEN and OPENDIR."""
    return protocol.OPEN_REPLY.pack(protocol.OPEN_REPLY.size, 0, unique, reply.handle, reply.flags, 0)


def count(unique: int, number: int) -> bytes:
    """The reply of WRITE and COPY_FILE_RANGE, and of GETXATTR where only the size is asked for."""
    return protocol.WRITE_REPLY.pack(protocol.WRITE_REPLY.size, 0, unique, number, 0)


def offset(unique: int, number: int) -> bytes:
    """The reply of LSEEK."""
    return protocol.OFFSET_REPLY.pack(protocol.OFFSET_REPLY.size, 0, unique, number)


def statistics(unique: int, of: FileSystemStatistics) -> bytes:
    """The reply of STATFS."""
    return protocol.STATFS_REPLY.pack(
        protocol.STATFS_REPLY.size,
        0,
        unique,
        of.blocks,
        of.free_blocks,
        of.available_blocks,
        of.files,
        of.free_files,
        of.block_size,
        of.name_max,
        of.block_size,
        0,
    )


def ioctl(unique: int, content: bytes) -> bytes:
    """The reply of IOCTL that succeeded, with what goes into the caller's buffer."""
    head = protocol.IOCTL_REPLY
    return head.pack(head.size + len(content), 0, unique, 0, 0, 0, 0) + content


_ENTRY_OPCODES = frozenset(
    {Opcode.LOOKUP, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.LINK, Opcode.CREATE, Opcode.TMPFILE}
)


def inodes_given(opcode: int, reply: Reply) -> list[int]:
    """The inodes whose lookups the kernel counts when it accepts `reply`, each as often as it counts them."""
    if opcode in _ENTRY_OPCODES:
        message = _joined(reply)
        inode = protocol.ENTRY_REPLY.unpack_from(message)[3] if len(message) >= protocol.ENTRY_REPLY.size else 0
        return [inode] if inode else []
    return _listed_inodes(_joined(reply)) if opcode == Opcode.READDIRPLUS else []


def _listed_inodes(message: bytes) -> list[int]:
    layout, inodes, position = protocol.DIRECTORY_ENTRY_PLUS, [], protocol.REPLY_HEADER.size
    while position + layout.size <= len(message):
        inode, *_, name_length, _kind = layout.unpack_from(message, position)
        if inode:
            inodes.append(inode)
        position += layout.size + name_length + (-name_length & _ALIGNMENT_MASK)
    return inodes


def handle_given(opcode: int, reply: Reply) -> int | None:
    """The handle that the kernel gets by `reply`, and will release; None where there is none."""
    message = _joined(reply)
    if opcode in (Opcode.CREATE, Opcode.TMPFILE) and len(message) == protocol.CREATE_REPLY.size:
        return int(protocol.CREATE_REPLY.unpack(message)[-3])
    if opcode in (Opcode.OPEN, Opcode.OPENDIR) and len(message) == protocol.OPEN_REPLY.size:
        return int(protocol.OPEN_REPLY.unpack(message)[-3])
    return None


def _joined(reply: Reply) -> bytes:
    return reply if isinstance(reply, bytes) else b"".join(reply)


def _seconds(timeout_s: float) -> tuple[int, int]:
    whole = min(int(timeout_s), _LONGEST_S)
    return whole, int((timeout_s - int(timeout_s)) * _BILLION)
