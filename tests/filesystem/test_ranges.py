# SPDX-License-Identifier: GPL-3.0-or-later
"""Data and holes, and fallocate: what a file has, in staging, in the index, and after a crash."""

import errno
import os
from pathlib import Path

import pytest

from cas3fs.errors import FileSystemError
from cas3fs.filesystem import FileSystem
from cas3fs.filesystem.operations.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from tests.filesystem.gated import Gated
from tests.filesystem.machine import MIB, ROOT, USER, Machine
from tests.filesystem.usage import after_a_crash, chunk_bytes, content, index_of, make_file, refused, rewrite

KIB = 1024
PUNCH = PUNCH_HOLE | KEEP_SIZE
DATA = bytes(range(1, 251)) * 4400  # more than a longest layer in memory, and without zeros


def opened(fs: FileSystem, name: bytes, flags: int = os.O_RDWR) -> int:
    return fs.open(fs.lookup(1, name).number, flags, ROOT)


def punched(data: bytes, start: int, end: int) -> bytes:
    return data[:start] + bytes(end - start) + data[end:]


@pytest.mark.parametrize("size", [50 * KIB, len(DATA)], ids=["in memory", "in a file"])
@pytest.mark.parametrize("mode", [PUNCH, ZERO_RANGE])
def test_a_punched_range_of_staged_bytes_is_a_hole_when_stored(fs: FileSystem, size: int, mode: int) -> None:
    inode = make_file(fs, 1, b"f", DATA[:size])
    handle = opened(fs, b"f")
    fs.allocate(handle, 5000, 20_000, mode)
    assert fs.staging.size_bytes == size - 20_000
    assert fs.data_ranges(inode.number, 0, size) == [(0, 5000), (25_000, size)]
    assert content(fs, b"f") == punched(DATA[:size], 5000, 25_000)
    fs.store_all()
    assert chunk_bytes(fs, inode.number) == size - 20_000
    assert content(fs, b"f") == punched(DATA[:size], 5000, 25_000)


def test_a_punched_range_of_stored_chunks_is_a_hole_when_stored(fs: FileSystem) -> None:
    inode = make_file(fs, 1, b"f", DATA)
    fs.store_all()
    handle = opened(fs, b"f")
    fs.allocate(handle, 5000, 600_000, PUNCH)
    assert content(fs, b"f") == punched(DATA, 5000, 605_000)
    stored = fs.metrics.counter("writer.stored_bytes").value
    fs.store_all()
    assert chunk_bytes(fs, inode.number) == len(DATA) - 600_000
    assert fs.metrics.counter("writer.stored_bytes").value == stored > 0, "nothing has to be stored again"
    assert content(fs, b"f") == punched(DATA, 5000, 605_000)


def test_a_write_beside_a_hole_does_not_fill_it(fs: FileSystem) -> None:
    inode = make_file(fs, 1, b"f", DATA)
    fs.store_all()
    fs.allocate(opened(fs, b"f"), 100_000, 100_000, PUNCH)
    rewrite(fs, b"f", 99_990, b"x" * 10)
    rewrite(fs, b"f", 200_000, b"y" * 10)
    expected = bytearray(punched(DATA, 100_000, 200_000))
    expected[99_990:100_000], expected[200_000:200_010] = b"x" * 10, b"y" * 10
    for _ in range(2):
        assert content(fs, b"f") == bytes(expected)
        assert fs.data_ranges(inode.number, 0, len(DATA)) == [(0, 100_000), (200_000, len(DATA))]
        fs.store_all()


def test_a_write_into_a_hole_and_a_punch_of_it_take_turns(fs: FileSystem) -> None:
    make_file(fs, 1, b"f", DATA)
    fs.store_all()
    handle = opened(fs, b"f")
    for mark in (b"x", b"y"):
        fs.allocate(handle, 10_000, 10_000, PUNCH)
        assert content(fs, b"f") == punched(DATA, 10_000, 20_000)
        fs.write(handle, 12_000, mark * 100)
        expected = bytearray(punched(DATA, 10_000, 20_000))
        expected[12_000:12_100] = mark * 100
        assert content(fs, b"f") == bytes(expected)


@pytest.mark.promise("synced-data-survives-a-crash")
def test_a_committed_hole_survives_a_crash_and_is_stored_then(machine: Machine) -> None:
    fs = machine.mount()
    inode = make_file(fs, 1, b"f", DATA)
    fs.store_all()
    fs.allocate(opened(fs, b"f"), 5000, 600_000, PUNCH)
    fs.commit()
    assert after_a_crash(machine, b"f") == punched(DATA, 5000, 605_000)
    other = machine.copy_of_the_disk()
    again = other.mount()
    again.store_all()
    assert content(again, b"f") == punched(DATA, 5000, 605_000)
    assert chunk_bytes(again, inode.number) == len(DATA) - 600_000
    other.close()


