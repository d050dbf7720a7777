# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operation costs does not grow with what is staged."""

import os

import attrs
import pytest

from cas3fs.filesystem import FileSystem
from cas3fs.filesystem.state import staging_rows
from cas3fs.filesystem.state.inodes import InodeTable
from cas3fs.filesystem.state.layers import Layer
from cas3fs.filesystem.state.staging import MOST_RANGES
from cas3fs.index import StagedRow
from tests.filesystem.machine import LAZY, ROOT, Machine
from tests.filesystem.usage import after_a_crash, content, make_file

FILES = 500


@pytest.mark.promise("costs-do-not-grow-with-staging")
def test_an_fsync_looks_only_at_what_has_changed(
    machine: Machine, fs: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(FILES):
        make_file(fs, 1, b"%d" % number, b"x")
    handle = fs.create(1, b"log", 0o644, os.O_RDWR, ROOT)[1]
    fs.fsync(handle)
    looked: list[Layer] = []
    is_unsynced = staging_rows._is_unsynced

    def counted(layer: Layer) -> bool:
        looked.append(layer)
        return is_unsynced(layer)

    monkeypatch.setattr(staging_rows, "_is_unsynced", counted)
    fs.write(handle, 0, b"line")
    fs.fsync(handle)
    assert 0 < len(looked) < FILES / 10
    assert fs.pending().files == FILES + 1
    assert after_a_crash(machine, b"log") == b"line"


@pytest.mark.promise("costs-do-not-grow-with-staging")
def test_eviction_is_rare_while_more_inodes_are_staged_than_cached(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine.mount(attrs.evolve(LAZY, cached_inodes=100))
    looks: list[int] = []
    evict = InodeTable._evict
    monkeypatch.setattr(InodeTable, "_evict", lambda table: (looks.append(1), evict(table))[1])
    made = [make_file(fs, 1, b"%d" % number, b"x").number for number in range(FILES)]
    assert len(looks) <= FILES / 25
    fs.store_all()
    fs.forget([(number, 2**40) for number in made])
    for number in range(200):
        fs.mkdir(1, b"d%d" % number, 0o755, ROOT)
    fs.commit()
    for number in range(FILES):
        fs.lookup(1, b"%d" % number)
        fs.forget([(fs.lookup(1, b"%d" % number).number, 2)])
    assert fs.statistics()["inodes.cached"] < 2 * FILES


@pytest.mark.promise("costs-do-not-grow-with-staging")
def test_a_file_of_many_ranges_costs_a_sync_what_is_new(
    machine: Machine, fs: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 5 * MOST_RANGES
    inode, handle = fs.create(1, b"f", 0o644, os.O_RDWR, ROOT)
    for number in range(count):
        fs.write(handle, 2 * number, b"x")
    fs.fsync(handle)
    saved: list[StagedRow] = []
    save = fs.staging.rows.records.save

    def noted(rows: list[StagedRow]) -> None:
        saved.extend(rows)
        save(rows)

    monkeypatch.setattr(fs.staging.rows.records, "save", noted)
    fs.write(handle, 1, b"y")
    fs.fsync(handle)
    assert 0 < sum(len(row.ranges) for row in saved) <= 16 * (MOST_RANGES + 1)
    expected = bytearray(b"x\0" * count)[:-1]
    expected[1] = ord("y")
    assert content(fs, b"f") == expected
    assert after_a_crash(machine, b"f") == expected
    fs.store_all()
    assert content(fs, b"f") == expected
    assert inode.layers == []


def test_small_extents_count_with_the_memory_that_they_need(fs: FileSystem) -> None:
    _, handle = fs.create(1, b"f", 0o644, os.O_RDWR, ROOT)
    for number in range(1000):
        fs.write(handle, 2 * number, b"x")
    assert fs.staging.memory_bytes > 100_000
    fs.store_all()
    fs.commit()
    assert fs.staging.memory_bytes == 0
