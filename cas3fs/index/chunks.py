# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunk lists: which block stands where in a file.

The chunks of a file never overlap, so at most one that begins before a position reaches beyond it: the last of those.
Every query for a range therefore begins at that one, found by one step in the primary key, and reads on from there.

Whatever changes chunks changes the checksum in the inode's row with them (`cas3fs.index.checksums`), by what it took
out and put in. A file that is cut to nothing begins anew with the checksum of no chunks.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, func, insert, select, update

from cas3fs.errors import BlockMissing
from cas3fs.index.checksums import (
    EMPTY_CHECKSUM,
    ChunkChecksum,
    checksum_of,
    raised_by,
    row_checksum,
    set_to,
    sums_of_rows,
)
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement
from cas3fs.index.tables import blocks, chunks, inodes, lost_blocks, packs
from cas3fs.values import BlockLocation, ChunkSpan

NewRow = tuple[int, int, int, int]
"""A chunk to be entered: (offset, length, id of the block, skip)."""
StoredRow = tuple[int, int, int, int, int]
"""What was stored of a file: (inode, size, mtime_ns, ctime_ns, stored_seq)."""

_CHUNK: Final = (chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip)

_LOCATED: Final = chunks.outerjoin(blocks, blocks.c.id == chunks.c.block).outerjoin(packs, packs.c.id == blocks.c.pack)
_LOCATION: Final = (blocks.c.hash, packs.c.name, blocks.c.offset, blocks.c.stored_length, blocks.c.plain_length)


def _overlaps(inode: Any, start: Any, end: Any) -> ColumnElement[bool]:
    """Chunks of the inode that overlap [start, end)."""
    before = chunks.alias("before")
    first = select(func.max(before.c.offset)).where(before.c.inode == inode, before.c.offset <= start).scalar_subquery()
    return and_(
        chunks.c.inode == inode,
        chunks.c.offset >= func.coalesce(first, start),
        chunks.c.offset < end,
        chunks.c.offset + chunks.c.length > start,
    )


def _reaches_over(inode: Any, place: Any) -> ColumnElement[bool]:
    """The one chunk of the inode, if any, that begins before `place` and reaches beyond it."""
    before = chunks.alias("before")
    last = select(func.max(before.c.offset)).where(before.c.inode == inode, before.c.offset < place).scalar_subquery()
    return and_(chunks.c.inode == inode, chunks.c.offset == last, chunks.c.offset + chunks.c.length > place)


