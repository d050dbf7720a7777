# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes of the kernel's FUSE protocol, version 7.31 and later: numbers, and the layout of each structure.

Source: ``include/uapi/linux/fuse.h`` of Linux. Everything is in the machine's byte order, and aligned by itself, so
the structures need no padding beyond what is written here. Only layouts stand here; what they mean to a file system
is the business of `dispatch`, and replies are put together in `replies`.

A request is one ``read`` from ``/dev/fuse``::

    length u32, opcode u32, unique u64, inode u64, uid u32, gid u32, pid u32, extensions u16, padding u16
    then the opcode's own structure, names (each ends with a zero byte), and data

A reply is one ``write``: ``length u32, error i32, unique u64``, then the opcode's own structure or data. An error is a
negative errno, and then nothing follows. A message that the kernel did not ask for (`Notification`) has 0 for
`unique`, and its code in place of the error.
"""

import enum
import struct
from typing import Final

KERNEL_MAJOR: Final = 7
OLDEST_MINOR: Final = 31
"""Linux 5.4: the oldest kernel with everything that is read here without asking."""
NEWEST_MINOR: Final = 45
"""The newest minor version whose structures are known here; a newer kernel speaks this one when it is told."""
ROOT_INODE: Final = 1
NAME_MAX: Final = 255
LARGEST_ERRNO: Final = 511
"""The kernel refuses a reply whose error is beyond this."""


class Opcode(enum.IntEnum):
    """What a request asks for; ``enum fuse_opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


OPCODES: Final = 64
"""One more than the largest opcode that a table of handlers has a place for."""


class Feature(enum.IntFlag):
    """What kernel and server agree upon in INIT; the flags ``FUSE_*`` of ``fuse_init_in`` and ``fuse_init_out``."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    HAS_EXPIRE_ONLY = 1 << 35


class OpenFlag(enum.IntFlag):
    """What the reply to OPEN, CREATE and OPENDIR says of the handle; ``FOPEN_*``."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5


class Valid(enum.IntFlag):
    """Which fields of a SETATTR count; ``FATTR_*``."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    HANDLE = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class Notification(enum.IntEnum):
    """What the server can say unasked; ``enum fuse_notify_code``."""

    INVALIDATE_INODE = 2
    INVALIDATE_ENTRY = 3


GETATTR_HANDLE: Final = 1 << 0
"""In GETATTR: the handle counts."""
WRITE_CACHE: Final = 1 << 0
"""In WRITE: written from the page cache, so the caller's ids are guessed."""
WRITE_KILL_SUIDGID: Final = 1 << 2
"""In WRITE: the set-id bits and the file's capability have to go (with HANDLE_KILLPRIV_V2)."""
OPEN_KILL_SUIDGID: Final = 1 << 0
"""In OPEN and CREATE that truncate: the same."""
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
"""In SETXATTR: an access list is set that takes the set-group-id bit away."""
FSYNC_DATA_ONLY: Final = 1 << 0
IOCTL_DIRECTORY: Final = 1 << 4

_ATTRIBUTES = "QQQqqqIIIIIIIIII"
"""ino, size, blocks of 512 bytes, seconds of atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev,
blksize, flags. The seconds are unsigned in the header, and read as signed by the kernel."""
_ENTRY = "QQQQII" + _ATTRIBUTES
"""inode, generation, seconds for which the name and the attributes hold, their nanoseconds; then the attributes."""
_REPLY = "=IiQ"

REQUEST_HEADER: Final = struct.Struct("=IIQQIIIHH")
"""length, opcode, unique, inode, uid, gid, pid, length of extensions in units of 8 bytes, padding"""
REPLY_HEADER: Final = struct.Struct(_REPLY)
"""length, error (negative errno, or the code of a notification), unique"""

