# SPDX-License-Identifier: GPL-3.0-or-later
"""A limit on the bytes that are being processed.

One condition variable; nothing else is locked or waited for while it is held.
"""

import threading

from cas3fs.errors import StoreError


class ByteBudget:
    """Makes callers wait while `limit_bytes` are in use.

    Some of the bytes may be *idle*: they are released only after more bytes are added. Nothing waits for idle bytes, as
    it would wait for ever.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used_bytes = 0
        self._idle_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def used_bytes(self) -> int:
        """How many bytes are in use."""
        return self._used_bytes

    def take(self, size_bytes: int) -> None:
        """Wait until `size_bytes` fit. If all bytes in use are idle, any size fits.

        Raises:
            StoreError: the budget is closed, perhaps while the call waited.
        """
        with self._changed:
            while not self._closed and self._has_active_bytes() and self._used_bytes + size_bytes > self.limit_bytes:
                self._changed.wait()
            if self._closed:
                raise StoreError("the block was not stored: the block writer is closed")
            self._used_bytes += size_bytes

    def try_take(self, size_bytes: int) -> bool:
        """Take `size_bytes` if they fit now; False if they do not, or if the budget is closed."""
        with self._changed:
            fits = not self._closed and self._used_bytes + size_bytes <= self.limit_bytes
            if fits:
                self._used_bytes += size_bytes
            return fits

    def resize(self, size_bytes: int, new_bytes: int) -> None:
        """Change the size of bytes that were taken, without waiting even if it grows."""
        with self._changed:
            self._used_bytes += new_bytes - size_bytes
            self._changed.notify_all()

    def release(self, size_bytes: int) -> None:
        """Return bytes that were taken."""
        self.resize(size_bytes, 0)

    def add_idle(self, more_bytes: int) -> None:
        """Mark so many more bytes as idle; fewer if negative."""
        with self._changed:
            self._idle_bytes += more_bytes
            self._changed.notify_all()

    def _has_active_bytes(self) -> bool:
        return self._used_bytes > self._idle_bytes

    def close(self) -> None:
        """Fail every caller that waits, and all later ones."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
