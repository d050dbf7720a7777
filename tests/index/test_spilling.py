# SPDX-License-Identifier: GPL-3.0-or-later
"""A group that outgrows SQLite's cache: what is committed is there after a crash."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError
from cas3fs.index import Index, StagedRow, StagingIndex
from cas3fs.index.sqlite import Database
from tests.index.conftest import add_file

CACHED_PAGES = 20


def as_after_a_crash(path: Path) -> Path:
    """The database as a kill would leave it now."""
    folder = path.parent / "crashed"
    folder.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        shutil.copy(path.parent / name, folder / name)
    return folder / path.name


@pytest.mark.promise("sqlite-never-spills")
def test_a_commit_of_a_large_group_with_an_undone_operation_survives_a_crash(path: Path) -> None:
    """Changed pages that are written early, in their place in the log, and then undone with a savepoint would leave
    frames without checksums before the commit; recovery ends at the first of them."""
    with Index.open(path, create=True) as index:
        index._database.execute(f"PRAGMA cache_size={CACHED_PAGES}")
        files = [add_file(index, b"%d" % number) for number in range(260)]
        put(index, files)
        index.commit()
        put(index, files[:60])
        with pytest.raises(KeyError), index.operation():
            put(index, files[100:160])
            put(index, files[100:160])
            raise KeyError
        put(index, files[200:])
        add_file(index, b"last")
        index.commit()
        index.sync()
        crashed = as_after_a_crash(path)
    with Index.open(crashed) as index:
        assert index.namespace.child(1, b"last") is not None


def put(index: Index, files: list[int]) -> None:
    for number in files:
        index.namespace.set_xattr(number, b"user.a", os.urandom(3000))


def index_database(folder: Path) -> Database:
    return Index.open(folder / "index.sqlite", create=True)._database


def staging_database(folder: Path) -> Database:
    return StagingIndex(folder / "staging.sqlite")._database


@pytest.mark.promise("sqlite-never-spills")
@pytest.mark.parametrize("opened", [index_database, staging_database])
def test_nothing_is_written_to_the_log_before_the_commit(tmp_path: Path, opened: Callable[[Path], Database]) -> None:
    database = opened(tmp_path)
    database.execute(f"PRAGMA cache_size={CACHED_PAGES}")
    before = log_of(database)
    database.begin()
    database.execute("CREATE TABLE filler (x)")
    for _ in range(20 * CACHED_PAGES):
        database.execute("INSERT INTO filler VALUES (randomblob(3000))")
    assert log_of(database) == before
    database.commit()
    assert log_of(database) != before
    database.close()


def log_of(database: Database) -> bytes:
    return Path(f"{database.path}-wal").read_bytes()[: 64 * 4096]


@pytest.mark.promise("sqlite-never-spills")
def test_a_sqlite_that_spills_nevertheless_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(sqlite3.Connection):
        def execute(self, text: str, *values: object) -> sqlite3.Cursor:
            return super().execute("PRAGMA user_version" if text == "PRAGMA cache_spill=OFF" else text, *values)

    monkeypatch.setattr(Database, "connection_class", Stubborn)
    with pytest.raises(IndexDatabaseError, match=r"use SQLite 3\.50\.2 or later"):
        Index.open(path, create=True)


def test_changed_pages_count_rows_and_large_values_until_the_group_ends(index: Index) -> None:
    assert index.changed_pages == 0
    for number in range(10):
        add_file(index, b"%d" % number)
    rows = index.changed_pages
    assert 10 <= rows <= 100
    index.namespace.set_xattr(1, b"user.a", bytes(1 << 20))
    assert index.changed_pages >= rows + 256
    index.commit()
    assert index.changed_pages == 0


@pytest.mark.promise("sqlite-never-spills")
def test_records_of_staging_survive_a_crash_after_an_undone_batch(tmp_path: Path) -> None:
    def rows(first: int) -> list[StagedRow]:
        return [StagedRow(n, 1, None, 3000, 1, 1, b"", os.urandom(3000)) for n in range(first, first + 100)]

    with StagingIndex(tmp_path / "staging.sqlite") as staging:
        staging._database.execute(f"PRAGMA cache_size={CACHED_PAGES}")
        staging.save(rows(0))
        staging.save(rows(0))
        with pytest.raises(IndexDatabaseError):
            staging.save([*rows(100), StagedRow(2**63, 1, None, 0, 0, 0, b"", b"")])
        staging.save(rows(200))
        staging.commit()
        crashed = as_after_a_crash(tmp_path / "staging.sqlite")
    with StagingIndex(crashed) as staging:
        assert [row.inode for row in staging.rows()] == list(range(200, 300))
