# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of files: holes that are made and found, and allocation; a file on ext4 or tmpfs is the model."""

import errno
import mmap
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

from .calls import fallocate
from .conftest import AsUser
from .test_names import refused

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40
PUNCH = PUNCH_HOLE | KEEP_SIZE
needs_fallocate = pytest.mark.frontend("kernel", lacks="fallocate")
needs_seek = pytest.mark.frontend("kernel", lacks="SEEK_DATA and SEEK_HOLE")
BLOCK = 64 * KIB  # so that ext4 makes the same holes whatever its blocks are


@pytest.fixture
def file(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder / "f", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def pieces(file: int) -> list[tuple[int, int]]:
    """Where the data are: begin and end of each."""
    found, position, size = [], 0, os.fstat(file).st_size
    while position < size:
        try:
            begin = os.lseek(file, position, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            break
        position = os.lseek(file, begin, os.SEEK_HOLE)
        found.append((begin, position))
    return found


@needs_seek
@pytest.mark.promise("holes-are-made-and-found")
def test_data_and_holes_are_found_before_and_after_storing(file: int, mount: TemporaryMount) -> None:
    os.pwrite(file, b"x" * BLOCK, BLOCK)
    os.pwrite(file, b"y" * BLOCK, TIB)
    os.ftruncate(file, 2 * TIB)
    for _ in range(2):
        assert pieces(file) == [(BLOCK, 2 * BLOCK), (TIB, TIB + BLOCK)]
        assert os.lseek(file, 0, os.SEEK_HOLE) == 0
        assert os.lseek(file, BLOCK + 5, os.SEEK_DATA) == BLOCK + 5
        assert os.lseek(file, 2 * TIB - 1, os.SEEK_HOLE) == 2 * TIB - 1
        refused(errno.ENXIO, os.lseek, file, 2 * TIB - 1, os.SEEK_DATA)
        refused(errno.ENXIO, os.lseek, file, 2 * TIB, os.SEEK_HOLE)
        mount.flush()


@needs_fallocate
@pytest.mark.promise("holes-are-made-and-found")
@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("mode", [PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
def test_punched_ranges_are_holes_and_read_as_zeros(
    file: int, mount: TemporaryMount, mode: int, is_stored: bool
) -> None:
    data = random.Random(mode).randbytes(16 * BLOCK)
    os.pwrite(file, data, 0)
    if is_stored:
        mount.flush()
    assert os.pread(file, len(data), 0) == data  # it is in the kernel's cache now
    fallocate(file, mode, 4 * BLOCK, 8 * BLOCK)
    for _ in range(2):
        assert os.pread(file, len(data), 0) == data[: 4 * BLOCK] + bytes(8 * BLOCK) + data[12 * BLOCK :]
        assert pieces(file) == [(0, 4 * BLOCK), (12 * BLOCK, 16 * BLOCK)]
        mount.flush()


@needs_fallocate
@pytest.mark.promise("holes-are-made-and-found")
@pytest.mark.parametrize("seed", range(4))
def test_random_allocations_do_as_a_local_file_system(
    folder: Path, mount: TemporaryMount, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    modes = [0, KEEP_SIZE, PUNCH, PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE]
    with open(folder / "f", "w+b", buffering=0) as ours, open(tmp_path / "f", "w+b", buffering=0) as model:
        for turn in range(120):
            offset, length = chance.randrange(40) * BLOCK // 2, chance.randint(1, 12 * BLOCK)
            action, data = chance.randrange(4), chance.randbytes(length)
            mode = chance.choice(modes)
            for file in (ours.fileno(), model.fileno()):
                if action == 0:
                    os.ftruncate(file, offset)
                elif action == 1:
                    os.pwrite(file, data, offset)
                else:
                    fallocate(file, mode, offset, length)
            if turn % 40 == 20:
                mount.flush()
            size = os.fstat(model.fileno()).st_size
            assert os.fstat(ours.fileno()).st_size == size
            assert os.pread(ours.fileno(), size, 0) == os.pread(model.fileno(), size, 0)


@needs_fallocate
@pytest.mark.promise("holes-are-made-and-found")
def test_a_mapping_shows_a_punched_range_at_once(folder: Path, file: int) -> None:
    os.pwrite(file, b"x" * 4 * BLOCK, 0)
    with mmap.mmap(file, 4 * BLOCK) as mapped:
        mapped[BLOCK : BLOCK + 10] = b"y" * 10
        fallocate(file, PUNCH, BLOCK + 5, BLOCK)
        assert mapped[BLOCK : BLOCK + 10] == b"y" * 5 + bytes(5)
        assert mapped[2 * BLOCK : 2 * BLOCK + 10] == bytes(5) + b"x" * 5


@needs_seek
@pytest.mark.promise("holes-are-made-and-found")
def test_what_a_mapping_has_changed_is_data(file: int, tmp_path: Path) -> None:
    """Although the kernel has not written it."""
    local = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    for one in (file, local):
        os.ftruncate(one, 64 * BLOCK)
        with mmap.mmap(one, 64 * BLOCK) as mapped:
            mapped[4 * BLOCK + 5] = mapped[4 * BLOCK + 4096] = 1
            mapped[40 * BLOCK] = 1
            assert os.lseek(one, 0, os.SEEK_DATA) == 4 * BLOCK
            assert os.lseek(one, 4 * BLOCK, os.SEEK_HOLE) == 4 * BLOCK + 8192
            mapped[4 * BLOCK + 8192] = 1
            assert os.lseek(one, 4 * BLOCK, os.SEEK_HOLE) == 4 * BLOCK + 3 * 4096
            assert os.lseek(one, 5 * BLOCK, os.SEEK_DATA) == 40 * BLOCK
            refused(errno.ENXIO, os.lseek, one, 41 * BLOCK, os.SEEK_DATA)
            mapped[64 * BLOCK - 1] = 1
            assert os.lseek(one, 41 * BLOCK, os.SEEK_DATA) == 64 * BLOCK - 4096
    os.close(local)


@needs_fallocate
@pytest.mark.promise("holes-are-made-and-found", "fallocate-reserves-nothing")
def test_errors_sizes_and_times_of_fallocate_are_those_of_ext4(file: int, tmp_path: Path) -> None:
    local = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    calls = [
        (mode, offset, length)
        for mode in (0, KEEP_SIZE, PUNCH, PUNCH_HOLE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, UNSHARE, 0x80)
        for offset, length in ((0, 100), (90_000, 90_000), (200_000, 10), (-1, 5), (0, 0), (5, -1), (2**63 - 1, 1))
    ]
    for call in calls:
        results = []
        for one in (file, local):
            os.utime(one, ns=(0, 0))
            result: object = None
            try:
                fallocate(one, *call)
            except OSError as error:
                result = errno.errorcode[error.errno or 0]
            about = os.fstat(one)
            results.append((result, about.st_size, about.st_mtime_ns != 0))
        assert results[0] == results[1], call
    os.close(local)


@pytest.mark.promise("fallocate-reserves-nothing")
def test_other_modes_are_refused_and_posix_fallocate_extends(file: int) -> None:
    os.posix_fallocate(file, 1, 10 * BLOCK)
    assert os.fstat(file).st_size == 10 * BLOCK + 1
    for mode in (COLLAPSE, INSERT, UNSHARE):
        refused(errno.EOPNOTSUPP, fallocate, file, mode, BLOCK, BLOCK)
    assert os.fstat(file).st_size == 10 * BLOCK + 1


@needs_fallocate
@pytest.mark.promise("holes-are-made-and-found")
def test_fallocate_needs_write_access_and_clears_set_id_bits(folder: Path, file: int, as_user: AsUser) -> None:
    reading = os.open(folder / "f", os.O_RDONLY)
    refused(errno.EBADF, fallocate, reading, PUNCH, 0, 1)
    os.close(reading)
    os.write(file, b"x")
    (folder / "f").chmod(0o6777)
    assert as_user("fallocate --punch-hole --offset 0 --length 1 f").returncode == 0
    assert (folder / "f").stat().st_mode & 0o7777 == 0o777


@needs_fallocate
@pytest.mark.promise("blocks-are-what-is-allocated")
def test_du_shows_what_is_allocated(folder: Path, file: int, mount: TemporaryMount) -> None:
    def allocated() -> int:
        return os.fstat(file).st_blocks * 512

    os.ftruncate(file, TIB)
    assert allocated() == 0
    os.pwrite(file, b"x" * BLOCK, BLOCK)
    os.pwrite(file, b"y" * BLOCK, TIB - BLOCK)
    for _ in range(2):
        assert allocated() == 2 * BLOCK
        assert subprocess.run(["du", "-B1", folder / "f"], capture_output=True, check=True).stdout.startswith(
            b"%d\t" % (2 * BLOCK)
        )
        mount.flush()
    fallocate(file, PUNCH, 0, BLOCK + BLOCK // 2)
    mount.flush()
    assert allocated() == BLOCK + BLOCK // 2
    os.truncate(folder / "f", 0)
    assert allocated() == 0