def test_a_hole_punched_while_its_file_is_stored_is_kept(gated: Gated) -> None:
    fs = gated.fs
    make_file(fs, 1, b"f", DATA)
    gated.close_gate()
    storing = gated.storing()
    fs.allocate(opened(fs, b"f"), 5000, 600_000, PUNCH)
    rewrite(fs, b"f", 6000, b"new")
    gated.store.gate.set()
    storing.join()
    expected = bytearray(punched(DATA, 5000, 605_000))
    expected[6000:6003] = b"new"
    assert content(fs, b"f") == bytes(expected)
    fs.store_all()
    assert content(fs, b"f") == bytes(expected)


def test_sizes_follow_the_mode_and_nothing_is_stored_for_them(fs: FileSystem) -> None:
    inode = make_file(fs, 1, b"f", b"abc")
    handle = opened(fs, b"f")
    fs.allocate(handle, 0, 5, KEEP_SIZE)
    assert inode.size == 3
    fs.allocate(handle, 0, 10 * MIB, 0)
    assert (inode.size, content(fs, b"f")) == (10 * MIB, b"abc" + bytes(10 * MIB - 3))
    fs.allocate(handle, 2, 10, ZERO_RANGE | KEEP_SIZE)
    fs.allocate(handle, 10 * MIB, 5, ZERO_RANGE)
    fs.allocate(handle, 11 * MIB, 5, PUNCH)
    assert (inode.size, content(fs, b"f")[:3]) == (10 * MIB + 5, b"ab\0")
    fs.store_all()
    assert chunk_bytes(fs, inode.number) == 2
    assert (inode.size, content(fs, b"f")[:3]) == (10 * MIB + 5, b"ab\0")


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, PUNCH, ZERO_RANGE])
def test_every_mode_changes_the_times_and_clears_set_id_bits(fs: FileSystem, mode: int) -> None:
    inode = make_file(fs, 1, b"f", b"abc")
    fs.setattr(inode.number, ROOT, mode=0o6777, mtime_ns=5)
    before = inode.ctime_ns
    fs.allocate(fs.open(inode.number, os.O_RDWR, USER), 0, 1, mode)
    assert inode.mtime_ns == inode.ctime_ns > before
    assert inode.mode & 0o7777 == 0o777


def test_what_cannot_be_allocated_is_refused(fs: FileSystem) -> None:
    make_file(fs, 1, b"f", b"abc")
    handle = opened(fs, b"f")
    for mode in (PUNCH_HOLE, PUNCH | ZERO_RANGE, 0x08, 0x20, 0x40, 0x80):
        refused(errno.EOPNOTSUPP, fs.allocate, handle, 0, 1, mode)
    for offset, length, number in ((-1, 1, errno.EINVAL), (0, 0, errno.EINVAL), (2**63 - 1, 1, errno.EFBIG)):
        refused(number, fs.allocate, handle, offset, length, 0)
    refused(errno.EBADF, fs.allocate, opened(fs, b"f", os.O_RDONLY), 0, 1, 0)
    fs.turn_read_only("for the test")
    refused(errno.EROFS, fs.allocate, handle, 0, 1, 0)
    refused(errno.EROFS, fs.allocate, handle, 0, 1, PUNCH)


def test_seeking_finds_data_and_holes_of_layers_and_chunks(fs: FileSystem) -> None:
    make_file(fs, 1, b"f", b"a" * 5000)
    fs.store_all()
    handle = opened(fs, b"f")
    fs.write(handle, 10_000, b"b" * 100)
    fs.allocate(handle, 0, 2**40, 0)
    places = [(0, 0, 5000), (4999, 4999, 5000), (5000, 10_000, 5000), (10_000, 10_000, 10_100), (2**40 - 1, None, None)]
    for position, data, hole in places:
        if data is None:
            refused(errno.ENXIO, fs.seek, handle, position, os.SEEK_DATA)
            assert fs.seek(handle, position, os.SEEK_HOLE) == position
            continue
        assert fs.seek(handle, position, os.SEEK_DATA) == data
        assert fs.seek(handle, position, os.SEEK_HOLE) == hole
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        refused(errno.ENXIO, fs.seek, handle, 2**40, whence)
        refused(errno.ENXIO, fs.seek, handle, -1, whence)
    refused(errno.EINVAL, fs.seek, handle, 0, 17)


