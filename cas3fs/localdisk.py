# SPDX-License-Identifier: GPL-3.0-or-later
"""The system calls with which staging and the disk cache use the local disk.

They are methods of one object, so that tests can pass one that fails (`cas3fs.testing.faulty_disk`).
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from cas3fs.values import Buffer

_WAIT_BEFORE = 1  # SYNC_FILE_RANGE_WAIT_BEFORE
_NOWHERE = 1 << 62
_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


class LocalDisk:
    """The local disk; a `descriptor` is that of an open file.

    It has no state: any thread may call any method. Every method may raise OSError.
    """

    def __init__(self) -> None:
        self._sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
        if self._sync_file_range is not None:
            self._sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def open(self, path: str | Path, flags: int, mode: int = 0o600) -> int:
        """As open(2); the descriptor is closed on exec."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, descriptor: int) -> None:
        """As close(2)."""
        os.close(descriptor)

    def read_into(self, descriptor: int, into: memoryview, offset: int) -> int:
        """As preadv(2): returns how many bytes were read, 0 at the end."""
        return os.preadv(descriptor, [into], offset)

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        """As pread(2)."""
        return os.pread(descriptor, length, offset)

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        """As pwrite(2)."""
        return os.pwrite(descriptor, data, offset)

    def append(self, descriptor: int, pieces: Sequence[Buffer]) -> int:
        """As writev(2)."""
        return os.writev(descriptor, pieces)

    def sync(self, descriptor: int) -> None:
        """As fdatasync(2)."""
        os.fdatasync(descriptor)

    def sync_folder(self, descriptor: int) -> None:
        """As fsync(2) of a folder."""
        os.fsync(descriptor)

    def check(self, descriptor: int) -> None:
        """Raise the error of an earlier write that the system failed to bring to the disk; does not wait.

        Such an error is reported once, by this or by `sync`.
        """
        if self._sync_file_range is None:
            return
        if self._sync_file_range(descriptor, _NOWHERE, 1, _WAIT_BEFORE) and (number := ctypes.get_errno()) in _LOST:
            raise OSError(number, os.strerror(number))

    def truncate(self, descriptor: int, size: int) -> None:
        """Shorten a longer file to that size."""
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)

    def rename(self, path: Path, other: Path) -> None:
        """As rename(2)."""
        path.rename(other)

    def unlink(self, path: Path) -> None:
        """As unlink(2); a missing file is ignored."""
        path.unlink(missing_ok=True)

    def free_bytes(self, folder: str | Path) -> int:
        """How many bytes an ordinary user may still write on the disk of that folder."""
        state = os.statvfs(folder)
        return state.f_bavail * state.f_frsize
