# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on ranges of files: where data and holes are, and fallocate(2).

A range that is punched or zeroed becomes a hole of the file's top layer, and of its chunk list when that layer is
stored. Nothing is ever reserved: where fallocate(2) is to reserve space, it sets the size, and no more.
"""

import errno
import os
from collections.abc import Callable

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.limits import SIZE_MAX
from cas3fs.filesystem.operations.files import Files
from cas3fs.filesystem.reading.holes import data_ranges, seek_step
from cas3fs.filesystem.state.extents import Range
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inode_flags import APPEND, refuse_if
from cas3fs.filesystem.state.inodes import Inode

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
"""Modes of fallocate(2)."""
_MODES = frozenset({0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE})
_FIRST_WINDOW_BYTES = 16 << 20
_SEEK_ATTEMPTS = 4

WriteBack = Callable[[int, int, int], bool]
"""Given the number of an inode and a range of it."""


class Ranges:
    """The operations on ranges; each takes the lock itself."""

    def __init__(self, state: FileSystemState, files: Files) -> None:
        self._state = state
        self._files = files
        self._lock = state.lock
        self._chunks = state.index.chunks

    # -- data and holes

    def seek_now(self, handle: int, position: int, whence: int) -> int | None:
        """As `seek` where few chunks have to be looked at, and nothing has to be written back first, else None."""
        with self._lock:
            inode = self._files.opened(handle).inode
            _check_position(inode, position, whence)
            place, is_found = self._step(inode, position, _FIRST_WINDOW_BYTES, whence)
            if not is_found or (inode.writers and place != (position if whence == os.SEEK_DATA else inode.size)):
                return None
            return _found(inode, place, whence)

    def seek(self, handle: int, position: int, whence: int, write_back: WriteBack | None = None) -> int:
        """Where data, or a hole, begin from `position` on, as lseek(2) with SEEK_DATA or SEEK_HOLE.

        The end of the file is a hole. A long search releases the lock again and again.

        A front-end's kernel may have bytes of a file that is open for writing and not know that they are of interest:
        `write_back` has it write those of a range, without any lock, before that is said to be a hole. Where it returns
        False, because it cannot, no hole is told.

        Raises:
            FileSystemError: ENXIO, `position` is not in the file, or no data follow; EINVAL.
        """
        with self._lock:
            inode = self._files.opened(handle).inode
        for _ in range(_SEEK_ATTEMPTS):
            _check_position(inode, position, whence)
            place = self._search(inode, position, whence)
            start, end = (position, place) if whence == os.SEEK_DATA else (place, self._following_data(inode, place))
            if write_back is None or not inode.writers or start >= end:
                return _found(inode, place, whence)
            if not write_back(inode.number, start, end):
                break
            if self._following_data(inode, start) >= end:
                return _found(inode, place, whence)
        return position if whence == os.SEEK_DATA else inode.size

    def _following_data(self, inode: Inode, position: int) -> int:
        return self._search(inode, position, os.SEEK_DATA) if position < inode.size else position

    def next_data(self, number: int, position: int) -> int | None:
        """Where data begin from `position` on; None when there are none."""
        with self._lock:
            inode = self._state.inodes.get(number)
        found = self._search(inode, position, os.SEEK_DATA)
        return found if found < inode.size else None

    def _search(self, inode: Inode, position: int, whence: int) -> int:
        window, is_found = _FIRST_WINDOW_BYTES, False
        while not is_found:
            with self._lock:
                position, is_found = self._step(inode, position, window, whence)
            window *= 2
        return position

    def _step(self, inode: Inode, position: int, window: int, whence: int) -> tuple[int, bool]:
        return seek_step(self._chunks, inode, position, window, to_data=whence == os.SEEK_DATA)

    def data_ranges(self, number: int, start: int, end: int) -> list[Range]:
        """The parts of ``[start, end)`` that hold data, ascending; the rest are holes."""
        with self._lock:
            return data_ranges(self._chunks, self._state.inodes.get(number), start, end)

    # -- fallocate

    def allocate(self, handle: int, offset: int, length: int, mode: int) -> None:
        """As fallocate(2): sets the size, makes a hole, or zeros. No space is reserved. Never waits.

        Raises:
            FileSystemError: EOPNOTSUPP, the mode is another one; EBADF, EINVAL, EFBIG, EROFS; EPERM, a flag forbids it;
                ENOSPC, the local disk is nearly full, and the mode makes no hole.
        """
        if mode not in _MODES:
            raise FileSystemError(errno.EOPNOTSUPP)
        if offset < 0 or length <= 0:
            raise FileSystemError(errno.EINVAL)
        if (end := offset + length) > SIZE_MAX:
            raise FileSystemError(errno.EFBIG)
        access, staging = self._state.access, self._state.staging
        with self._lock:
            if mode & PUNCH_HOLE:
                access.check_removal()
            else:
                access.check_change()
            inode = self._files.begin_change(handle)
            refuse_if(inode.flags & APPEND and mode & ~KEEP_SIZE)
            if mode & (PUNCH_HOLE | ZERO_RANGE):
                staging.punch(inode, offset, end)
            if not mode & KEEP_SIZE:
                inode.size = max(inode.size, end)
            inode.mtime_ns, inode.ctime_ns = self._files.times_of_change(inode)
            staging.update_active_layer(inode)


def _check_position(inode: Inode, position: int, whence: int) -> None:
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise FileSystemError(errno.EINVAL)
    if not 0 <= position < inode.size:
        raise FileSystemError(errno.ENXIO)


def _found(inode: Inode, place: int, whence: int) -> int:
    if whence == os.SEEK_DATA and place >= inode.size:
        raise FileSystemError(errno.ENXIO)
    return place
