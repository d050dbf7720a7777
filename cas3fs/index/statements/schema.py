# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes the tables of `cas3fs.index.tables`, and what is theirs by name."""

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Index, MetaData
from sqlalchemy.schema import CreateIndex, CreateTable, DropIndex

from cas3fs.index.statements.writing import ddl
from cas3fs.index.tables import blocks, metadata, revision_metadata, staged, staging_metadata


def _creating(*declared: MetaData) -> tuple[str, ...]:
    tables = [table for one in declared for table in one.sorted_tables]
    return tuple(
        text
        for table in tables
        for text in (ddl(CreateTable(table)), *(ddl(CreateIndex(index)) for index in _by_name(table.indexes)))
    )


def _by_name(indexes: Iterable[Index]) -> list[Index]:
    return sorted(indexes, key=lambda one: str(one.name))


CREATE: Final = _creating(metadata, revision_metadata)
CREATE_STAGING: Final = _creating(staging_metadata)
ADD_LOST: Final = f"ALTER TABLE {staged.name} ADD COLUMN {staged.c.lost.name} BLOB"
TABLES: Final = tuple(sorted((*metadata.tables, *revision_metadata.tables)))
INDEXES: Final = tuple(sorted(str(one.name) for table in metadata.tables.values() for one in table.indexes))

# taken out of snapshots: `cas3fs.index.hash_index`
TRIMMED: Final = "uq_blocks_hash"
_trimmed = next(one for one in blocks.indexes if one.name == TRIMMED)
CREATE_TRIMMED: Final = ddl(CreateIndex(_trimmed))
DROP_TRIMMED: Final = ddl(DropIndex(_trimmed, if_exists=True))
