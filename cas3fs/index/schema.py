# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the tables of a new index, and what a database must hold to be an index.

A database that came from elsewhere is checked before anything in it is believed: SQLite runs triggers and views by
itself, and both may hold any statement. An index has neither, so a database that has some was made by another program,
and is refused before the first query.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sqlalchemy import Index, MetaData, insert, select
from sqlalchemy.schema import CreateIndex, CreateTable

from cas3fs.errors import IndexCorrupt, IndexDatabaseError, IndexTooNew
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement, ddl
from cas3fs.index.tables import alembic_version, metadata, revision_metadata

REVISIONS: Final = ("0001", "0002", "0003", "0004")
"""The ids of all migrations, oldest first."""

SCHEMA_REVISION: Final = REVISIONS[-1]
"""The revision that this cas3fs works with."""

_SQLITES_OWN: Final = "sqlite_"
_ADD_REVISION = Statement(lambda revision: insert(alembic_version).values(version_num=revision).inline())
_REVISION = Statement(lambda: select(alembic_version.c.version_num))


def creating(*declared: MetaData) -> list[str]:
    """The statements that make the declared tables and their indexes."""
    tables = [table for one in declared for table in one.sorted_tables]
    return [
        text
        for table in tables
        for text in (ddl(CreateTable(table)), *(ddl(CreateIndex(index)) for index in _by_name(table.indexes)))
    ]


def create_tables(database: Database) -> None:
    """Makes all tables of an index and notes their revision, within the transaction."""
    for text in creating(metadata, revision_metadata):
        database.change(text)
    _ADD_REVISION.on(database).run(SCHEMA_REVISION)


def revision_of(database: Database) -> str | None:
    """The revision of the tables; None where none was ever noted."""
    if not database.has("table", alembic_version.name):
        return None
    row = _REVISION.on(database).one()
    return None if row is None else str(row[0])


def check_revision(database: Database) -> None:
    """Makes sure that the tables are those of this cas3fs.

    Raises:
        IndexTooNew: a newer cas3fs made or migrated them.
        IndexDatabaseError: it is no index, or has to be migrated first.
    """
    revision = revision_of(database)
    if revision is None:
        raise IndexDatabaseError(f"{database.path}: not an index of cas3fs")
    if revision not in REVISIONS:
        raise IndexTooNew(f"{database.path}: made by a newer cas3fs (its revision is {revision}): use that")
    if revision != SCHEMA_REVISION:
        raise IndexDatabaseError(f"{database.path}: has to be migrated from {revision} to {SCHEMA_REVISION} first")


def refuse_programs(database: Database) -> None:
    """Raises IndexCorrupt where the database holds anything but tables and indexes that store rows."""
    for kind, name, root in database.catalogue():
        if kind not in ("table", "index") or not root:
            raise _foreign(database.path, kind, name)


def check_names(database: Database) -> None:
    """Raises IndexCorrupt where the database has other tables than an index of this cas3fs, or lacks one."""
    tables = {*metadata.tables, *revision_metadata.tables}
    indexes = {index.name for table in metadata.tables.values() for index in table.indexes}
    found = set()
    for kind, name, _ in database.catalogue():
        if not name.startswith(_SQLITES_OWN) and name not in (tables if kind == "table" else indexes):
            raise _foreign(database.path, kind, name)
        found.add(name)
    if missing := sorted(tables - found):
        raise IndexCorrupt(f"{database.path}: it has no table {missing[0]}, so it is no index of cas3fs")


def _foreign(path: Path, kind: str, name: str) -> IndexCorrupt:
    return IndexCorrupt(f"{path}: it holds the {kind} {name!r}, which no index of cas3fs has")


def _by_name(indexes: Iterable[Index]) -> list[Index]:
    return sorted(indexes, key=lambda one: str(one.name))
