# SPDX-License-Identifier: GPL-3.0-or-later
"""An index in the store that an attacker made: nothing outside the target is reached, and errors are clear."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from cas3fs.commands.extract import extract
from cas3fs.errors import Cas3fsError, IndexCorrupt
from cas3fs.export import ExportResult
from cas3fs.filesystem import ROOT, Owner
from cas3fs.values import SnapshotNumber
from tests.hostile.mutations import Edit, edits, harmed
from tests.volume.conftest import Volume, write

FILE_MODE, LINK_MODE, DIR_MODE = 0o100644, 0o120777, 0o040755
ADD_INODE = "INSERT INTO inodes VALUES (?, ?, 0, 0, ?, 0, 0, ?, 0, 0, 0, 0, 1, 0, 0, 0)"
ADD_NAME = "INSERT INTO dentries (parent, name, inode) VALUES (?, ?, ?)"
HOSTILE_NAMES = [b"..", b".", b"", b"/", b"../../out", b"a/b", b"a\0b", b"x" * 256]


def silent(_: object) -> None:
    pass


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    (tmp_path / "volume").mkdir()
    made = Volume(tmp_path / "volume")
    opened = made.open()
    write(opened, "file", "text")
    opened.filesystem.mkdir(ROOT, b"folder", 0o755, Owner())
    opened.finish()
    opened.close()
    yield made
    made.close()


def newest_index(volume: Volume, folder: Path) -> Path:
    newest = volume.archive.newest_id()
    assert newest is not None
    path = folder / "index.sqlite"
    path.unlink(missing_ok=True)
    volume.archive.restore(newest, path)
    return path


def publish(volume: Volume, index: Path) -> str:
    """Publish a file as the newest snapshot; returns its id."""
    newest = volume.archive.newest_id()
    assert newest is not None
    number = SnapshotNumber.parse(newest)
    return volume.archive.create(index, epoch=number.epoch, sequence=number.sequence + 1, parent=newest).id


def publish_changed(volume: Volume, folder: Path, *statements: tuple[object, ...]) -> str:
    """Publish the newest index changed by these statements, each with its parameters."""
    path = newest_index(volume, folder)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for sql, *parameters in statements:
            connection.execute(str(sql), parameters)
    return publish(volume, path)


def extract_all(volume: Volume, snapshot: str, destination: Path) -> ExportResult:
    return extract(volume.store_settings, volume.folders("x"), snapshot, "/", destination, progress=silent)


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("mode", [FILE_MODE, LINK_MODE, DIR_MODE])
def test_an_invalid_name_is_not_extracted(volume: Volume, tmp_path: Path, name: bytes, mode: int) -> None:
    snapshot = publish_changed(
        volume,
        tmp_path,
        (ADD_INODE, 100, mode, 1, 0),
        ("INSERT INTO symlinks VALUES (100, ?)", b"/etc"),
        (ADD_NAME, 1, name, 100),
    )
    out = tmp_path / "extracted" / "into"
    out.mkdir(parents=True)
    before = below(tmp_path / "extracted")
    result = extract_all(volume, snapshot, out)
    assert below(tmp_path / "extracted") - before == {"into/file", "into/folder"}
    assert len(result.problems) == 1
    assert (out / "file").read_text() == "text"


def test_an_absolute_name_stays_inside_the_target(volume: Volume, tmp_path: Path) -> None:
    target = tmp_path / "target"
    snapshot = publish_changed(
        volume, tmp_path, (ADD_INODE, 100, DIR_MODE, 2, 0), (ADD_NAME, 1, os.fsencode(target), 100)
    )
    result = extract_all(volume, snapshot, tmp_path / "out")
    assert not target.exists()
    assert below(tmp_path / "out") == {"file", "folder"}
    assert len(result.problems) == 1


def test_extraction_does_not_follow_extracted_links(volume: Volume, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    snapshot = publish_changed(
        volume,
        tmp_path,
        ("DROP TABLE dentries",),
        ("CREATE TABLE dentries (id INTEGER PRIMARY KEY, parent INTEGER, name BLOB, inode INTEGER)",),
        (ADD_INODE, 100, LINK_MODE, 1, 0),
        ("INSERT INTO symlinks VALUES (100, ?)", os.fsencode(target)),
        (ADD_INODE, 101, DIR_MODE, 2, 0),
        (ADD_INODE, 102, FILE_MODE, 1, 0),
        (ADD_NAME, 1, b"way", 100),
        (ADD_NAME, 1, b"way", 101),
        (ADD_NAME, 1, b"way", 102),
        (ADD_NAME, 101, b"through", 102),
    )
    with suppress(Cas3fsError):
        assert extract_all(volume, snapshot, tmp_path / "out").problems != []
    assert list(target.iterdir()) == []


def test_a_folder_that_contains_itself_is_extracted_once(volume: Volume, tmp_path: Path) -> None:
    snapshot = publish_changed(
        volume,
        tmp_path,
        (ADD_INODE, 100, DIR_MODE, 3, 0),
        (ADD_NAME, 1, b"round", 100),
        (ADD_NAME, 100, b"a", 100),
        (ADD_NAME, 100, b"b", 100),
    )
    result = extract_all(volume, snapshot, tmp_path / "out")
    assert below(tmp_path / "out") == {"file", "folder", "round"}
    assert len(result.problems) == 2


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("UPDATE inodes SET uid = ? WHERE id = 2", 2**40),
        ("UPDATE inodes SET mtime_ns = ? WHERE id = 2", -(2**63)),
        ("UPDATE inodes SET mtime_ns = ? WHERE id = 2", "no time"),
        ("UPDATE inodes SET mode = ? WHERE id = 2", b"no mode"),
        ("UPDATE inodes SET mode = ? WHERE id = 2", 0o170644),
        ("UPDATE inodes SET size = ? WHERE id = 2", -5),
        ("UPDATE inodes SET size = ? WHERE id = 2", "no size"),
        ("UPDATE inodes SET mode = 40960, nlink = 1 WHERE id = 2 AND ? IS NOT NULL", 1),
        ("INSERT INTO xattrs VALUES (2, ?, 'text')", b"user.a\0b"),
        ("INSERT INTO symlinks VALUES (2, ?)", b"a\0b"),
        ("UPDATE dentries SET name = ? WHERE inode = 2", "a text"),
        ("UPDATE dentries SET name = ? WHERE inode = 2", 17),
        ("UPDATE dentries SET inode = ?", 999),
        ("UPDATE chunks SET length = ?", 2**62),
        ("UPDATE chunks SET length = ?", -1),
        ("UPDATE chunks SET skip = ?", 2**62),
        ("UPDATE chunks SET skip = ?", -3),
        ("UPDATE blocks SET plain_length = ?", 2**62),
        ("UPDATE blocks SET plain_length = ?", -1),
        ("UPDATE blocks SET stored_length = ?", 2**62),
        ("UPDATE blocks SET stored_length = ?", -1),
        ("UPDATE blocks SET offset = ?", -1),
        ("UPDATE blocks SET offset = ?", "x"),
        ("UPDATE blocks SET hash = ?", b"short"),
        ("UPDATE packs SET name = ?", "../../../etc/passwd"),
        ("UPDATE packs SET name = ?", b"\xff"),
        ("UPDATE packs SET size = ?", 2**62),
    ],
)
def test_invalid_values_are_problems_of_their_file(volume: Volume, tmp_path: Path, sql: str, value: object) -> None:
    snapshot = publish_changed(volume, tmp_path, (sql, value))
    try:
        result = extract_all(volume, snapshot, tmp_path / "out")
    except (Cas3fsError, OSError) as error:
        assert str(error)
        return
    for line in result.problems:
        assert "\n" not in line
    file = tmp_path / "out" / "file"
    if any(name in sql for name in ("chunks", "blocks", "packs")) and result.problems:
        assert not file.exists()  # a partial file would be taken for a complete one


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER harm AFTER INSERT ON volume_state BEGIN DELETE FROM inodes; END",
        "CREATE VIEW more AS SELECT * FROM inodes",
        "CREATE VIRTUAL TABLE more USING fts5(a)",
        "CREATE TABLE more (a)",
        "CREATE INDEX more ON inodes (abs(size))",
    ],
)
def test_an_index_with_foreign_schema_is_refused(volume: Volume, tmp_path: Path, sql: str) -> None:
    publish_changed(volume, tmp_path, (sql,))
    with pytest.raises(IndexCorrupt, match="which no index of cas3fs has"):
        volume.open("there")
    with pytest.raises(IndexCorrupt, match="which no index of cas3fs has"):
        volume.view()


def test_an_index_without_tables_is_refused(volume: Volume, tmp_path: Path) -> None:
    publish_changed(volume, tmp_path, ("DROP TABLE inodes",))
    with pytest.raises(Cas3fsError):
        volume.view()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings.default.max_examples // 2)
@given(changes=edits)
def test_an_index_of_arbitrary_bytes_is_extracted_or_refused(
    volume: Volume, tmp_path: Path, changes: list[Edit]
) -> None:
    index = tmp_path / "index.sqlite"
    index.unlink(missing_ok=True)
    volume.archive.restore("00000001-0000000001", index)
    index.write_bytes(harmed(index.read_bytes(), changes))
    snapshot = publish(volume, index)
    (tmp_path / "outs").mkdir(exist_ok=True)
    try:
        extract_all(volume, snapshot, tmp_path / "outs" / snapshot)
    except (Cas3fsError, OSError) as error:
        assert str(error)
