# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunk lists: which block stands where in a file.

The chunks of a file never overlap, so at most one that begins before a position reaches beyond it: the last of those.
Every query for a range therefore begins at that one, found by one step in the primary key, and reads on from there.
"""

from collections.abc import Iterable

from cas3fs.errors import BlockMissing
from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Statement
from cas3fs.index.texts import chunks as texts
from cas3fs.values import BlockLocation, ChunkSpan

NewRow = tuple[int, int, int, int]
"""A chunk to be entered: (offset, length, id of the block, skip)."""


class Chunks:
    """The chunk lists of one index. Every method raises `IndexDatabaseError` and its kinds; `spans` tells what else."""

    def __init__(self, database: Database) -> None:
        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._spans, self._bounds = on(texts.SPANS), on(texts.BOUNDS)
        self._delete, self._delete_from, self._shorten = on(texts.DELETE), on(texts.DELETE_FROM), on(texts.SHORTEN)
        self._insert, self._stored, self._allocated = on(texts.INSERT), on(texts.STORED), on(texts.ALLOCATED)
        self._reaching_over = on(texts.REACHING_OVER)

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
