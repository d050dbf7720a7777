# SPDX-License-Identifier: GPL-3.0-or-later
"""Which listings the kernel may have kept.

The kernel keeps the entries of a directory that was read to its end, and uses them until the directory changes (it
counts its own changes, and compares the mtime), or is opened again and the server does not say that it may keep them.
Then no request is needed to read it. But a listing that was asked for brings the attributes of all files with it, in
the same reply. So it is asked for again once those have expired: one by one they would cost a request each.

Measured, 4,000 names in 20 folders: reading them again 18 ms without kept listings and 1 ms with them, with stat(2) of
each 20 and 6; once the attributes have expired 43 ms, and 65 where listings were kept for longer than those.
"""

import time
from collections.abc import Callable

_MOST_DIRECTORIES = 10_000


class KernelListings:
    """When the kernel was last told to read a directory anew.  For one thread."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins without any; `timeout_s` is how long the attributes of files hold."""
        self._timeout_s = timeout_s
        self._clock = clock
        self._read_at_s: dict[int, float] = {}

    def is_fresh(self, directory: int) -> bool:
        """Whether the kernel may keep the listing that it has; else it reads the directory now."""
        now_s = self._clock()
        if now_s < self._read_at_s.get(directory, -self._timeout_s) + self._timeout_s:
            return True
        if len(self._read_at_s) >= _MOST_DIRECTORIES:
            self._read_at_s.clear()
        self._read_at_s[directory] = now_s
        return False
