# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognises programs that read a file from front to back, and says what to fetch ahead.

The kernel sends sequential reads in pieces of at most 128 KiB, two in flight, not always in order. A reader counts as
sequential when a read begins near where the furthest one ended. The window doubles with each step from `FIRST_BYTES` to
`LARGEST_BYTES`, so a short file costs little and a long one keeps the connection busy; a reader that jumps starts anew,
and for one that jumps every time nothing is fetched ahead.
"""

FIRST_BYTES = 1 << 20
LARGEST_BYTES = 32 << 20
_NEAR_BYTES = 256 << 10


class ReadAhead:
    """The reads of one handle so far."""

    __slots__ = ("_furthest", "_latest", "_prefetched_to", "_reads_in_sequence", "_window")

    def __init__(self) -> None:
        self._furthest = 0
        self._prefetched_to = 0  # everything before this was asked for already
        self._reads_in_sequence = 0  # reads in sequence
        self._latest = (0, 0)
        self._window = FIRST_BYTES

    def record_read(self, start: int, end: int) -> tuple[int, int] | None:
        """Records a read of ``[start, end)``.

        The same range again is the same read, which was tried without waiting first: it is no step of a sequence.

        Returns:
            the range to fetch ahead now, if any.
        """
        if (start, end) == self._latest:
            return None
        self._latest = (start, end)
        if abs(start - self._furthest) > _NEAR_BYTES:
            self._reads_in_sequence, self._window, self._prefetched_to = 0, FIRST_BYTES, end
        self._reads_in_sequence += 1
        self._furthest = max(end, self._furthest if self._reads_in_sequence > 1 else 0)
        if self._reads_in_sequence < 2 or self._prefetched_to - end > self._window // 2:
            return None
        begin = max(self._prefetched_to, end)
        self._prefetched_to = end + self._window
        self._window = min(2 * self._window, LARGEST_BYTES)
        return begin, self._prefetched_to
