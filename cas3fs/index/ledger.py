# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of a copy: what the blocks and files of the source become in the destination.

What it has is about content, and never becomes wrong: the hash that the bytes of a block have in the destination, and
how the destination's chunker cuts the bytes of a part of a file. So it may be ahead of the index or behind it, and
losing it costs only that the source is read again. It belongs to one source and one destination; with another pair it
begins empty. Two things in it are not about content: which snapshot the index beside it has caught up with, and what
was verified.

For one thread. Every method raises `IndexDatabaseError` and its kinds, and nothing else.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Executable, Table, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.files import remove_database
from cas3fs.index.schema import creating
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement
from cas3fs.index.tables import copied_blocks, ledger_meta, ledger_metadata, recut_parts, verified_parts
from cas3fs.values import BlockHash

_PAIR: Final = "pair"
_PUBLISHED: Final = "published"


def _put(table: Table, key: Any, value: Any) -> Executable:
    key_column, value_column = table.columns
    inserted = upsert(table).values({key_column: key, value_column: value})
    return inserted.on_conflict_do_update(
        index_elements=[key_column], set_={value_column.name: inserted.excluded[value_column.name]}
    )


_GET: Final = Statement(lambda key: select(ledger_meta.c.value).where(ledger_meta.c.key == key))
_SET: Final = Statement(lambda key, value: _put(ledger_meta, key, value))


class CopyLedger:
    """An open ledger."""

    def __init__(self, path: Path, pair: str) -> None:
        """Opens it; one that is missing or of another pair of volumes is made anew.

        Args:
            path: the file.
            pair: identifies source and destination.
        """
        self.path = path
        self._database = self._open(pair)

    def _open(self, pair: str) -> Database:
        database = Database(self.path, create=True)
        if not database.catalogue():
            return self._create(database, pair)
        row = _GET.on(database).one(_PAIR)
        if row is not None and row[0] == pair:
            return database
        database.close()
        remove_database(self.path)
        return self._create(Database(self.path, create=True), pair)

    def _create(self, database: Database, pair: str) -> Database:
        for text in creating(ledger_metadata):
            database.change(text)
        _SET.on(database).run(_PAIR, pair)
        database.commit()
        return database

    @property
    def published(self) -> str | None:
        """The snapshot whose packs the index beside the ledger knows, and all before it: empty for none, and None where
        that is not known."""
        row = _GET.on(self._database).one(_PUBLISHED)
        return None if row is None else str(row[0])

    def set_published(self, snapshot_id: str) -> None:
        """Notes that, and commits it."""
        _SET.on(self._database).run(_PUBLISHED, snapshot_id)
        self.commit()

    _put_block = Statement(lambda source, digest: _put(copied_blocks, source, digest))

    def add_blocks(self, pairs: Iterable[tuple[BlockHash, BlockHash]]) -> None:
        """Notes hashes of blocks: in the source, and in the destination."""
        self._put_block.many(list(pairs))

    _put_part = Statement(lambda digest, chunks: _put(recut_parts, digest, chunks))

    def add_part(self, digest: bytes, chunks: bytes) -> None:
        """Notes how a part of a file is cut."""
        self._put_part.run(digest, chunks)

    _part = Statement(lambda digest: select(recut_parts.c.chunks).where(recut_parts.c.digest == digest))

    def part(self, digest: bytes) -> bytes | None:
        """How a part of a file is cut; None if it is not known."""
        row = self._part.one(digest)
        return None if row is None else bytes(row[0])

    _delete_verified = Statement(lambda: delete(verified_parts))

    def begin_verification(self) -> None:
        """Nothing was compared yet."""
        self._delete_verified.run()
        self.commit()

    _add_verified = Statement(lambda digest: upsert(verified_parts).values(digest=digest).on_conflict_do_nothing())

    def add_verified(self, digest: bytes) -> bool:
        """Notes that a part was compared; False if that was known."""
        return self._add_verified.run(digest) > 0

    def commit(self) -> None:
        """Commits what was noted."""
        self._database.commit()

    def close(self) -> None:
        """Closes it; what was not committed is lost."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
