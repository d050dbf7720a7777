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
ROW_CHECKSUM: Final = (
    f"{{0}}block % {PRIME} * (({{0}}offset % {PRIME} * 3 + {{0}}length % {PRIME} * 5 + {{0}}skip % {PRIME} * 7 + 1) "
    f"% {PRIME}) % {PRIME}"
)
"""SQL of the mark of a row, of positive numbers; the name of the table, with a dot, is to be filled in."""

RECOMPUTE_CHECKSUMS: Final = (
    "UPDATE inodes SET chunk_count = (SELECT count(*) FROM chunks c WHERE c.inode = inodes.id), chunk_sum = "
    f"(SELECT coalesce(sum({ROW_CHECKSUM.format('c.')}), 0) FROM chunks c WHERE c.inode = inodes.id)"
)
"""SQL that lets the sums be what the chunks say."""

_OF_CHUNKS: Final = f"SELECT inode, count(*) AS number, sum({ROW_CHECKSUM.format('')}) AS total FROM chunks "
_NO_CHUNKS: Final = "NOT EXISTS (SELECT 1 FROM chunks c WHERE c.inode = i.id)"
_UNLIKE: Final = "(i.chunk_count <> s.number OR i.chunk_sum <> s.total)"
# each in the order of the primary keys, so that a million files take a second and no memory
MISMATCHED_FILES: Final = (
    "SELECT i.id AS inode, i.chunk_count AS noted, s.number AS counted "
    f"FROM ({_OF_CHUNKS} GROUP BY inode) s CROSS JOIN inodes i ON i.id = s.inode "
    f"WHERE (i.mode & 61440) = 32768 AND {_UNLIKE} UNION ALL "
    "SELECT i.id, i.chunk_count, 0 FROM inodes i "
    f"WHERE (i.mode & 61440) = 32768 AND (i.chunk_count <> 0 OR i.chunk_sum <> 0) AND {_NO_CHUNKS}"
)
"""SQL that gives the files of which the chunks are not what the sums say."""
MISMATCH_COUNT: Final = (
    "SELECT count(*) FROM (SELECT s.inode FROM "
    f"({_OF_CHUNKS} WHERE inode > :p_after AND inode <= :p_upto GROUP BY inode) s "
    f"LEFT JOIN inodes i ON i.id = s.inode WHERE i.id IS NULL OR {_UNLIKE} UNION ALL "
    "SELECT i.id FROM inodes i WHERE i.id > :p_after AND i.id <= :p_upto "
    f"AND (i.chunk_count <> 0 OR i.chunk_sum <> 0) AND {_NO_CHUNKS}) AS unlike"
)
"""SQL that counts the numbers in a range under which there are other chunks than an inode says."""


class ChunkChecksum(NamedTuple):
    """How many chunks there are, and the sum of their marks; or a difference of such."""

    number: int
    total: int

    def __sub__(self, other: "ChunkChecksum") -> "ChunkChecksum":
        return ChunkChecksum(self.number - other.number, self.total - other.total)


EMPTY_CHECKSUM: Final = ChunkChecksum(0, 0)


def row_checksum(offset: int, length: int, block: int, skip: int) -> int:
    """The mark of a chunk."""
    return block % PRIME * ((offset % PRIME * 3 + length % PRIME * 5 + skip % PRIME * 7 + 1) % PRIME) % PRIME


def checksum_of(rows: Iterable[tuple[int, int, int, int]]) -> ChunkChecksum:
    """Sums of chunks (offset, length, block, skip)."""
    number = total = 0
    for row in rows:
        number += 1
        total += row_checksum(*row)
    return ChunkChecksum(number, total)
