# SPDX-License-Identifier: GPL-3.0-or-later
"""Making an index hold the files of a snapshot of another volume.

The *copy* is the index of the destination, the *source* the index of a snapshot that is to be copied. Files, names and
their numbers become those of the source, row by row: what differs is deleted, then what is missing is inserted. Rows
that two snapshots share stay where they are, and so do the pages that hold them. Blocks and packs are the copy's own.

Each step covers a *range* of keys with a limited number of rows, and is a transaction of its own: memory is bounded
whatever the size of the index. In between the copy is no consistent file system, so only a finished one may be
published. What was begun is completed by doing everything again: nothing depends on what the copy held before.

Chunks name blocks by the copy's numbers. These are found by the hash that the ledger has for a block of the source
(`cas3fs.index.ledger`); where files are cut anew, the caller sets the chunks.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Executable,
    FromClause,
    MetaData,
    Table,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.blocks import LOCATION, LOST_PACK, BlockTable
from cas3fs.index.checksums import NOTED, recomputed, sums_of_rows
from cas3fs.index.chunks import ChunkTable
from cas3fs.index.hash_index import of_hash, prefix_of
from cas3fs.index.pack_merge import SEQUENCES, raise_sequences
from cas3fs.index.sqlite import Database, Operation
from cas3fs.index.statement import Statement
from cas3fs.index.tables import (
    block_hashes,
    blocks,
    chunks,
    copied_blocks,
    dentries,
    inodes,
    packs,
    symlinks,
    volume_state,
    xattrs,
)
from cas3fs.values import BlockHash, BlockLocation, ChunkSpan, PackedBlock, StoredPack

RANGE_ROWS: Final = 10_000
"""A step covers about so many rows."""
_PAGE_ROWS: Final = 1000
_MOST: Final = 2**63 - 1
_SOURCE, _LEDGER = "source", "ledger"
FILES_PREFIX: Final = "has_"
"""Of the names of texts in which the file system notes what some of its files have."""
_KEPT_SEQUENCES: Final = (inodes.name, dentries.name)

_in_source, _in_ledger = (MetaData(schema=name) for name in (_SOURCE, _LEDGER))
# under names of their own, as SQLAlchemy confuses tables of one name in two databases
_s_chunks = chunks.to_metadata(_in_source, schema=_SOURCE).alias("source_chunks")
_s_blocks = blocks.to_metadata(_in_source, schema=_SOURCE).alias("source_blocks")
_copied = copied_blocks.to_metadata(_in_ledger, schema=_LEDGER)


class _MirroredTable:
    """The statements that make a table like that of the source, over ranges of one column.

    Args:
        table: the table.
        step: the name of the column.
        own: the names of columns that are the copy's own.
    """

    def __init__(self, table: Table, step: str, own: Sequence[str] = ()) -> None:
        other = table.to_metadata(_in_source, schema=_SOURCE).alias(f"source_{table.name}")
        self.name = table.name
        self._key = [column.name for column in table.primary_key]
        self._names = [column.name for column in table.c if column.name not in own]
        # rows whose own columns would be lost stay, and are updated
        compared = self._key if own else self._names
        self.delete = Statement(
            lambda after, upto: delete(table).where(
                table.c[step] > after, table.c[step] <= upto, ~exists().where(_equal(other, table, compared))
            )
        )
        self.insert = Statement(
            lambda after, upto: self._inserted(table, other, and_(other.c[step] > after, other.c[step] <= upto))
        )
        self.ends = [_range_end(one.c[step]) for one in (table, other)]
        self.differ = [self._lacking(table, other), self._lacking(other, table)]

    def _inserted(self, table: Table, other: FromClause, in_range: ColumnElement[bool]) -> Executable:
        """SQL: rows of the range that are other or missing become those of the source."""
        missing = select(*(other.c[name] for name in self._names)).where(
            in_range, ~exists().where(_equal(table, other, self._names))
        )
        statement = upsert(table).from_select(self._names, missing.order_by(*(other.c[name] for name in self._key)))
        changed = {name: statement.excluded[name] for name in self._names if name not in self._key}
        return statement.on_conflict_do_update(index_elements=self._key, set_=changed)

    def _lacking(self, one: FromClause, other: FromClause) -> Statement:
        """A row of one side that the other lacks."""
        return Statement(
            lambda: select(one.c[self._key[0]]).where(~exists().where(_equal(other, one, self._names))).limit(1)
        )


def _equal(one: FromClause, other: FromClause, names: Sequence[str]) -> ColumnElement[bool]:
    return and_(*(one.c[name] == other.c[name] for name in names))


def _range_end(column: ColumnElement[int]) -> Statement:
    """The value of the column in the row at which a range ends."""
    return Statement(lambda after, limit: select(column).where(column > after).order_by(column).limit(1).offset(limit))


_TABLES: Final = (
    _MirroredTable(inodes, "id", [column.name for column in NOTED]),
    _MirroredTable(dentries, "id"),
    _MirroredTable(symlinks, "inode"),
    _MirroredTable(xattrs, "inode"),
)


_TEXTS: Final = Statement(lambda: select(volume_state.c.key, volume_state.c.value))


def _after(table: FromClause, inode: Any, offset: Any) -> ColumnElement[bool]:
    """Rows of chunks behind that place, in the order of inodes and offsets."""
    return tuple_(table.c.inode, table.c.offset) > tuple_(inode, offset)


def _between(table: FromClause, inode: Any, offset: Any, last_inode: Any, last_offset: Any) -> ColumnElement[bool]:
    """The same, up to another place."""
    return _after(table, inode, offset) & (tuple_(table.c.inode, table.c.offset) <= tuple_(last_inode, last_offset))


_FIRST: Final = (-1, 0)
_LAST: Final = (_MOST, _MOST)
_TRANSLATED: Final = (
    _s_chunks.join(_s_blocks, _s_blocks.c.id == _s_chunks.c.block)
    .join(_copied, _copied.c.source == _s_blocks.c.hash)
    .join(block_hashes, block_hashes.c.prefix == prefix_of(_copied.c.hash))
    .join(blocks, (blocks.c.id == block_hashes.c.block) & (blocks.c.hash == _copied.c.hash))
)
"""The chunks of the source, each with the copy's block that stands for its block."""


