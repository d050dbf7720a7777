# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognises who reads a file from front to back, and says what to fetch ahead.

The kernel sends sequential reads in pieces of at most 128 KiB, two in flight, not always in order.  A reader counts
as sequential when a read begins near where the furthest one ended.  The window doubles with each step from
`FIRST_BYTES` to `LARGEST_BYTES`, so a short file costs little and a long one keeps the connection busy; a reader that
jumps starts anew, and one that jumps every time fetches nothing ahead.
"""

FIRST_BYTES = 1 << 20
LARGEST_BYTES = 32 << 20
_NEAR_BYTES = 256 << 10


class ReadAhead:
    """What is known of the reader behind one handle."""

    __slots__ = ("_asked", "_furthest", "_latest", "_run", "_window")

    def __init__(self) -> None:
        self._furthest = 0
        self._asked = 0  # everything before this was asked for already
        self._run = 0  # reads in sequence
        self._latest = (0, 0)
        self._window = FIRST_BYTES

    def seen(self, start: int, end: int) -> tuple[int, int] | None:
        """Takes note of a read of ``[start, end)``; the range to fetch ahead now, if any.

        The same range again is the same read, tried without waiting first: it is no step of a sequence.
        """
        if (start, end) == self._latest:
            return None
        self._latest = (start, end)
        if abs(start - self._furthest) > _NEAR_BYTES:
            self._run, self._window, self._asked = 0, FIRST_BYTES, end
        self._run += 1
        self._furthest = max(end, self._furthest if self._run > 1 else 0)
        if self._run < 2 or self._asked - end > self._window // 2:
            return None
        begin = max(self._asked, end)
        self._asked = end + self._window
        self._window = min(2 * self._window, LARGEST_BYTES)
        return begin, self._asked
