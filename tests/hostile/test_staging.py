# SPDX-License-Identifier: GPL-3.0-or-later
"""Arbitrary contents of staging at a mount: recovered, or a clear error."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas3fs.errors import Cas3fsError
from cas3fs.filesystem import FileSystem
from cas3fs.filesystem.state.extents import pack_ranges, unpack_ranges
from tests.filesystem.machine import Machine
from tests.filesystem.usage import content, make_file, names_in
from tests.hostile.mutations import Edit, edits, harmed

SMALL, LARGE = b"small" * 20, b"large" * 100_000
RANGES = pack_ranges([(0, 5), (9, 12)]), pack_ranges([(0, 2**62)]), pack_ranges([(2**62, 2**63 - 1)])
VALUES = st.sampled_from([None, -(2**63), -1, 0, 1, 2**40, 2**62, 2**63 - 1, "text", b"", b"bytes", 1.5, *RANGES])
DATABASES = ("staging.sqlite", "staging.sqlite-wal", "index.sqlite", "index.sqlite-wal")
COLUMNS = ("inode", "seq", "floor", "size", "mtime_ns", "ctime_ns", "ranges", "data", "lost", "holes")


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The staging folder of a machine that was killed with two staged files."""
    machine = Machine(tmp_path_factory.mktemp("left") / "machine")
    fs = machine.mount()
    make_file(fs, 1, b"small", SMALL)
    make_file(fs, 1, b"large", LARGE)
    fs.commit()
    copy = machine.copy_of_the_disk()
    machine.close()
    return copy.folder


def copy_of(left: Path, tmp_path: Path) -> Machine:
    shutil.rmtree(tmp_path / "machine", ignore_errors=True)
    shutil.copytree(left, tmp_path / "machine")
    return Machine(tmp_path / "machine")


def mount_or_refuse(machine: Machine) -> None:
    """Mount, read what can be read, and commit; every failure must have a clear error."""
    try:
        fs = machine.mount()
        for name in names_in(fs, 1):
            read_or_refuse(fs, name)
        fs.commit()
    except (Cas3fsError, OSError) as error:
        assert str(error)
    finally:
        machine.close()


def read_or_refuse(fs: FileSystem, name: bytes) -> None:
    try:
        if fs.lookup(1, name).size < 1 << 24:
            content(fs, name)
    except (Cas3fsError, OSError, EOFError) as error:
        assert str(error)


def test_staged_files_are_recovered(left: Path, tmp_path: Path) -> None:
    machine = copy_of(left, tmp_path)
    fs = machine.mount()
    assert content(fs, b"small") == SMALL
    assert content(fs, b"large") == LARGE
    machine.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings.default.max_examples // 4)
@given(column=st.sampled_from(COLUMNS), value=VALUES, number=st.integers(2, 3))
def test_a_row_of_arbitrary_values_is_recovered_or_refused(
    left: Path, tmp_path: Path, column: str, value: object, number: int
) -> None:
    machine = copy_of(left, tmp_path)
    with closing(sqlite3.connect(machine.folder / "staging.sqlite")) as rows:
        try:
            rows.execute(f"UPDATE staged SET {column} = ? WHERE inode = ?", (value, number))
            rows.commit()
        except sqlite3.IntegrityError:
            return
    mount_or_refuse(machine)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings.default.max_examples // 4)
@given(changes=edits, name=st.sampled_from(DATABASES))
def test_a_database_of_arbitrary_bytes_is_recovered_or_refused(
    left: Path, tmp_path: Path, changes: list[Edit], name: str
) -> None:
    machine = copy_of(left, tmp_path)
    file = machine.folder / name
    if file.exists():
        file.write_bytes(harmed(file.read_bytes(), changes))
    mount_or_refuse(machine)


@pytest.mark.parametrize("make", [Path.unlink, Path.mkdir, lambda path: path.write_bytes(b""), lambda path: path])
def test_an_invalid_layer_file_is_reported(left: Path, tmp_path: Path, make: object) -> None:
    machine = copy_of(left, tmp_path)
    [file] = (machine.folder / "staging").glob("*-*")
    if make is Path.mkdir:
        file.unlink()
    make(file)  # type: ignore[operator]
    mount_or_refuse(machine)


def test_a_layer_file_that_is_a_link_is_not_followed(left: Path, tmp_path: Path) -> None:
    machine = copy_of(left, tmp_path)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine" * 1000)
    [file] = (machine.folder / "staging").glob("*-*")
    file.unlink()
    file.symlink_to(outside)
    mount_or_refuse(machine)
    assert outside.read_bytes() == b"mine" * 1000


@given(blob=st.binary(max_size=64) | edits.map(lambda changes: harmed(pack_ranges([(0, 5), (9, 12)]), changes)))
def test_ranges_of_arbitrary_bytes_are_ascending_or_refused(blob: bytes) -> None:
    try:
        ranges = unpack_ranges(blob)
    except ValueError as error:
        assert str(error)
        return
    ends = [place for one in ranges for place in one]
    assert ends == sorted(ends)
    assert pack_ranges(ranges) == blob
