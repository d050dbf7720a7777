# SPDX-License-Identifier: GPL-3.0-or-later
"""copy_file_range(2), and programs that use it."""

import errno
import mmap
import os
import random
import subprocess
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

from .conftest import AsUser
from .test_names import refused
from .test_ranges import BLOCK, pieces

KIB, MIB = 1 << 10, 1 << 20
DATA = random.Random(3).randbytes(6 * MIB + 777)


def counter(mount: TemporaryMount, name: str) -> int:
    """A figure of the process of the mount."""
    return int(mount.stats()["process"].get(name, 0))


def copy(source: Path, target: Path, length: int, offset: int = 0, to: int = 0) -> int:
    with open(source, "rb") as one, open(target, "r+b") as other:
        return os.copy_file_range(one.fileno(), other.fileno(), length, offset, to)


@pytest.mark.promise("copies-share-blocks")
@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("target", ["new", "longer"])
def test_cp_copies_a_file_and_its_holes(folder: Path, mount: TemporaryMount, is_stored: bool, target: str) -> None:
    with open(folder / "f", "wb") as file:
        file.write(DATA)
        os.pwrite(file.fileno(), b"end", 64 * MIB)
    if target == "longer":
        (folder / "g").write_bytes(b"old" * 30 * MIB)
    if is_stored:
        mount.flush()
    subprocess.run(["cp", folder / "f", folder / "g"], check=True)
    for _ in range(2):
        with open(folder / "f", "rb") as file, open(folder / "g", "rb") as other:
            assert other.read(len(DATA)) == DATA
            assert os.fstat(other.fileno()).st_size == 64 * MIB + 3
            assert os.pread(other.fileno(), 10, 64 * MIB) == b"end"
            assert pieces(other.fileno()) == pieces(file.fileno())
        mount.flush()


@pytest.mark.promise("copies-share-blocks")
def test_a_copy_of_a_stored_file_is_one_request_and_no_data(folder: Path, mount: TemporaryMount) -> None:
    (folder / "f").write_bytes(DATA)
    (folder / "g").touch()
    mount.flush()
    before = counter(mount, "writer.stored_bytes")
    assert copy(folder / "f", folder / "g", 2**40) == len(DATA)
    mount.flush()
    assert counter(mount, "writer.stored_bytes") == before
    assert (folder / "g").read_bytes() == DATA
    mount.volume.run("fsck", mount.volume.url, "--verify-data")


@pytest.mark.promise("copies-share-blocks")
def test_garbage_collection_keeps_what_only_a_copy_has(folder: Path, mount: TemporaryMount) -> None:
    (folder / "f").write_bytes(DATA)
    (folder / "g").touch()
    mount.flush()
    assert copy(folder / "f", folder / "g", 2**40) == len(DATA)
    (folder / "f").unlink()
    mount.volume.run("gc", mount.volume.url, "--grace", "0s", "--min-live", "1")
    mount.volume.run("fsck", mount.volume.url, "--verify-data")
    assert (folder / "g").read_bytes() == DATA


@pytest.mark.promise("copies-share-blocks")
def test_pages_in_the_cache_of_the_kernel_show_the_copy(folder: Path, mount: TemporaryMount) -> None:
    """And what a mapping has changed is in the copy."""
    (folder / "f").write_bytes(DATA)
    (folder / "g").write_bytes(DATA[::-1])
    mount.flush()
    expected = bytearray(DATA[::-1])
    expected[BLOCK - 2 : BLOCK] = b"zz"
    expected[BLOCK + 1 : BLOCK + 1 + MIB] = DATA[:100] + b"dirty" + DATA[105:MIB]
    with (
        open(folder / "f", "r+b") as one,
        open(folder / "g", "r+b") as other,
        mmap.mmap(one.fileno(), len(DATA)) as source,
        mmap.mmap(other.fileno(), len(DATA)) as target,
    ):
        assert target[:] == DATA[::-1]
        source[100:105] = b"dirty"
        target[BLOCK - 2 : BLOCK] = b"zz"
        assert os.copy_file_range(one.fileno(), other.fileno(), MIB, 0, BLOCK + 1) == MIB
        assert target[:] == expected
    assert (folder / "g").read_bytes() == expected


@pytest.mark.promise("copies-share-blocks")
def test_errors_are_those_of_a_local_file_system(folder: Path, tmp_path: Path) -> None:
    for place in (folder, tmp_path):
        (place / "f").write_bytes(b"x" * 1000)
        (place / "g").write_bytes(b"y" * 10)
        with open(place / "f", "r+b") as one, open(place / "g", "r+b") as other:
            f, g = one.fileno(), other.fileno()
            reading, writing = os.open(place / "f", os.O_RDONLY), os.open(place / "f", os.O_WRONLY)
            appending = os.open(place / "g", os.O_RDWR | os.O_APPEND)
            refused(errno.EINVAL, os.copy_file_range, f, f, 100, 0, 50)
            refused(errno.EBADF, os.copy_file_range, f, reading, 10, 0, 0)
            refused(errno.EBADF, os.copy_file_range, writing, g, 10, 0, 0)
            refused(errno.EBADF, os.copy_file_range, f, appending, 10, 0, 0)
            assert os.copy_file_range(f, f, 100, 0, 100) == 100
            assert os.copy_file_range(f, g, 100, 950, 0) == 50
            assert os.copy_file_range(f, g, 100, 1000, 0) == 0
            assert os.copy_file_range(f, g, 100, 5000, 0) == 0
            for descriptor in (reading, writing, appending):
                os.close(descriptor)
        assert (place / "g").read_bytes() == b"x" * 50


@pytest.mark.promise("copies-share-blocks")
def test_a_copy_clears_set_id_bits_and_changes_the_mtime(folder: Path, as_user: AsUser) -> None:
    (folder / "f").write_bytes(b"x" * 1000)
    (folder / "g").touch()
    (folder / "g").chmod(0o6777)
    os.utime(folder / "g", ns=(0, 0))
    code = "import os; print(os.copy_file_range(os.open('f', 0), os.open('g', 2), 1000))"
    result = as_user(f'python3 -c "{code}"')
    assert (result.stdout, result.stderr) == ("1000\n", "")
    about = (folder / "g").stat()
    assert (about.st_mode & 0o7777, about.st_size) == (0o777, 1000)
    assert about.st_mtime_ns > 0
