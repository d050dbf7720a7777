# SPDX-License-Identifier: GPL-3.0-or-later
"""The system calls of staging on a real disk, and on a full one: a loop device whose file cannot grow."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cas3fs.filesystem.state.layer_files import FileBytes, LayerFiles
from cas3fs.localdisk import LocalDisk

MIB = 1 << 20
WRITTEN_BYTES = 12 * MIB


def test_a_file_is_written_read_truncated_and_renamed(tmp_path: Path) -> None:
    disk = LocalDisk()
    file = disk.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    assert disk.write(file, memoryview(b"0123456789"), 0) == 10
    disk.sync(file)
    disk.check(file)
    disk.truncate(file, 20)  # never longer
    disk.truncate(file, 6)
    found = memoryview(bytearray(10))
    assert disk.read_into(file, found, 2) == 4
    assert found[:4] == b"2345"
    disk.rename(tmp_path / "a", tmp_path / "b")
    disk.close(file)
    disk.unlink(tmp_path / "b")
    disk.unlink(tmp_path / "b")
    assert disk.free_bytes(tmp_path) > 0


@pytest.fixture
def thin(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that promises more space than it has."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    small, folder = tmp_path / "small", tmp_path / "thin"
    small.mkdir()
    folder.mkdir()
    with ExitStack() as undoing:

        def run(*words: str | Path) -> str:
            try:
                return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no loop device can be had: {error}")

        run("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", small)
        undoing.callback(subprocess.run, ["umount", "--lazy", small], check=True)
        image = small / "image"
        image.touch()
        os.truncate(image, 100 * MIB)
        run("mkfs.ext4", "-q", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=1,lazy_journal_init=1", image)
        device = run("losetup", "-f", "--show", image)
        undoing.callback(subprocess.run, ["losetup", "-d", device], check=True)
        run("mount", device, folder)
        undoing.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
        (folder / "first").write_bytes(b"x" * MIB)  # its journal has its space
        subprocess.run(["sync", "--file-system", folder], check=True)
        with open(small / "of somebody else", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, LocalDisk().free_bytes(small) - 2 * MIB)
        yield folder


def fails(descriptor: int) -> bool:
    try:
        os.fsync(descriptor)
    except OSError:
        return True
    return False


def test_bytes_that_the_system_could_not_write_on_its_own_are_lost_though_the_next_sync_succeeds(thin: Path) -> None:
    disk, reported = LocalDisk(), list[OSError]()
    files = LayerFiles(thin, disk, lambda held, error: reported.append(error))
    held = FileBytes(thin / "1-1", files, create=True)
    held.finish_write(held.write(0, b"x" * WRITTEN_BYTES))
    other = disk.open(thin / "1-1", os.O_RDWR)
    failed = [fails(other) for _ in range(4)]
    assert failed[0]
    assert not failed[-1]  # nothing is known of it any more
    with pytest.raises(OSError, match="has lost"):
        held.read_into(0, memoryview(bytearray(MIB)))
    assert len(reported) == 1
    held.sync()
    with pytest.raises(OSError, match="has lost"):
        held.read_into(0, memoryview(bytearray(MIB)))
    disk.close(other)
    files.close()
