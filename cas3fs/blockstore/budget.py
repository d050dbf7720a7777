# SPDX-License-Identifier: GPL-3.0-or-later
"""A bound on bytes under way.

One condition variable; nothing else is locked or waited for while it is held.
"""

import threading

from cas3fs.errors import StoreError


class ByteBudget:
    """Who adds bytes waits while there are `limit_bytes` under way.

    Some of them may *rest*: they move on only when more come. So nobody waits for these, as he would do so for ever.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used_bytes = 0
        self._resting_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def used_bytes(self) -> int:
        """What is under way now."""
        return self._used_bytes

    def take(self, size_bytes: int) -> None:
        """Wait until `size_bytes` fit; beside what rests, even more than the limit does.

        Raises:
            StoreError: closed, perhaps while waiting.
        """
        with self._changed:
            while not self._closed and self._is_moving() and self._used_bytes + size_bytes > self.limit_bytes:
                self._changed.wait()
            if self._closed:
                raise StoreError("nothing is stored any more: the block writer is closed")
            self._used_bytes += size_bytes

    def offer(self, size_bytes: int) -> bool:
        """Take `size_bytes` if they fit now; False if they do not, or if closed."""
        with self._changed:
            fits = not self._closed and self._used_bytes + size_bytes <= self.limit_bytes
            if fits:
                self._used_bytes += size_bytes
            return fits

    def resize(self, size_bytes: int, new_bytes: int) -> None:
        """What was taken as `size_bytes` has become `new_bytes`; if that is more, it waits for nothing."""
        with self._changed:
            self._used_bytes += new_bytes - size_bytes
            self._changed.notify_all()

    def release(self, size_bytes: int) -> None:
        """Give back what was taken."""
        self.resize(size_bytes, 0)

    def rest(self, more_bytes: int) -> None:
        """So many more of the bytes under way rest now; fewer, if it is negative."""
        with self._changed:
            self._resting_bytes += more_bytes
            self._changed.notify_all()

    def _is_moving(self) -> bool:
        return self._used_bytes > self._resting_bytes

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
