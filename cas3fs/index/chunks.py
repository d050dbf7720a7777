# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunk lists: which block stands where in a file.

The chunks of a file never overlap, so at most one that begins before a position reaches beyond it: the last of those.
Every query for a range therefore begins at that one, found by one step in the primary key, and reads on from there.

Whatever changes chunks changes the checksum in the inode's row with them (`cas3fs.index.checksums`), by what it took
out and put in. A file that is cut to nothing begins anew with the checksum of nothing.
"""

from collections.abc import Iterable, Iterator

from cas3fs.errors import BlockMissing
from cas3fs.index.checksums import EMPTY_CHECKSUM, ChunkChecksum, checksum_of, row_checksum
from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Statement
from cas3fs.index.texts import chunks as texts
from cas3fs.values import BlockLocation, ChunkSpan

NewRow = tuple[int, int, int, int]
"""A chunk to be entered: (offset, length, id of the block, skip)."""
StoredRow = tuple[int, int, int, int, int]
"""What was stored of a file: (inode, size, mtime_ns, ctime_ns, stored_seq)."""


class ChunkTable:
    """The chunk lists of one index. Every method raises `IndexDatabaseError` and its kinds; `spans` tells what else."""

    def __init__(self, database: Database) -> None:
        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._spans, self._bounds, self._overlapping = on(texts.SPANS), on(texts.BOUNDS), on(texts.OVERLAPPING)
        self._delete, self._delete_from, self._shorten = on(texts.DELETE), on(texts.DELETE_FROM), on(texts.SHORTEN)
        self._insert, self._stored = on(texts.INSERT), on(texts.STORED)
        self._reaching_over, self._sums_from = on(texts.REACHING_OVER), on(texts.SUMS_FROM)
        self._last = on(texts.LAST)
        self._change_sums, self._no_chunks = on(texts.CHANGE_SUMS), on(texts.NO_CHUNKS)

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

    def truncate(self, inode: int, size: int) -> None:
        """Drops what lies at or beyond `size` bytes."""
        if size <= 0:
            self._delete_from.run(inode, size)
            self._no_chunks.run(inode)  # whatever was lost of them before
            return
        last = self._last.one(inode)
        if last is None or last[0] + last[1] <= size:  # by far the most frequent case
            return
        gone = ChunkChecksum(*self._sums_from.one(inode, size))
        self._delete_from.run(inode, size)
        reaching = self._reaching_over.one(inode, size)
        if reaching is not None:
            offset, _, block, skip = reaching
            self._shorten.run(inode, size)
            gone = ChunkChecksum(
                gone.number, gone.total + row_checksum(*reaching) - row_checksum(offset, size - offset, block, skip)
            )
        self._add(inode, EMPTY_CHECKSUM - gone)

    def _add(self, inode: int, difference: ChunkChecksum) -> None:
        if difference != EMPTY_CHECKSUM:
            self._change_sums.run(inode, *difference)

    def stored(self, inode: int, size: int, mtime_ns: int, ctime_ns: int, stored_seq: int) -> None:
        """Notes in the inode's row what was stored: the content's size and times, and its last change's sequence."""
        self._stored.run(inode, size, mtime_ns, ctime_ns, stored_seq, *EMPTY_CHECKSUM)

    def all_stored(self, rows: Iterable[StoredRow], new: Iterable[tuple[int, NewRow]] = ()) -> None:
        """As `stored`, for many, and enters the chunks `new`, (inode, chunk) each, of those of them that had none."""
        entered = []
        sums: dict[int, tuple[int, int]] = {}
        for inode, row in new:
            entered.append((inode, *row))
            number, total = sums.get(inode, EMPTY_CHECKSUM)
            sums[inode] = number + 1, total + row_checksum(*row)
        self._insert.many(entered)
        self._stored.many([(*row, *sums.get(row[0], EMPTY_CHECKSUM)) for row in rows])


def _outside(rows: Iterable[NewRow], start: int, end: int) -> Iterator[NewRow]:
    """What is left of chunks when [start, end) is taken out of them."""
    for offset, length, block, skip in rows:
        if offset < start < offset + length:
            yield offset, start - offset, block, skip
        if offset < end < offset + length:
            yield end, offset + length - end, block, skip + end - offset