def test_the_end_of_a_file_of_many_chunks_is_found_in_steps(machine: Machine) -> None:
    machine = Machine(machine.folder.with_name("fixed"), "fixed")
    fs = machine.mount()
    make_file(fs, 1, b"f", DATA[: MIB // 2] * 10)  # 1,280 blocks
    fs.store_all()
    handle = opened(fs, b"f")
    assert fs.seek_now(handle, 0, os.SEEK_HOLE) is None
    assert fs.seek(handle, 0, os.SEEK_HOLE) == 5 * MIB
    fs.allocate(handle, 5 * MIB - 10, 2**50, 0)
    with pytest.raises(FileSystemError):
        fs.seek(handle, 5 * MIB, os.SEEK_DATA)
    machine.close()


def test_no_hole_is_told_of_what_cannot_be_written_back(fs: FileSystem) -> None:
    make_file(fs, 1, b"f", b"data")
    handle = opened(fs, b"f")
    fs.allocate(handle, 0, MIB, 0)
    asked = []

    def write_back(number: int, start: int, end: int) -> bool:
        asked.append((number, start, end))
        return False

    number = fs.lookup(1, b"f").number
    assert fs.seek_now(handle, 2, os.SEEK_DATA) == 2
    assert fs.seek_now(handle, 2, os.SEEK_HOLE) is None
    assert fs.seek(handle, 10, os.SEEK_DATA, write_back) == 10
    assert fs.seek(handle, 0, os.SEEK_HOLE, write_back) == MIB
    assert asked == [(number, 10, MIB), (number, 4, MIB)]
    reading = opened(fs, b"f", os.O_RDONLY)
    fs.release(handle)
    assert fs.seek_now(reading, 0, os.SEEK_HOLE) == 4


def test_allocated_blocks_are_those_of_data(fs: FileSystem) -> None:
    inode = make_file(fs, 1, b"f")
    handle = opened(fs, b"f")

    def check(size_bytes: int) -> None:
        assert inode.blocks == -(-size_bytes // 512)
        fs.store_all()
        assert inode.blocks == -(-size_bytes // 512)

    fs.allocate(handle, 0, 2**50, 0)
    check(0)
    fs.write(handle, 2**40, DATA)
    check(len(DATA))
    fs.write(handle, 2**39, DATA)
    check(2 * len(DATA))
    fs.setattr(inode.number, ROOT, size=0)
    check(0)
    fs.write(handle, 0, DATA)
    check(len(DATA))
    fs.write(handle, 5000, b"over stored bytes")
    fs.write(handle, len(DATA), b"appended")
    check(len(DATA) + 8)
    fs.allocate(handle, 100_000, 512_000, PUNCH)
    check(len(DATA) + 8 - 512_000)
    fs.setattr(inode.number, ROOT, size=100_000)
    check(100_000)


def test_a_row_whose_holes_make_no_sense_is_set_aside(machine: Machine, tmp_path: Path) -> None:
    fs = machine.mount()
    inode = make_file(fs, 1, b"f", b"stored")
    fs.store_all()
    handle = opened(fs, b"f")
    fs.write(handle, 0, b"staged")
    fs.allocate(handle, 4, 1, PUNCH)
    fs.commit()
    rows = fs.staging.rows.records
    (row,) = rows.rows()
    assert row.holes
    rows.save([row._replace(holes=row.ranges)])
    rows.commit()
    assert index_of(fs).namespace.inode(inode.number) is not None
    assert after_a_crash(machine, b"f") == b"stored"


@pytest.mark.promise("collected-writes-are-kept")
def test_a_cache_above_sets_the_times_of_every_change(fs: FileSystem) -> None:
    """It has shown them to programs already, and may have handed them over before the change."""
    fs.files.has_cache_above = True
    inode = make_file(fs, 1, b"f", DATA)
    handle, other = opened(fs, b"f"), opened(fs, b"f")
    fs.store_all()
    fs.setattr(inode.number, ROOT, mtime_ns=1000, ctime_ns=2000)
    fs.allocate(handle, 5000, 100, PUNCH)
    fs.allocate(handle, 0, 2 * len(DATA), 0)
    fs.store_all()
    assert fs.copy_range_now(handle, 0, other, 3 * len(DATA), 5000) == 5000
    fs.release(fs.open(inode.number, os.O_RDWR | os.O_TRUNC, ROOT))
    fs.setattr(inode.number, ROOT, size=100, ctime_ns=2000)
    after = fs.getattr(inode.number)
    assert (after.mtime_ns, after.ctime_ns) == (1000, 2000)