def _place_after(table: FromClause, inode: Any, offset: Any, limit: Any) -> Executable:
    place = (table.c.inode, table.c.offset)
    return select(*place).where(_after(table, inode, offset)).order_by(*place).limit(1).offset(limit)


def _unlike(inode: Any, offset: Any, last_inode: Any, last_offset: Any) -> Executable:
    """SQL: deletes the chunks of a range that are not those of the source."""
    same = (
        select(_s_chunks.c.inode)
        .select_from(_TRANSLATED)
        .where(
            _s_chunks.c.inode == chunks.c.inode,
            _s_chunks.c.offset == chunks.c.offset,
            _s_chunks.c.length == chunks.c.length,
            _s_chunks.c.skip == chunks.c.skip,
            blocks.c.id == chunks.c.block,
        )
    )
    return delete(chunks).where(
        _between(chunks, inode, offset, last_inode, last_offset), ~exists(same.correlate(chunks))
    )


def _lacking(inode: Any, offset: Any, last_inode: Any, last_offset: Any) -> Executable:
    """SQL: inserts the chunks of a range that only the source has."""
    names = ("inode", "offset", "length", "block", "skip")
    found = (
        select(_s_chunks.c.inode, _s_chunks.c.offset, _s_chunks.c.length, blocks.c.id, _s_chunks.c.skip)
        .select_from(_TRANSLATED)
        .where(
            _between(_s_chunks, inode, offset, last_inode, last_offset),
            ~exists().where(chunks.c.inode == _s_chunks.c.inode, chunks.c.offset == _s_chunks.c.offset),
        )
        .order_by(_s_chunks.c.inode, _s_chunks.c.offset)
    )
    return insert(chunks).from_select(list(names), found)


def _wrong_checksums(after: Any, upto: Any) -> Executable:
    """SQL: inodes of a range whose checksum is not that of their chunks get the right one."""
    mine = chunks.c.inode == inodes.c.id
    differs = or_(
        *(
            noted != select(value).select_from(chunks).where(mine).scalar_subquery()
            for noted, value in zip(NOTED, sums_of_rows(), strict=True)
        )
    )
    return recomputed().where(inodes.c.id > after, inodes.c.id <= upto, differs)


class NewChunk(NamedTuple):
    """A chunk that is to be entered: `length` bytes from `offset` of a file on are those of a block from `skip` on."""

    offset: int
    length: int
    hash: BlockHash
    skip: int


