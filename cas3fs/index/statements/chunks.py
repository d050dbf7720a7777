# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.chunks`."""

from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, literal_column, select, update

from cas3fs.index.checksums import ROW_CHECKSUM as _MARK
from cas3fs.index.statements.writing import Written, count_param, param
from cas3fs.index.tables import blocks, chunks, inodes, packs

_ZERO: ColumnElement[int] = literal_column("0")


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


SPANS = Written(
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
BOUNDS = Written(
    select(chunks.c.offset, chunks.c.length).where(_overlap()).order_by(chunks.c.offset), "inode start end"
)
OVERLAPPING = Written(
    select(chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip).where(_overlap()).order_by(chunks.c.offset),
    "inode start end",
)
LAST = Written(
    select(chunks.c.offset, chunks.c.length)
    .where(chunks.c.inode == param("inode"))
    .order_by(chunks.c.offset.desc())
    .limit(literal_column("1"))
    .offset(_ZERO),
    "inode",
)
SUMS_FROM = Written(
    select(func.count(), func.coalesce(func.sum(literal_column(_MARK.format("chunks."))), _ZERO))
    .select_from(chunks)
    .where(chunks.c.inode == param("inode"), chunks.c.offset >= param("start")),
    "inode start",
)
DELETE = Written(
    delete(chunks).where(
        chunks.c.inode == param("inode"), chunks.c.offset >= param("start"), chunks.c.offset < param("end")
    ),
    "inode start end",
)
DELETE_FROM = Written(
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


SHORTEN = Written(
    update(chunks).where(_reaches_over("start")).values(length=param("start") - chunks.c.offset), "inode start"
)
REACHING_OVER = Written(
    select(chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip).where(_reaches_over("start")), "inode start"
)
INSERT = Written(
    insert(chunks)
    .values(
        inode=param("inode"), offset=param("offset"), length=param("length"), block=param("block"), skip=param("skip")
    )
    .inline(),
    "inode offset length block skip",
)


def _changed_sums() -> dict[str, ColumnElement[Any]]:
    return {
        "chunk_count": inodes.c.chunk_count + param("count"),
        "chunk_sum": inodes.c.chunk_sum + param("total"),
    }


STORED = Written(
    update(inodes)
    .where(inodes.c.id == param("inode"))
    .values(
        {
            "size": param("size"),
            "mtime_ns": param("mtime"),
            "ctime_ns": param("ctime"),
            "stored_seq": param("seq"),
        }
        | _changed_sums()
    ),
    "inode size mtime ctime seq count total",
)
CHANGE_SUMS = Written(update(inodes).where(inodes.c.id == param("inode")).values(_changed_sums()), "inode count total")
NO_CHUNKS = Written(
    update(inodes).where(inodes.c.id == param("inode")).values(chunk_count=_ZERO, chunk_sum=_ZERO), "inode"
)
ALLOCATED = Written(
    select(func.coalesce(func.sum(chunks.c.length), literal_column("0"))).where(chunks.c.inode == param("inode")),
    "inode",
)
