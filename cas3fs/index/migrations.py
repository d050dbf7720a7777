# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing an index that an older cas3fs made to the tables of this one.

The steps are Alembic's, in the folder `migrations/` of the source tree, which is installed as ``cas3fs.migrations``.
They run on a copy that then takes the index's place, so a migration that fails, or is killed, leaves what was there.
Alembic is imported only when there is something to do; to know that, the revision written in the database is compared
with `schema.REVISIONS`.
"""

import importlib.util
from pathlib import Path
from typing import Final

import cas3fs
from cas3fs.errors import IndexDatabaseError, IndexTooNew
from cas3fs.index.files import put_in_place, remove_database
from cas3fs.index.index import Index, PinnedIndex
from cas3fs.index.schema import REVISIONS, SCHEMA_REVISION, check_names, refuse_programs, revision_of
from cas3fs.index.sqlite import Database

_PACKAGE: Final = "cas3fs.migrations"
_LOG_BYTE: Final = 18
"""Of SQLite's header: 1 where there is a rollback journal, 2 where there is a write-ahead log."""


def head() -> str:
    """The revision that this cas3fs works with."""
    return SCHEMA_REVISION


def current(path: Path) -> str | None:
    """The revision of a database file; None where there is none, or an empty one.

    Raises:
        IndexCorrupt: it is not a database, or holds what no index has.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    # only a connection that may write takes over a log that a crash left
    database = Database(path, "write" if _has_log(path) else "scratch")
    try:
        refuse_programs(database)
        revision = revision_of(database)
        if revision == SCHEMA_REVISION:
            check_names(database)
        return revision
    finally:
        database.close()


def _has_log(path: Path) -> bool:
    """Whether the database works with a write-ahead log; no SQLite of this process may have it open."""
    with open(path, "rb") as file:
        return file.read(_LOG_BYTE + 1)[_LOG_BYTE:] != b"\1"


def upgrade(path: Path) -> bool:
    """Brings the index, which must not be open, to `head`, or makes an empty one; returns whether anything was done.

    Raises:
        IndexTooNew: its revision is not known here.
        IndexFull: no space left for the copy.
        IndexDatabaseError: it is not an index, or a step failed; the index is as it was.
    """
    revision = current(path)
    if revision == SCHEMA_REVISION:
        return False
    if revision is None:
        Index.open(path, create=True).close()
        return True
    if revision not in REVISIONS:
        raise IndexTooNew(f"{path}: made by a newer cas3fs (its revision is {revision}): use that")
    _upgrade_copy(path)
    return True


def _upgrade_copy(path: Path) -> None:
    copy = path.with_name(f"{path.name}.migrating")
    database = Database(path)  # closed last, it takes the log's commits over and removes the log
    try:
        with PinnedIndex(path) as pinned:
            pinned.copy_to(copy)
    finally:
        database.close()
    try:
        run_steps(copy)
        put_in_place(copy, path)
    finally:
        remove_database(copy)


def run_steps(path: Path, upto: str | None = None) -> None:
    """Runs Alembic on a scratch copy, from its revision, or from nothing, to `upto` or `head`.

    Raises:
        IndexDatabaseError: a step failed.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
    from sqlalchemy.pool import StaticPool

    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    database = Database(path, "scratch", create=True)
    engine = create_engine("sqlite://", creator=lambda: database.connection, poolclass=StaticPool)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, upto or SCHEMA_REVISION)
        database.drop_log()
    except DBAPIError as error:
        raise database.fault(error.orig) from error  # type: ignore[arg-type]
    except (SQLAlchemyError, CommandError) as error:
        raise IndexDatabaseError(f"{path}: the migration failed: {error}") from error
    finally:
        engine.dispose()
        database.close()


def folder() -> Path:
    """Where the steps lie: in the installed package, or beside it in a source tree that was never installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    return Path(cas3fs.__file__).parents[1] / "migrations"