# --- what comes behind the header of a request
INIT_IN: Final = struct.Struct("=IIII")
"""major, minor, largest read-ahead, features; from 7.36 on followed by the upper half of the features"""
FORGET_IN: Final = struct.Struct("=Q")
"""lookups to subtract"""
BATCH_FORGET_IN: Final = struct.Struct("=II")
"""count, padding; then so many times `FORGET_ONE`"""
FORGET_ONE: Final = struct.Struct("=QQ")
"""inode, lookups to subtract"""
GETATTR_IN: Final = struct.Struct("=IIQ")
"""flags, padding, handle"""
SETATTR_IN: Final = struct.Struct("=IIQQQqqqIIIIIIII")
"""valid, padding, handle, size, lock owner, atime, mtime, ctime, their nanoseconds, mode, unused, uid, gid, unused"""
MKNOD_IN: Final = struct.Struct("=IIII")
"""mode, device, umask, padding; then the name"""
MKDIR_IN: Final = struct.Struct("=II")
"""mode, umask; then the name"""
RENAME_IN: Final = struct.Struct("=Q")
"""inode of the new directory; then the old and the new name"""
RENAME2_IN: Final = struct.Struct("=QII")
"""inode of the new directory, flags, padding; then the old and the new name"""
LINK_IN: Final = struct.Struct("=Q")
"""inode; then the new name (the header's inode is the directory)"""
OPEN_IN: Final = struct.Struct("=II")
"""flags as open(2) has them, flags of FUSE"""
CREATE_IN: Final = struct.Struct("=IIII")
"""flags, mode, umask, flags of FUSE; then the name"""
READ_IN: Final = struct.Struct("=QQIIQII")
"""handle, offset, size, flags, lock owner, flags of the open file, padding"""
WRITE_IN: Final = READ_IN
"""the same; then the data"""
RELEASE_IN: Final = struct.Struct("=QIIQ")
"""handle, flags of the open file, flags, lock owner"""
FLUSH_IN: Final = struct.Struct("=QIIQ")
"""handle, unused, padding, lock owner"""
FSYNC_IN: Final = struct.Struct("=QII")
"""handle, flags, padding"""
SETXATTR_IN: Final = struct.Struct("=IIII")
"""size, flags of setxattr(2), flags of FUSE, padding (with SETXATTR_EXT); then the name and the value"""
SETXATTR_SHORT_IN: Final = struct.Struct("=II")
"""the same without SETXATTR_EXT"""
GETXATTR_IN: Final = struct.Struct("=II")
"""size of the caller's buffer, padding; then the name, but for LISTXATTR"""
INTERRUPT_IN: Final = struct.Struct("=Q")
"""unique of the request that is to be given up"""
FALLOCATE_IN: Final = struct.Struct("=QQQII")
"""handle, offset, length, mode, padding"""
LSEEK_IN: Final = struct.Struct("=QQII")
"""handle, offset, whence, padding"""
COPY_FILE_RANGE_IN: Final = struct.Struct("=QQQQQQQ")
"""handle and offset to read at, inode, handle and offset to write at, length, flags (the header's inode is read)"""
IOCTL_IN: Final = struct.Struct("=QIIQII")
"""handle, flags, command, argument, size of what comes with it, size of the caller's buffer; then the data"""
STATX_IN: Final = struct.Struct("=IIQII")
"""flags of GETATTR, padding, handle, flags of statx(2), mask"""

# --- replies; each begins with the header
INIT_REPLY: Final = struct.Struct(_REPLY + "IIIIHHIIHHI28x")
"""major, minor, largest read-ahead, features, max_background, congestion threshold, largest write, granularity of
times in ns, most pages of a request, map alignment, upper half of the features, unused"""
ENTRY_REPLY: Final = struct.Struct(_REPLY + _ENTRY)
ATTRIBUTES_REPLY: Final = struct.Struct(_REPLY + "QII" + _ATTRIBUTES)
"""seconds and nanoseconds for which the attributes hold, padding; then the attributes"""
CREATE_REPLY: Final = struct.Struct(_REPLY + _ENTRY + "QIi")
"""as `ENTRY_REPLY`, then as `OPEN_REPLY`"""
OPEN_REPLY: Final = struct.Struct(_REPLY + "QIi")
"""handle, flags (`OpenFlag`), backing file (unused)"""
WRITE_REPLY: Final = struct.Struct(_REPLY + "II")
"""bytes written, padding; for COPY_FILE_RANGE too, and the size of xattrs where none were asked for"""
OFFSET_REPLY: Final = struct.Struct(_REPLY + "Q")
"""an offset, for LSEEK"""
STATFS_REPLY: Final = struct.Struct(_REPLY + "QQQQQIIII24x")
"""blocks, free, available, files, free files, block size, longest name, fragment size, padding"""
IOCTL_REPLY: Final = struct.Struct(_REPLY + "iIII")
"""result, flags, iovecs to read, iovecs to write; then the data"""
STATX_REPLY: Final = struct.Struct(_REPLY + "QII16x" + "IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")
"""seconds and nanoseconds for which it holds, flags; then mask, blksize, attributes, nlink, uid, gid, mode, padding,
ino, size, blocks, mask of attributes; seconds, nanoseconds, padding of atime, birth, ctime, mtime; device numbers"""

# --- parts of replies
DIRECTORY_ENTRY: Final = struct.Struct("=QQII")
"""inode, cookie of the next entry, length of the name, type; then the name, filled up to a multiple of 8"""
DIRECTORY_ENTRY_PLUS: Final = struct.Struct("=" + _ENTRY + "QQII")
"""the same behind what LOOKUP would have replied"""
INVALIDATE_INODE: Final = struct.Struct(_REPLY + "Qqq")
"""inode, offset (negative: attributes only), length (0: to the end)"""
INVALIDATE_ENTRY: Final = struct.Struct(_REPLY + "QII")
"""inode of the directory, length of the name, flags; then the name"""
