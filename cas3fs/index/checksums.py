# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of the chunks of a file: what its inode says of them, so that a lost or outdated chunk is noticed.

A disk may lose a write, or give back a page of the index as it was before: SQLite finds nothing wrong with that, and
the bytes of the file would read as zeros, or as those of an older content. So whatever changes chunks adds the
difference to three numbers in the inode's row: how many chunks there are, how many bytes they hold, and the sum of a
checksum of each. That is

    (block mod p) * ((3 * offset + 5 * length + 7 * skip + 1) mod p) mod p,    p = 2**31 - 1

so that another block, place or length makes another sum. Chunks and checksums lie in different pages.
"""

import stat
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Executable,
    ScalarSelect,
    Select,
    Subquery,
    Update,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)

from cas3fs.index.statement import OrderedJoin, Statement
from cas3fs.index.tables import chunks, inodes

PRIME: Final = 2**31 - 1


class ChunkChecksum(NamedTuple):
    """How many chunks there are, the sum of their checksums, and of their lengths; or a difference of such."""

    number: int
    total: int
    size_bytes: int

    def __sub__(self, other: "ChunkChecksum") -> "ChunkChecksum":
        return ChunkChecksum(self.number - other.number, self.total - other.total, self.size_bytes - other.size_bytes)


EMPTY_CHECKSUM: Final = ChunkChecksum(0, 0, 0)
NOTED: Final = (inodes.c.chunk_count, inodes.c.chunk_sum, inodes.c.chunk_bytes)
"""The columns of an inode's row that are a `ChunkChecksum`, in its order."""


def row_checksum(offset: Any, length: Any, block: Any, skip: Any) -> Any:
    """The checksum of one chunk: a number of numbers, a SQL expression of columns."""
    return block % PRIME * ((offset % PRIME * 3 + length % PRIME * 5 + skip % PRIME * 7 + 1) % PRIME) % PRIME


def checksum_of(rows: Iterable[tuple[int, int, int, int]]) -> ChunkChecksum:
    """The checksum of chunks (offset, length, block, skip)."""
    number = total = size_bytes = 0
    for row in rows:
        number += 1
        total += row_checksum(*row)
        size_bytes += row[1]
    return ChunkChecksum(number, total, size_bytes)


def sums_of_rows() -> tuple[ColumnElement[Any], ...]:
    """SQL: the `ChunkChecksum` of rows of `chunks`, in its order; zeros where there are none."""
    total = func.sum(row_checksum(chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip))
    return func.count(), func.coalesce(total, 0), func.coalesce(func.sum(chunks.c.length), 0)


def set_to(values: Iterable[Any]) -> dict[str, Any]:
    """SQL: what sets the columns of a checksum, in the order of `ChunkChecksum`, in an update of inodes."""
    return {column.name: value for column, value in zip(NOTED, values, strict=True)}


def raised_by(values: Iterable[Any]) -> dict[str, Any]:
    """SQL: as `set_to`, what adds a difference to them."""
    return set_to(column + value for column, value in zip(NOTED, values, strict=True))


def recomputed() -> Update:
    """SQL: the checksums of inodes become those of their chunks."""
    mine = chunks.c.inode == inodes.c.id

    def of_chunks(value: ColumnElement[Any]) -> ScalarSelect[Any]:
        return select(value).select_from(chunks).where(mine).scalar_subquery()

    return update(inodes).values(set_to(map(of_chunks, sums_of_rows())))


RECOMPUTE_CHECKSUMS: Final = Statement(recomputed)
"""Of all inodes."""


def mismatched_files() -> Executable:
    """SQL: the regular files whose chunks do not match the checksum, with the numbers `noted` and `counted`.

    It reads both tables in the order of their primary keys, so that a million files take a second and no memory.
    """
    counted = _counted(_by_inode())
    is_file = inodes.c.mode.bitwise_and(stat.S_IFMT(0o177777)) == stat.S_IFREG
    return union_all(
        select(inodes.c.id.label("inode"), inodes.c.chunk_count.label("noted"), counted.c.number.label("counted"))
        .select_from(OrderedJoin(counted, inodes, inodes.c.id == counted.c.inode))
        .where(is_file, _differs(counted)),
        select(inodes.c.id, inodes.c.chunk_count, literal(0)).where(is_file, _lacks_chunks()),
    )


def mismatch_count(after: ColumnElement[int], upto: ColumnElement[int]) -> Executable:
    """SQL: how many numbers of inodes in (after, upto] have chunks that do not match the checksum of such an inode."""
    counted = _counted(_by_inode().where(chunks.c.inode > after, chunks.c.inode <= upto))
    found = union_all(
        select(counted.c.inode)
        .select_from(counted.outerjoin(inodes, inodes.c.id == counted.c.inode))
        .where(inodes.c.id.is_(None) | _differs(counted)),
        select(inodes.c.id).where(inodes.c.id > after, inodes.c.id <= upto, _lacks_chunks()),
    )
    return select(func.count()).select_from(found.subquery("mismatched"))


def _by_inode() -> Select[Any]:
    labelled = (value.label(name) for name, value in zip(ChunkChecksum._fields, sums_of_rows(), strict=True))
    return select(chunks.c.inode, *labelled).group_by(chunks.c.inode)


def _counted(query: Select[Any]) -> Subquery:
    return query.subquery("counted")


def _differs(counted: Subquery) -> ColumnElement[bool]:
    return or_(*(noted != counted.c[name] for name, noted in zip(ChunkChecksum._fields, NOTED, strict=True)))


def _lacks_chunks() -> ColumnElement[bool]:
    """The inode has a checksum, and no chunk at all."""
    has_checksum = or_(*(noted != 0 for noted in NOTED))
    return has_checksum & ~exists().where(chunks.c.inode == inodes.c.id)
