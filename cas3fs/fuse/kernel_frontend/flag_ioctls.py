# SPDX-License-Identifier: GPL-3.0-or-later
"""The ioctls by which the kernel reads and sets flags of inodes, for chattr, lsattr and xfs_io.

There are two pairs of them. ``FS_IOC_GETFLAGS`` and ``FS_IOC_SETFLAGS`` take the flags as a number of 32 bits. Those of
XFS take a structure with flags of other numbers, and more that only XFS has: ``flags, extent size, number of extents,
project, copy-on-write extent size``, 32 bits each, and 8 bytes unused. Linux from 5.13 on asks itself, after it has
checked that the caller may; the first reading before any change is by the second pair.
"""

import errno
import struct
from typing import Final

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.state import inode_flags
from cas3fs.fuse.handlers import RequestHandlers
from cas3fs.fuse.kernel.dispatch import Unsupported

GET_FLAGS: Final = 0x80086601
SET_FLAGS: Final = 0x40086602
GET_XFLAGS: Final = 0x801C581F
SET_XFLAGS: Final = 0x401C5820

_FLAGS: Final = struct.Struct("=I")
_XFLAGS: Final = struct.Struct("=IIIII8x")
_XFLAG_OF: Final = (
    (inode_flags.IMMUTABLE, 0x08),
    (inode_flags.APPEND, 0x10),
    (inode_flags.NOATIME, 0x40),
    (inode_flags.NODUMP, 0x80),
)


def ioctl_of_flags(handlers: RequestHandlers, inode: int, command: int, data: bytes) -> bytes:
    """Carries one out; returns what the caller gets.

    Raises:
        Unsupported: it is another ioctl.
        FileSystemError: EOPNOTSUPP, there is a flag that cannot be kept; EINVAL, too few bytes; and as
            `Files.set_flags`.
    """
    if command == GET_FLAGS:
        return _FLAGS.pack(handlers.flags(inode))
    if command == GET_XFLAGS:
        flags = handlers.flags(inode)
        return _XFLAGS.pack(sum(xflag for flag, xflag in _XFLAG_OF if flags & flag), 0, 0, 0, 0)
    if command not in (SET_FLAGS, SET_XFLAGS):
        raise Unsupported
    layout = _FLAGS if command == SET_FLAGS else _XFLAGS
    if len(data) < layout.size:
        raise FileSystemError(errno.EINVAL)
    wanted, *others = layout.unpack_from(data)
    if command == SET_XFLAGS:
        if any(others) or wanted & ~sum(xflag for _, xflag in _XFLAG_OF):
            raise FileSystemError(errno.EOPNOTSUPP)
        wanted = sum(flag for flag, xflag in _XFLAG_OF if wanted & xflag)
    handlers.set_flags(inode, wanted)
    return b""