class SnapshotTables:
    """Makes the tables of an open index, the copy, like those of a snapshot of another volume.

    Used while no file system is at work on the index. Every method that changes something commits it. All raise
    `IndexDatabaseError` and its kinds, and nothing else.

    Args:
        database: the copy's connection.
        block_table, chunk_table: of the copy.
        source: the index of the snapshot, of the current revision.
        ledger: the file of the ledger; everything that is needed from it is committed.
    """

    def __init__(
        self, database: Database, block_table: BlockTable, chunk_table: ChunkTable, *, source: Path, ledger: Path
    ) -> None:
        self._database, self._blocks, self._chunks = database, block_table, chunk_table
        self._operation = Operation(database)
        self._path = source
        self._changed = 0
        database.attach(source, _SOURCE)
        database.attach(ledger, _LEDGER)

    def copy_names(self) -> None:
        """Makes inodes, names, targets of links and extended attributes like those of the source, with the texts about
        them, and raises the numbers that the next ones get."""
        for table in _TABLES:
            for change in (table.delete, table.insert):  # names are unique, so all deletions come first
                run = change.on(self._database).run
                for after, upto in self._ranges(table):
                    with self._committing():
                        run(after, upto)
        source = Database(self._path, "read")
        try:
            numbers = {name: seq for name, seq in SEQUENCES.on(source).all() if name in _KEPT_SEQUENCES}
            texts = [(key, value) for key, value in _TEXTS.on(source).all() if key.startswith(FILES_PREFIX)]
        finally:
            source.close()
        with self._committing():
            raise_sequences(self._database, numbers)
            self._set_text.many(texts)

    _set_text = Statement(
        lambda key, value: (
            upsert(volume_state)
            .values(key=key, value=value)
            .on_conflict_do_update(index_elements=["key"], set_={"value": value})
        )
    )

    def _ranges(self, table: _MirroredTable) -> Iterator[tuple[int, int]]:
        """Ranges (after, upto] of the table's keys that have at most about `RANGE_ROWS` rows on either side."""
        ends = [end.on(self._database) for end in table.ends]
        after = -1
        while after < _MOST:
            rows = [end.one(after, RANGE_ROWS) for end in ends]
            upto = min((int(row[0]) for row in rows if row is not None), default=_MOST)
            yield after, upto
            after = upto

    _delete_unlike = Statement(_unlike)
    _insert_lacking = Statement(_lacking)
    _ends = (
        Statement(lambda inode, offset, limit: _place_after(chunks, inode, offset, limit)),
        Statement(lambda inode, offset, limit: _place_after(_s_chunks, inode, offset, limit)),
    )

    def copy_chunks(self) -> None:
        """Makes the chunks like those of the source; the ledger has all blocks, and the copy knows them."""
        delete_unlike, insert_lacking = self._delete_unlike, self._insert_lacking
        ends = [end.on(self._database) for end in self._ends]
        first = _FIRST
        while first < _LAST:
            rows = [end.one(*first, RANGE_ROWS) for end in ends]
            last = min((tuple(row) for row in rows if row is not None), default=_LAST)
            with self._committing():
                delete_unlike.run(*first, *last)
                insert_lacking.run(*first, *last)
            first = last
        self.correct_checksums()

    _delete_foreign = Statement(
        lambda after, upto: delete(chunks).where(
            chunks.c.inode > after,
            chunks.c.inode <= upto,
            ~exists().where(_s_chunks.c.inode == chunks.c.inode),
        )
    )
    _foreign_end = _range_end(chunks.c.inode)

    def delete_foreign_chunks(self) -> None:
        """Deletes the chunks of inodes that have none in the source."""
        after = -1
        while after < _MOST:
            row = self._foreign_end.one(after, RANGE_ROWS)
            upto = _MOST if row is None else int(row[0])
            with self._committing():
                self._delete_foreign.run(after, upto)
            after = upto

    _chunks_within = Statement(
        lambda inode, start, end: (
            select(chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip)
            .where(chunks.c.inode == inode, chunks.c.offset >= start, chunks.c.offset < end)
            .order_by(chunks.c.offset)
        )
    )
    _block = Statement(lambda digest: select(blocks.c.id).where(of_hash(digest)))

    def set_chunks(self, inode: int, start: int, end: int | None, rows: Iterable[NewChunk]) -> None:
        """Makes `rows` the chunks of an inode that begin in [start, end), or from `start` on; `finish_chunks` commits.
        No chunk reaches over these bounds."""
        if start == end:
            return
        end = _MOST if end is None else end
        new = [(one.offset, one.length, self._block.one(one.hash)[0], one.skip) for one in rows]
        old = self._chunks_within.all(inode, start, end)
        if old == new:
            return
        with self._operation:
            self._chunks.replace(inode, start, end, new)
        self._changed += len(old) + len(new)
        if self._changed >= RANGE_ROWS:
            self._database.commit()
            self._changed = 0

    def finish_chunks(self) -> None:
        """Commits what `set_chunks` did."""
        self._database.commit()
        self.correct_checksums()

    _correct = Statement(_wrong_checksums)

    def correct_checksums(self) -> None:
        """Makes the checksums of inodes those of their chunks."""
        for after, upto in self._ranges(_TABLES[0]):
            with self._committing():
                self._correct.run(after, upto)

    def add_lost_block(self, block: BlockHash, plain_length: int) -> None:
        """Enters a block that cannot be read, unless one of that hash is known."""
        if self._blocks.find([block]):
            return
        with self._committing():
            self._blocks.add_pack(StoredPack(LOST_PACK, 0, [PackedBlock(block, 0, 1, plain_length)]), 0)
            self._blocks.mark_lost(block, LOST_PACK)

    _count = Statement(lambda: select(func.count(), func.coalesce(func.sum(chunks.c.length), 0)).select_from(chunks))
    _source_count = Statement(
        lambda: select(func.count(), func.coalesce(func.sum(_s_chunks.c.length), 0)).select_from(_s_chunks)
    )

    def has_all_chunks(self) -> bool:
        """Whether there are as many chunks, of as many bytes, as in the source."""
        return bool(self._count.one() == self._source_count.one())

    def differing_tables(self) -> list[str]:
        """The tables of names and inodes that are not like those of the source."""
        return _differing_tables(self._database)

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """A transaction of its own."""
        with self._operation:
            yield
        self._database.commit()


