# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a copy is: reports for a progress bar, and sums for the result."""

from collections.abc import Callable
from typing import Any

Report = Callable[[dict[str, Any]], None]
"""Called with ``{"what": text, "done": bytes, "total": bytes}``."""


class CopyProgress:
    """Counts bytes of one step after the other; for one thread.

    Attributes:
        read_bytes: plain bytes of blocks that were read from the source, in all steps.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._prefix = self._what = ""
        self._done = self._total = 0
        self.read_bytes = 0

    def of_snapshot(self, number: int, count: int) -> None:
        """What follows is about this snapshot of so many."""
        self._prefix = f"snapshot {number} of {count}: " if count > 1 else ""

    def begin(self, what: str, total_bytes: int = 0) -> None:
        """Another step begins."""
        self._what, self._done, self._total = what, 0, total_bytes
        self._show()

    def read(self, size_bytes: int) -> None:
        """So many bytes were read, and are done."""
        self.read_bytes += size_bytes
        self.skip(size_bytes)

    def skip(self, size_bytes: int) -> None:
        """So many bytes are done, as nothing has to be done about them."""
        self._done += size_bytes
        self._show()

    def restored(self, done: int, total: int) -> None:
        """So much of an index was read; may be called by any thread."""
        self._report({"what": f"{self._prefix}reading the index", "done": done, "total": total})

    def _show(self) -> None:
        self._report({"what": self._prefix + self._what, "done": self._done, "total": self._total})
