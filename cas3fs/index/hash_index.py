# SPDX-License-Identifier: GPL-3.0-or-later
"""The index on the hashes of blocks, which snapshots do without: it can be made again from the rest.

Hashes are random, so every new block changes another page of it, and random pages do not compress: of a thousand
changed files it would be most of what a snapshot stores. So it is dropped from the copy that becomes a snapshot; its
pages become free ones, which are overwritten with zeros. Making it again takes about a microsecond a block. Nothing
that only reads files looks for a hash, so an index that was restored does without it until the first lookup
(`HashIndex`).

Before any hash can be found in it, the blocks that no chunk names are deleted: packs that held nothing else may be gone
(`cas3fs.maintenance.snapshot_index`), so none of them may be used again. Both happen in one transaction.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import Executable, delete, select
from sqlalchemy.schema import CreateIndex, DropIndex

from cas3fs.index.files import remove_fingerprint
from cas3fs.index.sqlite import CACHE_SIZE_KIB, Database, Mode
from cas3fs.index.statement import Statement, ddl
from cas3fs.index.tables import blocks, chunks

NAME: Final = "uq_blocks_hash"
_INDEX: Final = next(one for one in blocks.indexes if one.name == NAME)


def delete_unreferenced() -> Executable:
    """SQL: deletes every block that no chunk names."""
    return delete(blocks).where(blocks.c.id.not_in(select(chunks.c.block)))


_DELETE_UNREFERENCED: Final = Statement(delete_unreferenced)


def drop_hash_index(path: Path) -> None:
    """Drops the index from a scratch copy, which must not be open; the copy is not synced.

    Raises:
        IndexDatabaseError: it cannot be written.
    """
    database = Database(path, "scratch")
    try:
        database.zero_freed_pages()
        database.execute(ddl(DropIndex(_INDEX, if_exists=True)))
    finally:
        database.close()


def restore_hash_index(path: Path, mode: Mode = "scratch") -> bool:
    """Makes the index again in a database, which must not be open; returns whether it was missing.

    Args:
        path: the database file.
        mode: "scratch" for a scratch copy: nothing waits for the disk.

    Raises:
        IndexDatabaseError: it cannot be written.
    """
    database = Database(path, mode, cache_kib=CACHE_SIZE_KIB)  # what is sorted should fit
    try:
        made = _restore(database)
        if made:
            remove_fingerprint(path)
        database.commit()
        return made
    finally:
        database.close()


class HashIndex:
    """The index on hashes of an open database; `ensure` comes before each lookup. Needs the caller's lock."""

    __slots__ = ("_database", "_known")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: int | None = None

    def ensure(self) -> None:
        """Makes it where it is missing, once in the life of a restored index: about 0.2 s for 200,000 blocks.

        Raises:
            IndexDatabaseError: it cannot be written; nothing has changed.
        """
        if self._known == self._database.undone:  # else what was undone may have been this
            return
        is_alone = not self._database.writing and not self._database.lost
        if _restore(self._database) and is_alone:
            self._database.commit()
        self._known = self._database.undone


def _restore(database: Database) -> bool:
    """Makes the index where it is missing, in the transaction that is open or a new one; returns whether it was."""
    if database.has("index", NAME):
        return False
    _DELETE_UNREFERENCED.on(database).run()
    database.change(ddl(CreateIndex(_INDEX)))
    return True
