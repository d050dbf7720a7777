# SPDX-License-Identifier: GPL-3.0-or-later
"""Readable records of staging are salvaged from a damaged database, which is kept."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.errors import IndexTooNew
from cas3fs.index import StagedRow, StagingIndex
from cas3fs.index.salvage import open_or_salvage

PAGE_BYTES = 4096
ROWS = 400


def row(inode: int) -> StagedRow:
    return StagedRow(inode, 1, None, 500, 0, 0, b"\0ranges", bytes([inode % 251]) * 500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of records on many pages, closed."""
    made = tmp_path / "staging.sqlite"
    with StagingIndex(made) as rows:
        rows.set_claim("the claim")
        rows.save([row(inode) for inode in range(1, ROWS + 1)])
        rows.commit()
    return made


def pages_of(path: Path, name: str) -> list[int]:
    """The numbers of the leaves of a table or an index, from 0."""
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    data = path.read_bytes()
    page = data[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    cells = int.from_bytes(page[3:5], "big")
    places = [int.from_bytes(page[12 + 2 * one : 14 + 2 * one], "big") for one in range(cells)]
    return [int.from_bytes(page[place : place + 4], "big") - 1 for place in places]


def spoil(path: Path, page: int) -> None:
    with open(path, "r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)


def test_an_undamaged_database_is_opened_as_it_is(path: Path, tmp_path: Path) -> None:
    with open_or_salvage(path, tmp_path / "aside") as rows:
        assert (rows.salvaged, len(list(rows.rows()))) == ("", ROWS)
    assert not (tmp_path / "aside").exists()


@pytest.mark.promise("a-damaged-record-costs-its-file")
def test_records_on_undamaged_pages_are_salvaged(path: Path, tmp_path: Path) -> None:
    leaves = pages_of(path, "staged")
    for page in (leaves[0], leaves[10], leaves[11], leaves[20]):
        spoil(path, page)
    before = path.read_bytes()
    with open_or_salvage(path, tmp_path / "aside") as rows:
        found = list(rows.rows())
        assert rows.claim == "the claim"
        told = rows.salvaged
    assert ROWS - 40 <= len(found) < ROWS - 20
    assert found == [row(one.inode) for one in found]
    assert str(path) in told and f"{len(found):,}" in told and "inodes 1, " in told
    (kept,) = (tmp_path / "aside").iterdir()
    assert kept.read_bytes() == before
    with open_or_salvage(path, tmp_path / "aside") as rows:
        assert (rows.salvaged, list(rows.rows())) == ("", found)


@pytest.mark.promise("a-damaged-record-costs-its-file")
def test_without_its_index_every_record_is_salvaged(path: Path, tmp_path: Path) -> None:
    spoil(path, pages_of(path, "sqlite_autoindex_staged_1")[0])
    with open_or_salvage(path, tmp_path / "aside") as rows:
        assert list(rows.rows()) == [row(inode) for inode in range(1, ROWS + 1)]


def test_a_file_that_is_not_a_database_is_replaced_by_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "staging.sqlite"
    path.write_bytes(b"garbage" * 1000)
    with open_or_salvage(path, tmp_path / "aside") as rows:
        assert list(rows.rows()) == [] and rows.salvaged
    assert [one.read_bytes() for one in (tmp_path / "aside").iterdir()] == [b"garbage" * 1000]


def test_a_database_of_a_newer_version_is_left_alone(path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(IndexTooNew):
        open_or_salvage(path, tmp_path / "aside")
    assert not (tmp_path / "aside").exists()
