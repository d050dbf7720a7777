# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding blocks by their hashes: what is needed for that can be made again from `blocks`, so no snapshot has it.

Hashes are random, so every new block changes another page of whatever finds them, and random pages do not compress: of
a thousand changed files they would be most of what a snapshot stores. So the table that finds blocks,
``block_hashes``, is not in the index. It has the first 8 bytes of each hash and the number of the block. That is enough
because it is never believed: every statement that looks for a hash (`of_hash`) compares the whole hash in `blocks`. A
row too many is harmless, one that is missing costs space: the bytes of that block are stored once more, under another
number. No number of a block is ever used again.

There are two places for the table:

- *beside* the index, for a writer that stores files. While it is in use it is called ``index.sqlite-hashes-open``. It
  is attached to the writer's connection, so a change of the group, and undoing it, are one thing in both databases,
  and triggers enter what any statement does to `blocks`. Nothing of it is synced: after a crash it is anything. So it
  is used again only if it was closed well: then it was synced, its BLAKE3 and the last number of a block were noted in
  the index, and it was called ``index.sqlite-hashes``. It loses that name, durably, before it is used. In every other
  case it is made again: about a microsecond a block.
- *temporary*, for a connection that reads, or works on a scratch copy; made when it is first needed.

Nothing that only reads files looks for a hash, so a mount does without it until the first lookup. The file is made
again from what is committed, by a connection of its own, while others work with the index (`HashIndex.prepare`); what
was committed later is entered when it is attached.

Before the first hash is found in an index that was made from a snapshot (`RESTORED`), the blocks that no chunk names
are deleted: packs that held nothing else may be gone (`cas3fs.maintenance.snapshot_index`), so none of them may be
used again.
"""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Executable, FromClause, MetaData, and_, delete, func, insert, select
from sqlalchemy.schema import CreateTable

from cas3fs.durable import sync_folder
from cas3fs.errors import IndexDatabaseError
from cas3fs.index.files import HASHES_OPEN_SUFFIX, HASHES_SUFFIX, hash_file, os_fault, remove_database, sync_file
from cas3fs.index.sqlite import CACHE_SIZE_KIB, Database
from cas3fs.index.sqlite_features import mirror_trigger
from cas3fs.index.statement import OrderedJoin, Statement, ddl
from cas3fs.index.tables import block_hashes, blocks, chunks, sequences, volume_state

PREFIX_BYTES: Final = 8
FITTING: Final = "hashes"
"""Key in the index's state: the BLAKE3 of the file that was closed with it, and the last number of a block."""
RESTORED: Final = "restored_blocks"
"""Key in the index's state, of an index that was made from a snapshot, until its unreferenced blocks are deleted."""
_SCHEMA: Final = "hashes"
_SOURCE: Final = "source"
_CACHE_KIB: Final = 8192
_s_blocks = blocks.to_metadata(MetaData(schema=_SOURCE), schema=_SOURCE)
temporary_hashes = block_hashes.to_metadata(MetaData(schema="temp"), schema="temp")


def prefix_of(digest: Any) -> ColumnElement[bytes]:
    """SQL: the part of a hash that `block_hashes` has."""
    return func.substr(digest, 1, PREFIX_BYTES)


def of_hash(digest: Any) -> ColumnElement[bool]:
    """SQL: the row of `blocks` has that hash; where `block_hashes` is there."""
    found = select(block_hashes.c.block).where(block_hashes.c.prefix == prefix_of(digest))
    return and_(blocks.c.id.in_(found), blocks.c.hash == digest)


FOUND_BLOCKS: Final = OrderedJoin(block_hashes, blocks, blocks.c.id == block_hashes.c.block)
"""`blocks` by the beginnings of their hashes: for `found_by`, which is faster than `of_hash`."""


def found_by(digest: Any) -> ColumnElement[bool]:
    """SQL: the row of `FOUND_BLOCKS` has that hash."""
    return and_(block_hashes.c.prefix == prefix_of(digest), blocks.c.hash == digest)


def delete_unreferenced() -> Executable:
    """SQL: deletes every block that no chunk names."""
    return delete(blocks).where(blocks.c.id.not_in(select(chunks.c.block)))


def _rows_of(table: FromClause) -> Any:
    return select(prefix_of(table.c.hash).label("prefix"), table.c.id)


def fill_from(table: FromClause, into: Any) -> Executable:
    """SQL: enters all blocks of a table, sorted, so that every insertion is at the end."""
    return insert(into).from_select(["prefix", "block"], _rows_of(table).order_by("prefix", table.c.id))


_HAS: Final = Statement(lambda key: select(volume_state.c.key).where(volume_state.c.key == key))
_REMOVE: Final = Statement(lambda key: delete(volume_state).where(volume_state.c.key == key))
_DELETE_UNREFERENCED: Final = Statement(delete_unreferenced)
_FILL: Final = Statement(lambda: fill_from(_s_blocks, block_hashes))
_FILL_TEMPORARY: Final = Statement(lambda: fill_from(blocks, temporary_hashes))
_CATCH_UP: Final = Statement(
    lambda last: (
        insert(block_hashes)
        .prefix_with("OR IGNORE")
        .from_select(["prefix", "block"], _rows_of(blocks).where(blocks.c.id > last))
    )
)
_LAST_OF_SOURCE: Final = Statement(lambda: select(func.coalesce(func.max(_s_blocks.c.id), 0)))
_LAST_BLOCK: Final = Statement(lambda: select(sequences.c.seq).where(sequences.c.name == blocks.name))
_FITTING: Final = Statement(lambda: select(volume_state.c.value).where(volume_state.c.key == FITTING))
_SET_FITTING: Final = Statement(
    lambda value: insert(volume_state).prefix_with("OR REPLACE").values(key=FITTING, value=value)
)


