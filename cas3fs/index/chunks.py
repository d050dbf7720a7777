# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunk lists: which block stands where in a file.

The chunks of a file never overlap, so at most one that begins before a position reaches beyond it: the last of those.
Every query for a range therefore begins at that one, found by one step in the primary key, and reads on from there.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, literal_column, select, update

from cas3fs.errors import BlockMissing
from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Statement, count_param, param
from cas3fs.index.tables import blocks, chunks, inodes, packs
from cas3fs.values import BlockLocation, ChunkSpan

NewRow = tuple[int, int, int, int]
"""A chunk to be entered: (offset, length, id of the block, skip)."""


def _overlap() -> ColumnElement[Any]:
    """Chunks of `inode` that overlap [start, end)."""
    before = chunks.alias("before")
    first = (
        select(func.max(before.c.offset))
        .where(before.c.inode == param("inode"), before.c.offset <= param("start"))
        .scalar_subquery()
    )
    return (
        (chunks.c.inode == param("inode"))
        & (chunks.c.offset >= func.coalesce(first, param("start")))
        & (chunks.c.offset < param("end"))
        & (chunks.c.offset + chunks.c.length > param("start"))
    )


_SPANS = Prepared(
    select(
        chunks.c.offset,
        chunks.c.length,
        chunks.c.skip,
        blocks.c.hash,
        packs.c.name,
        blocks.c.offset,
        blocks.c.stored_length,
        blocks.c.plain_length,
    )
    .select_from(chunks.outerjoin(blocks, blocks.c.id == chunks.c.block).outerjoin(packs, packs.c.id == blocks.c.pack))
    .where(_overlap())
    .order_by(chunks.c.offset)
    .limit(count_param("limit"))
    .offset(literal_column("0")),
    "inode start end limit",
)
_BOUNDS = Prepared(
    select(chunks.c.offset, chunks.c.length).where(_overlap()).order_by(chunks.c.offset), "inode start end"
)
_DELETE = Prepared(
    delete(chunks).where(
        chunks.c.inode == param("inode"), chunks.c.offset >= param("start"), chunks.c.offset < param("end")
    ),
    "inode start end",
)
_DELETE_FROM = Prepared(
    delete(chunks).where(chunks.c.inode == param("inode"), chunks.c.offset >= param("start")), "inode start"
)


def _reaches_over(place: str) -> ColumnElement[Any]:
    """The one chunk of `inode`, if any, that begins before `place` and reaches beyond it."""
    before = chunks.alias("before")
    last = (
        select(func.max(before.c.offset))
        .where(before.c.inode == param("inode"), before.c.offset < param(place))
        .scalar_subquery()
    )
    return (
        (chunks.c.inode == param("inode"))
        & (chunks.c.offset == last)
        & (chunks.c.offset + chunks.c.length > param(place))
    )


_SHORTEN = Prepared(
    update(chunks).where(_reaches_over("start")).values(length=param("start") - chunks.c.offset), "inode start"
)
_REACHING_OVER = Prepared(
    select(chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip).where(_reaches_over("end")), "inode end"
)
_INSERT = Prepared(
    insert(chunks)
    .values(
        inode=param("inode"), offset=param("offset"), length=param("length"), block=param("block"), skip=param("skip")
    )
    .inline(),
    "inode offset length block skip",
)
_STORED = Prepared(
    update(inodes)
    .where(inodes.c.id == param("inode"))
    .values(size=param("size"), mtime_ns=param("mtime"), ctime_ns=param("ctime"), stored_seq=param("seq")),
    "inode size mtime ctime seq",
)
_ALLOCATED = Prepared(
    select(func.coalesce(func.sum(chunks.c.length), literal_column("0"))).where(chunks.c.inode == param("inode")),
    "inode",
)


class Chunks:
    """The chunk lists of one index. Every method raises `IndexDatabaseError` and its kinds; `spans` tells what else."""

    def __init__(self, database: Database) -> None:
        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._spans, self._bounds = on(_SPANS), on(_BOUNDS)
        self._delete, self._delete_from, self._shorten = on(_DELETE), on(_DELETE_FROM), on(_SHORTEN)
        self._insert, self._stored, self._allocated = on(_INSERT), on(_STORED), on(_ALLOCATED)
        self._reaching_over = on(_REACHING_OVER)

    def spans(self, inode: int, start: int, end: int, limit: int = -1) -> list[ChunkSpan]:
        """The chunks that overlap the bytes [start, end), whole, ascending, with their blocks; the first `limit` of
        them, if that is not negative.

        Raises:
            BlockMissing: the index is damaged: it does not say where one of the blocks is.  That is no hole.
        """
        rows = self._spans.all(inode, start, end, limit)
        if any(row[4] is None for row in rows):
            raise BlockMissing(
                f"inode {inode}: the index has lost a block within {start}..{end}: cas3fs fsck --repair looks for it"
            )
        return [ChunkSpan(offset, length, skip, BlockLocation(*location)) for offset, length, skip, *location in rows]

    def bounds(self, inode: int, start: int, end: int) -> list[tuple[int, int]]:
        """(offset, length) of the chunks that overlap the bytes [start, end), ascending."""
        return self._bounds.all(inode, start, end)

    def replace(self, inode: int, start: int, end: int, new: Iterable[NewRow]) -> None:
        """Puts the chunks `new`, which lie within [start, end) and do not overlap, in place of what is there.

        Old chunks that reach into the range from before it, or beyond its end, keep what lies outside.
        """
        rows = [(inode, *row) for row in new]
        tail = self._tail_beyond(inode, end)
        self._shorten.run(inode, start)
        self._delete.run(inode, start, end)
        self._insert.many(rows if tail is None else [*rows, tail])

    def _tail_beyond(self, inode: int, end: int) -> tuple[int, int, int, int, int] | None:
        """The part from `end` on of a chunk that begins before."""
        old = self._reaching_over.one(inode, end)
        if old is None:
            return None
        offset, length, block, skip = old
        return inode, end, offset + length - end, block, skip + end - offset

    def append(self, rows: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Enters chunks (inode, offset, length, block, skip) where the files have none."""
        self._insert.many(list(rows))

    def truncate(self, inode: int, size: int) -> None:
        """Drops what lies at or beyond `size` bytes."""
        self._delete_from.run(inode, size)
        self._shorten.run(inode, size)

    def stored(self, inode: int, size: int, mtime_ns: int, ctime_ns: int, stored_seq: int) -> None:
        """Notes in the inode's row what was stored: the content's size and times, and its last change's sequence."""
        self._stored.run(inode, size, mtime_ns, ctime_ns, stored_seq)

    def all_stored(self, rows: Iterable[tuple[int, int, int, int, int]]) -> None:
        """As `stored`, for many: (inode, size, mtime_ns, ctime_ns, stored_seq) each."""
        self._stored.many(list(rows))

    def allocated(self, inode: int) -> int:
        """How many bytes of the file lie in chunks, not in holes."""
        return int(self._allocated.one(inode)[0])
