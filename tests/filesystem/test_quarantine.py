# SPDX-License-Identifier: GPL-3.0-or-later
"""A damaged row of staged bytes is quarantined: its file is as it was stored last, and all others are restored."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.filesystem import FileSystem
from tests.filesystem.machine import Machine
from tests.filesystem.usage import content, make_file, rewrite

DAMAGES = {
    "garbage for ranges": "ranges = x'0102'",
    "ranges that go back": f"ranges = x'{'09' * 8}{'01' * 8}'",
    "fewer bytes than ranges": "data = x'00'",
    "a size below its ranges": "size = 1, floor = 0",
    "a negative size": "size = -5",
    "a text for a size": "size = 'many'",
    "a text for a sequence": "seq = 'x'",
    "a far sequence": "seq = 7000",
    "a floor above its size": "floor = 5000",
    "no ranges at all": "ranges = 5",
}


@pytest.fixture
def crashed(machine: Machine) -> Iterator[Machine]:
    """Killed with f stored as "old", rewritten to "new" since, and with other files staged, one of them large."""
    fs = machine.mount()
    make_file(fs, 1, b"f", b"old" * 100)
    fs.store_all()
    rewrite(fs, b"f", 0, b"new" * 100)
    make_file(fs, 1, b"other", b"important")
    make_file(fs, 1, b"large", b"l" * 400_000)
    fs.commit()
    copy = machine.copy_of_the_disk()
    yield copy
    copy.close()


def damage(machine: Machine, change: str, inode: int) -> None:
    with closing(sqlite3.connect(machine.folder / "staging.sqlite")) as database, database:
        assert database.execute(f"UPDATE staged SET {change} WHERE inode = ?", (inode,)).rowcount == 1


def inode_of(fs: FileSystem, name: bytes) -> int:
    return fs.lookup(1, name).number


def records_aside(machine: Machine) -> list[Path]:
    return sorted((machine.folder / "staging" / "aside").glob("*.json"))


@pytest.mark.promise("a-damaged-record-costs-its-file")
@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_row_concerns_its_file_only(machine: Machine, crashed: Machine, change: str) -> None:
    damage(crashed, change, inode_of(machine.running[0], b"f"))
    fs = crashed.mount()
    assert content(fs, b"f") == b"old" * 100
    assert content(fs, b"other") == b"important"
    assert content(fs, b"large") == b"l" * 400_000
    assert fs.statistics()["staging.put_aside"] == 1
    assert "/f" in fs.metrics.last_errors()["staging"].error
    (record,) = records_aside(crashed)
    assert json.loads(record.read_text())["inode"] == inode_of(fs, b"f")
    rewrite(fs, b"f", 0, b"NEW")
    fs.store_all()
    assert list(fs.staging.rows.records.rows()) == []
    assert content(fs, b"f") == b"NEW" + b"old" * 99
    again = crashed.copy_of_the_disk()
    assert again.mount().statistics()["staging.put_aside"] == 0
    again.close()


@pytest.mark.promise("a-damaged-record-costs-its-file")
def test_the_bytes_of_a_damaged_record_are_kept(machine: Machine, crashed: Machine) -> None:
    damage(crashed, "size = -5", inode_of(machine.running[0], b"f"))
    damage(crashed, "size = -5", inode_of(machine.running[0], b"large"))
    crashed.mount()
    kept = {path.read_bytes() for path in (crashed.folder / "staging" / "aside").iterdir() if path.suffix != ".json"}
    assert {b"new" * 100, b"l" * 400_000} <= kept


@pytest.mark.promise("a-damaged-record-costs-its-file")
def test_layers_above_a_damaged_row_are_quarantined_and_those_below_are_restored(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"1" * 100)
    fs.commit()
    inode = fs.lookup(1, b"f")
    for digit in (b"2", b"3"):
        with fs.staging.lock:
            fs.staging.freeze(inode)
        rewrite(fs, b"f", 10, digit * 10)
        fs.commit()
    crashed = machine.copy_of_the_disk()
    with closing(sqlite3.connect(crashed.folder / "staging.sqlite")) as database, database:
        assert database.execute("UPDATE staged SET ranges = x'00' WHERE seq = 2").rowcount == 1
    after = crashed.mount()
    assert content(after, b"f") == b"1" * 100
    assert len(records_aside(crashed)) == 2
    crashed.close()


def test_a_row_with_an_impossible_inode_is_quarantined(machine: Machine, crashed: Machine) -> None:
    damage(crashed, "inode = 'which'", inode_of(machine.running[0], b"f"))
    fs = crashed.mount()
    assert content(fs, b"f") == b"old" * 100
    assert content(fs, b"other") == b"important"
    assert len(records_aside(crashed)) == 1
