# SPDX-License-Identifier: GPL-3.0-or-later
"""Sums of the chunks of a file: what its inode says of them, so that a chunk that goes without anybody taking it out,
or that is again as it once was, is noticed.

A disk may lose a write, or give back a page of the index as it was before: SQLite finds nothing wrong with that, and
the bytes of the file would read as zeros, or as those of an older content. So who changes chunks adds the difference
to two numbers in the inode's row: how many chunks there are, and the sum of a *mark* of each. A mark is

    (block mod p) * ((3 * offset + 5 * length + 7 * skip + 1) mod p) mod p,    p = 2**31 - 1

so that another block, place or length makes another sum. Rows and sums lie in different pages.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

PRIME: Final = 2**31 - 1
MARK: Final = (
    f"{{0}}block % {PRIME} * (({{0}}offset % {PRIME} * 3 + {{0}}length % {PRIME} * 5 + {{0}}skip % {PRIME} * 7 + 1) "
    f"% {PRIME}) % {PRIME}"
)
"""SQL of the mark of a row, of positive numbers; the name of the table, with a dot, is to be filled in."""

SUM_UP: Final = (
    "UPDATE inodes SET chunk_count = (SELECT count(*) FROM chunks c WHERE c.inode = inodes.id), chunk_sum = "
    f"(SELECT coalesce(sum({MARK.format('c.')}), 0) FROM chunks c WHERE c.inode = inodes.id)"
)
"""SQL that lets the sums be what the chunks say."""


class Sums(NamedTuple):
    """How many chunks there are, and the sum of their marks; or a difference of such."""

    number: int
    total: int

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.number - other.number, self.total - other.total)


NO_SUMS: Final = Sums(0, 0)


def mark(offset: int, length: int, block: int, skip: int) -> int:
    """The mark of a chunk."""
    return block % PRIME * ((offset % PRIME * 3 + length % PRIME * 5 + skip % PRIME * 7 + 1) % PRIME) % PRIME


def sums_of(rows: Iterable[tuple[int, int, int, int]]) -> Sums:
    """Sums of chunks (offset, length, block, skip)."""
    marks = [mark(*row) for row in rows]
    return Sums(len(marks), sum(marks))
