# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls for which Python has no function."""

import ctypes
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def renameat2(old: Path, new: Path, flags: int) -> None:
    """Call renameat2(2).

    Raises:
        OSError: the call failed.
    """
    _check(_LIBC.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))


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


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