def _differing_tables(database: Database) -> list[str]:
    return [table.name for table in _TABLES if any(one.on(database).one() is not None for one in table.differ)]


def differing_tables(copy: Path, source: Path) -> list[str]:
    """The tables of names and inodes in which two indexes differ."""
    database = Database(copy, "read")
    try:
        database.attach(source, _SOURCE)
        return _differing_tables(database)
    finally:
        database.close()


_UNPLACED: Final = Statement(
    lambda: (
        select(func.count())
        .select_from(
            chunks.outerjoin(blocks, blocks.c.id == chunks.c.block).outerjoin(packs, packs.c.id == blocks.c.pack)
        )
        .where(packs.c.id.is_(None))
    )
)


def unplaced_chunks(path: Path) -> int:
    """How many chunks of an index name a block whose place it does not know."""
    database = Database(path, "read")
    try:
        return int(_UNPLACED.on(database).one()[0])
    finally:
        database.close()


_SPANS: Final = Statement(
    lambda inode, offset, limit: (
        select(chunks.c.inode, chunks.c.offset, chunks.c.length, chunks.c.skip, *LOCATION)
        .select_from(chunks.join(blocks, blocks.c.id == chunks.c.block).join(packs, packs.c.id == blocks.c.pack))
        .where(_after(chunks, inode, offset))
        .order_by(chunks.c.inode, chunks.c.offset)
        .limit(limit)
    )
)


def chunks_in_order(path: Path, after: tuple[int, int] = _FIRST) -> Iterator[tuple[int, ChunkSpan]]:
    """All chunks of an index with their inodes, in the order of inodes and offsets.

    Raises:
        IndexDatabaseError: it cannot be read.
    """
    database = Database(path, "read")
    try:
        page = _SPANS.on(database)
        while rows := page.all(*after, _PAGE_ROWS):
            for inode, offset, length, skip, *location in rows:
                yield inode, ChunkSpan(offset, length, skip, BlockLocation(*location))
            after = (rows[-1][0], rows[-1][1])
    finally:
        database.close()


_CHUNK_BYTES: Final = Statement(lambda: select(func.coalesce(func.sum(chunks.c.length), 0)).select_from(chunks))


def chunk_bytes(path: Path) -> int:
    """How many bytes all chunks of an index have."""
    database = Database(path, "read")
    try:
        return int(_CHUNK_BYTES.on(database).one()[0])
    finally:
        database.close()
