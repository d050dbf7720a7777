# SPDX-License-Identifier: GPL-3.0-or-later
"""Which listings the kernel may keep.

The kernel keeps the entries of a directory that was read to its end, and uses them until the directory changes (it
counts its own changes, and compares the mtime), or is opened again and the server does not say that it may keep them.
Then no request is needed to read it. But a listing that was asked for brings the attributes of all files with it, in
the same reply. So it is asked for again once those have expired: one by one they would cost a request each.

The kernel checks whether what it keeps is still right only where a program reads a directory from the start. If two
programs read at once, the end that the first one reads completes a listing that it began before a change, and the
second one, in the middle, goes on in that: it sees names that were deleted before it began (`fuse_readdir_cached` in
fs/fuse/readdir.c, Linux 6.18). So while one open directory may fill or use what is kept, no other one of the same
directory does.

Measured, 4,000 names in 20 folders: reading them again 18 ms without kept listings and 1 ms with them, with stat(2) of
each 20 and 6; once the attributes have expired 43 ms, and 65 where listings were kept for longer than those.
"""

import time
from collections.abc import Callable
from typing import Final

from cas3fs.fuse.kernel.protocol import OpenFlag

_MOST_DIRECTORIES: Final = 10_000


class KernelListings:
    """What each open directory is told of kept listings.  For one thread."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins without any; `timeout_s` is how long the attributes of files hold."""
        self._timeout_s = timeout_s
        self._clock = clock
        self._read_at_s: dict[int, float] = {}
        self._keeping: dict[int, int] = {}
        """By directory: its open handle that may fill or use what is kept."""
        self._kept_by: dict[int, int] = {}
        """The same by handle: its directory."""

    def opened(self, directory: int, handle: int) -> int:
        """The flags with which the kernel opens a directory."""
        if directory in self._keeping:
            return OpenFlag.KEEP_CACHE
        self._keeping[directory] = handle
        self._kept_by[handle] = directory
        return OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE if self._is_fresh(directory) else OpenFlag.CACHE_DIR

    def released(self, handle: int) -> None:
        """The kernel has closed the handle, so it reads no more through it."""
        directory = self._kept_by.pop(handle, None)
        if directory is not None:
            del self._keeping[directory]

    def _is_fresh(self, directory: int) -> bool:
        """Whether the kernel may use the listing that it has; else it reads the directory now."""
        now_s = self._clock()
        if now_s < self._read_at_s.get(directory, -self._timeout_s) + self._timeout_s:
            return True
        if len(self._read_at_s) >= _MOST_DIRECTORIES:
            self._read_at_s.clear()
        self._read_at_s[directory] = now_s
        return False