def add_temporary_hashes(database: Database) -> None:
    """Makes the temporary table for a connection, if it has none, in whatever transaction is open."""
    if not database.has_temporary("table", block_hashes.name):
        database.execute(ddl(CreateTable(temporary_hashes)))
        _FILL_TEMPORARY.on(database).all()


def _last_block(database: Database) -> int:
    """The last number that a block was given."""
    row = _LAST_BLOCK.on(database).one()
    return 0 if row is None else int(row[0])


class HashIndex:
    """`block_hashes` for an index; `ensure` comes before each use of `of_hash`. Needs the caller's lock, but for
    `prepare`.

    Args:
        database: the index.
        beside: whether the table lies beside it; else it is temporary.
    """

    def __init__(self, database: Database, *, beside: bool) -> None:
        self._database = database
        self._beside = beside
        self._closed_path = Path(f"{database.path}{HASHES_SUFFIX}")
        self._open_path = Path(f"{database.path}{HASHES_OPEN_SUFFIX}")
        self._mutex = threading.Lock()
        """Held while the file is prepared."""
        self._is_prepared = False
        self._is_attached = False
        self._last = 0
        """The last block that the table has without the triggers."""
        self._known: int | None = None

    def prepare(self) -> None:
        """Makes the file beside the index ready, which takes long where it is made again; by any thread, and without
        the caller's lock, as it reads only what is committed. A second call does nothing.

        Raises:
            IndexDatabaseError: the disk failed, or is full.
        """
        if not self._beside or self._is_prepared:
            return
        with self._mutex:
            if not self._is_prepared:
                reader = Database(self._database.path, "read")
                try:
                    if not self._reopen(reader):
                        self._make()
                finally:
                    reader.close()
                self._is_prepared = True

    def ensure(self) -> None:
        """Makes it usable: once in the life of an open index, and again where that was undone.

        Raises:
            IndexDatabaseError: the disk failed, or is full; nothing has changed.
        """
        database = self._database
        if self._known == database.undone:  # else what was undone may have been a part of this
            return
        if database.lost:
            database.begin()
        is_alone = not database.writing
        if self._beside:
            self.prepare()
            if not self._is_attached:
                database.attach_beside(self._open_path, _SCHEMA, _CACHE_KIB)
                self._is_attached = True
        elif not database.has_temporary("table", block_hashes.name):
            add_temporary_hashes(database)
            self._last = _last_block(database)
        if database.can_write and not database.has_temporary("trigger", mirror_trigger(block_hashes.name)):
            self._complete()
        if is_alone and database.writing:
            database.commit()
        self._known = database.undone

    def _reopen(self, reader: Database) -> bool:
        """Takes the file that was closed well, if it fits the index; returns whether it does."""
        fitting = _FITTING.on(reader).one()
        try:
            if fitting is None or not self._closed_path.exists():
                return False
            self._closed_path.replace(self._open_path)
            sync_folder(self._open_path.parent)
            self._last = _last_block(reader)
            return str(fitting[0]) == self._fitting(self._last)
        except OSError as error:
            raise os_fault(self._open_path, error) from error

    def _fitting(self, last: int) -> str:
        return f"{hash_file(self._open_path)} {last}"

    def _make(self) -> None:
        """Makes the file from the committed blocks, by a connection of its own: that one may write pages before it
        commits, so memory is bounded."""
        remove_database(self._open_path)
        remove_database(self._closed_path)
        builder = Database(self._open_path, "scratch", create=True)
        try:
            builder.keep_temporary_tables_in_files(CACHE_SIZE_KIB)
            builder.attach(self._database.path, _SOURCE)
            builder.begin()
            builder.change(ddl(CreateTable(block_hashes)))
            self._last = int(_LAST_OF_SOURCE.on(builder).one()[0])
            _FILL.on(builder).run()
            builder.commit()
        finally:
            builder.close()
        try:
            sync_file(self._open_path)  # else the first commit would wait for the disk, under the caller's lock
        except OSError as error:
            raise os_fault(self._open_path, error) from error

    def _complete(self) -> None:
        """Enters what the open group has changed, and from now on all that is changed."""
        self._database.mirror_rows(
            blocks.name,
            block_hashes.name,
            f"(substr(new.hash, 1, {PREFIX_BYTES}), new.id)",
            f"prefix = substr(old.hash, 1, {PREFIX_BYTES}) AND block = old.id",
        )
        _CATCH_UP.on(self._database).run(self._last)
        if _HAS.on(self._database).one(RESTORED):
            _DELETE_UNREFERENCED.on(self._database).run()
            _REMOVE.on(self._database).run(RESTORED)

    def close(self) -> None:
        """Closes the file, before the index is closed. Unless something is uncommitted, it is used again."""
        if not self._is_attached:
            return
        self._is_attached = self._is_prepared = False
        with suppress(IndexDatabaseError, OSError):  # if this fails, the file is made again
            if self._database.writing or self._database.lost:
                return
            self._database.detach(_SCHEMA)
            sync_file(self._open_path)
            self._database.begin()
            _SET_FITTING.on(self._database).run(self._fitting(_last_block(self._database)))
            self._database.commit()
            self._open_path.replace(self._closed_path)
            sync_folder(self._closed_path.parent)