class ChunkTable:
    """The chunk lists of one index. Every method raises `IndexDatabaseError` and its kinds; `spans` says what else."""

    def __init__(self, database: Database) -> None:
        self._database = database

    _spans = Statement(
        lambda inode, start, end, limit: (
            select(chunks.c.offset, chunks.c.length, chunks.c.skip, *_LOCATION)
            .select_from(_LOCATED)
            .where(_overlaps(inode, start, end))
            .order_by(chunks.c.offset)
            .limit(limit)
        )
    )

    def spans(self, inode: int, start: int, end: int, limit: int = -1) -> list[ChunkSpan]:
        """The chunks that overlap the bytes [start, end), whole, ascending, with their blocks; the first `limit` of
        them, if that is not negative.

        Raises:
            BlockMissing: the index is damaged: it does not know where one of the blocks is. That is no hole.
        """
        rows = self._spans.all(inode, start, end, limit)
        if any(row[4] is None for row in rows):
            raise BlockMissing(
                f"inode {inode}: the index has lost a block within {start}..{end}: cas3fs fsck --repair looks for it"
            )
        return [ChunkSpan(offset, length, skip, BlockLocation(*location)) for offset, length, skip, *location in rows]

    _of_inodes = Statement(
        lambda first, last, limit: (
            select(chunks.c.inode, chunks.c.offset, chunks.c.length, chunks.c.skip, *_LOCATION)
            .select_from(_LOCATED)
            .where(chunks.c.inode >= first, chunks.c.inode <= last)
            .order_by(chunks.c.inode, chunks.c.offset)
            .limit(limit)
        )
    )

    def of_inodes(self, first: int, last: int, limit: int) -> dict[int, list[ChunkSpan]]:
        """All chunks of inodes from `first` to `last`, as far as `limit` chunks reach, ascending.

        Inodes that have no chunks are left out, and so are those of which a chunk is beyond the limit, or a block is
        lost: `spans` says which.
        """
        rows = self._of_inodes.all(first, last, limit)
        found: dict[int, list[ChunkSpan]] = {}
        unusable = {row[0] for row in rows if row[5] is None}
        if len(rows) == limit:
            unusable.add(rows[-1][0])
        for inode, offset, length, skip, *location in rows:
            if inode not in unusable:
                found.setdefault(inode, []).append(ChunkSpan(offset, length, skip, BlockLocation(*location)))
        return found

    _bounds = Statement(
        lambda inode, start, end, limit: (
            select(chunks.c.offset, chunks.c.length)
            .where(_overlaps(inode, start, end))
            .order_by(chunks.c.offset)
            .limit(limit)
        )
    )

    def bounds(self, inode: int, start: int, end: int, limit: int = -1) -> list[tuple[int, int]]:
        """(offset, length) of the chunks that overlap the bytes [start, end), ascending; the first `limit` of them, if
        that is not negative."""
        return self._bounds.all(inode, start, end, limit)

    _overlapping = Statement(
        lambda inode, start, end: select(*_CHUNK).where(_overlaps(inode, start, end)).order_by(chunks.c.offset)
    )
    _whole = Statement(
        lambda inode, start, end, limit: (
            select(*_CHUNK, blocks.c.id.is_(None) | lost_blocks.c.block.is_not(None))
            .select_from(
                chunks.outerjoin(blocks, blocks.c.id == chunks.c.block).outerjoin(
                    lost_blocks, lost_blocks.c.block == chunks.c.block
                )
            )
            .where(_overlaps(inode, start, end))
            .order_by(chunks.c.offset)
            .limit(limit)
        )
    )

    def whole_chunks(self, inode: int, start: int, end: int, limit: int = -1) -> list[NewRow]:
        """The chunks that overlap the bytes [start, end), as `replace` takes them, ascending; the first `limit` of
        them, if that is not negative.

        Raises:
            BlockMissing: one of their blocks is lost.
        """
        rows = self._whole.all(inode, start, end, limit)
        if any(is_lost for *_, is_lost in rows):
            raise BlockMissing(f"inode {inode}: a block within {start}..{end} is lost")
        return [(offset, length, block, skip) for offset, length, block, skip, _ in rows]

    _shorten = Statement(
        lambda inode, end: update(chunks).where(_reaches_over(inode, end)).values(length=end - chunks.c.offset)
    )
    _delete = Statement(
        lambda inode, start, end: delete(chunks).where(
            chunks.c.inode == inode, chunks.c.offset >= start, chunks.c.offset < end
        )
    )
    _insert = Statement(
        lambda inode, offset, length, block, skip: (
            insert(chunks).values(inode=inode, offset=offset, length=length, block=block, skip=skip).inline()
        )
    )

    def replace(self, inode: int, start: int, end: int, new: Iterable[NewRow]) -> None:
        """Puts the chunks `new`, which lie within [start, end) and do not overlap, in place of what is there.

        Old chunks that reach into the range from before it, or beyond its end, keep what lies outside.
        """
        old: list[NewRow] = self._overlapping.all(inode, start, end)
        entered = list(new)
        after = entered
        if old:
            left = list(_outside(old, start, end))
            after = entered + left
            entered = entered + [row for row in left if row[0] >= end]
            if old[0][0] < start:
                self._shorten.run(inode, start)
        self._delete.run(inode, start, end)
        self._insert.many([(inode, *row) for row in entered])
        self._add(inode, checksum_of(after) - checksum_of(old))

    _last = Statement(
        lambda inode: (
            select(chunks.c.offset, chunks.c.length)
            .where(chunks.c.inode == inode)
            .order_by(chunks.c.offset.desc())
            .limit(1)
        )
    )
    _delete_from = Statement(
        lambda inode, start: delete(chunks).where(chunks.c.inode == inode, chunks.c.offset >= start)
    )
    _clear_checksum = Statement(lambda inode: update(inodes).where(inodes.c.id == inode).values(set_to(EMPTY_CHECKSUM)))
    _checksum_from = Statement(
        lambda inode, start: (
            select(*sums_of_rows()).select_from(chunks).where(chunks.c.inode == inode, chunks.c.offset >= start)
        )
    )
    _reaching_over = Statement(lambda inode, place: select(*_CHUNK).where(_reaches_over(inode, place)))

    def truncate(self, inode: int, size: int) -> None:
        """Deletes what lies at or beyond `size` bytes."""
        if size <= 0:
            self._delete_from.run(inode, size)
            self._clear_checksum.run(inode)  # whatever was lost of them before
            return
        last = self._last.one(inode)
        if last is None or last[0] + last[1] <= size:  # by far the most frequent case
            return
        removed = ChunkChecksum(*self._checksum_from.one(inode, size))
        self._delete_from.run(inode, size)
        reaching = self._reaching_over.one(inode, size)
        if reaching is not None:
            offset, length, block, skip = reaching
            self._shorten.run(inode, size)
            cut_off = row_checksum(*reaching) - row_checksum(offset, size - offset, block, skip)
            removed = ChunkChecksum(
                removed.number, removed.total + cut_off, removed.size_bytes + offset + length - size
            )
        self._add(inode, EMPTY_CHECKSUM - removed)

    _add_checksum = Statement(
        lambda inode, *difference: update(inodes).where(inodes.c.id == inode).values(raised_by(difference)),
        ("inode", *ChunkChecksum._fields),
    )

    def _add(self, inode: int, difference: ChunkChecksum) -> None:
        if difference != EMPTY_CHECKSUM:
            self._add_checksum.run(inode, *difference)

    _stored = Statement(
        lambda inode, size, mtime, ctime, seq, *difference: (
            update(inodes)
            .where(inodes.c.id == inode)
            .values({"size": size, "mtime_ns": mtime, "ctime_ns": ctime, "stored_seq": seq} | raised_by(difference))
        ),
        ("inode", "size", "mtime", "ctime", "seq", *ChunkChecksum._fields),
    )

    def stored(self, inode: int, size: int, mtime_ns: int, ctime_ns: int, stored_seq: int) -> None:
        """Notes in the inode's row what was stored: the content's size and times, and its last change's sequence."""
        self._stored.run(inode, size, mtime_ns, ctime_ns, stored_seq, *EMPTY_CHECKSUM)

    _size = Statement(lambda inode: select(inodes.c.chunk_bytes).where(inodes.c.id == inode))

    def size_bytes(self, inode: int) -> int:
        """How many bytes the inode's chunks hold; 0 where there is no such inode."""
        row = self._size.one(inode)
        return 0 if row is None else int(row[0])

    def all_stored(self, rows: Iterable[StoredRow], new: Iterable[tuple[int, NewRow]] = ()) -> None:
        """As `stored`, for many, and enters the chunks `new`, (inode, chunk) each, of those of them that had none."""
        entered = []
        checksums: dict[int, tuple[int, int, int]] = {}
        for inode, row in new:
            entered.append((inode, *row))
            number, total, size_bytes = checksums.get(inode, EMPTY_CHECKSUM)
            checksums[inode] = number + 1, total + row_checksum(*row), size_bytes + row[1]
        self._insert.many(entered)
        self._stored.many([(*row, *checksums.get(row[0], EMPTY_CHECKSUM)) for row in rows])


def _outside(rows: Iterable[NewRow], start: int, end: int) -> Iterator[NewRow]:
    """What is left of chunks when [start, end) is taken out of them."""
    for offset, length, block, skip in rows:
        if offset < start < offset + length:
            yield offset, start - offset, block, skip
        if offset < end < offset + length:
            yield end, offset + length - end, block, skip + end - offset
