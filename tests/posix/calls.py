# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls for which Python has no function."""

import ctypes
import os
from pathlib import Path
from typing import Self

_LIBC = ctypes.CDLL(None, use_errno=True)
_opendir, _readdir, _telldir = _LIBC.opendir, _LIBC.readdir, _LIBC.telldir
_opendir.restype = _readdir.restype = ctypes.c_void_p
_telldir.restype = ctypes.c_long
_NAME_OFFSET = 19
"""Of d_name in a struct dirent of 64-bit Linux."""
_AT_FDCWD = -100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
_LONGEST_HANDLE = 128
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def renameat2(
    old: Path | bytes, new: Path | bytes, flags: int, *, src_dir_fd: int = _AT_FDCWD, dst_dir_fd: int = _AT_FDCWD
) -> None:
    """Call renameat2(2).

    Raises:
        OSError: the call failed.
    """
    _check(_LIBC.renameat2(src_dir_fd, os.fsencode(old), dst_dir_fd, os.fsencode(new), flags))


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Call utimensat(2); times are (seconds, nanoseconds), and nanoseconds may be `NOW` or `OMIT`.

    Raises:
        OSError: the call failed.
    """
    times = (_Time * 2)(_Time(*atime), _Time(*mtime))
    _check(_LIBC.utimensat(_AT_FDCWD, os.fsencode(path), times, 0))


def fallocate(file: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2).

    Raises:
        OSError: the call failed.
    """
    _check(_LIBC.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)))


class _Handle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("type", ctypes.c_int), ("content", ctypes.c_ubyte * _LONGEST_HANDLE))


FileHandle = tuple[int, bytes]
"""Its type and its bytes, which a file system chooses."""


def name_to_handle_at(path: Path) -> FileHandle:
    """Call name_to_handle_at(2).

    Raises:
        OSError: the call failed.
    """
    handle, mount = _Handle(_LONGEST_HANDLE), ctypes.c_int()
    _check(_LIBC.name_to_handle_at(_AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0))
    return handle.type, bytes(handle.content[: handle.size])


def open_by_handle_at(mount: int, handle: FileHandle, flags: int) -> int:
    """Call open_by_handle_at(2), with a descriptor of any directory of the file system.

    Raises:
        OSError: the call failed.
    """
    kind, content = handle
    opened: int = _LIBC.open_by_handle_at(
        mount, ctypes.byref(_Handle(len(content), kind, (ctypes.c_ubyte * _LONGEST_HANDLE)(*content))), flags
    )
    _check(opened < 0)
    return opened


class DirectoryStream:
    """A directory that is open by opendir(3), as Python's functions cannot seek in one."""

    def __init__(self, path: Path) -> None:
        self._stream = ctypes.c_void_p(_opendir(os.fsencode(path)))
        _check(not self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _LIBC.closedir(self._stream)

    def read(self) -> str | None:
        """The next name; None at the end."""
        entry = _readdir(self._stream)
        return os.fsdecode(ctypes.string_at(entry + _NAME_OFFSET)) if entry else None

    def tell(self) -> int:
        """Where the next name is; telldir(3)."""
        return _telldir(self._stream)

    def seek(self, position: int) -> None:
        """Go to where `tell` was; seekdir(3)."""
        _LIBC.seekdir(self._stream, ctypes.c_long(position))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
