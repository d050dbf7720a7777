# SPDX-License-Identifier: GPL-3.0-or-later
"""Staged bytes that the local disk has lost: programs get an error, and never zeros in their place."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cas3fs.errors import BlockError
from cas3fs.filesystem import FileSystem
from tests.filesystem.machine import MIB, ROOT, Machine
from tests.filesystem.usage import (
    after_a_crash,
    content,
    make_file,
    on_another_machine,
    refused,
    replace_by_rename,
    rewrite,
    take_checkpoint,
    until,
)

DATA = b"a" * MIB


@pytest.fixture
def handle(fs: FileSystem) -> int:
    """Of a file with bytes that are not on the disk yet."""
    inode = make_file(fs, 1, b"f", DATA)
    return fs.open(inode.number, os.O_RDWR, ROOT)


def unreadable(fs: FileSystem, handle: int, offset: int = 0, size: int = MIB) -> None:
    with pytest.raises(OSError) as caught:
        fs.read(handle, offset, size)
    assert caught.value.errno == errno.EIO


def lose_in_background(machine: Machine, fs: FileSystem) -> None:
    """A periodic commit finds that the disk has lost the file."""
    with machine.disk.failing("sync", times=1):
        fs.commit()


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
def test_a_failed_sync_is_reported_once_to_each_handle(machine: Machine, fs: FileSystem, handle: int) -> None:
    other = fs.open(fs.lookup(1, b"f").number, os.O_RDONLY, ROOT)
    machine.disk.fail("sync")
    refused(errno.EIO, fs.fsync, handle)
    refused(errno.EIO, fs.fsync, other)
    for opened in (handle, other, fs.open(fs.lookup(1, b"f").number, os.O_RDONLY, ROOT)):
        fs.fsync(opened)


@pytest.mark.promise("a-failed-sync-is-never-forgotten", "lost-staged-data-is-an-error")
def test_a_sync_that_failed_in_the_background_is_reported_by_the_next_fsync(
    machine: Machine, fs: FileSystem, handle: int
) -> None:
    lose_in_background(machine, fs)
    later = fs.open(fs.lookup(1, b"f").number, os.O_RDWR, ROOT)  # no handle has got the error so far
    refused(errno.EIO, fs.fsync, later)
    refused(errno.EIO, fs.fsync, handle)


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
def test_bytes_that_the_disk_lost_are_an_error_until_they_are_written_anew(
    machine: Machine, fs: FileSystem, handle: int
) -> None:
    lose_in_background(machine, fs)
    unreadable(fs, handle)
    fs.write(handle, 0, b"b" * (MIB // 2))
    assert fs.read(handle, 0, MIB // 2) == b"b" * (MIB // 2)
    unreadable(fs, handle, MIB // 2, 1)
    refused(errno.EIO, fs.fsync, handle)
    fs.write(handle, MIB // 2, b"c" * (MIB // 2))
    fs.fsync(handle)
    fs.store_all()
    assert content(fs, b"f") == b"b" * (MIB // 2) + b"c" * (MIB // 2)


def test_what_was_synced_before_stays_whole(machine: Machine, fs: FileSystem, handle: int) -> None:
    fs.fsync(handle)
    fs.write(handle, MIB, b"b" * MIB)
    lose_in_background(machine, fs)
    assert fs.read(handle, 0, MIB) == DATA
    unreadable(fs, handle, MIB)


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
@pytest.mark.parametrize("operation", ["sync", "sync_folder"])
def test_bytes_synced_while_a_file_was_small_survive_the_loss_of_later_ones(
    machine: Machine, fs: FileSystem, operation: str
) -> None:
    handle = fs.open(make_file(fs, 1, b"f", b"a" * 8192).number, os.O_RDWR, ROOT)
    fs.fsync(handle)  # the row of the file holds its bytes
    fs.write(handle, 8192, DATA)
    with machine.disk.failing(operation, times=1):
        fs.commit()
    crashed = machine.copy_of_the_disk()
    for there in (fs, crashed.mount()):
        reading = there.open(there.lookup(1, b"f").number, os.O_RDWR, ROOT)
        assert there.read(reading, 0, 8192) == b"a" * 8192
        unreadable(there, reading, 8192)
    crashed.close()


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
def test_a_removed_staging_file_concerns_its_file_only(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"removed", b"r" * 400_000)
    make_file(fs, 1, b"other", b"important")
    removed = fs.lookup(1, b"removed").number
    handle = fs.open(removed, os.O_RDWR, ROOT)
    fs.staging.layer_files.close()  # as when others are opened
    (path,) = (machine.folder / "staging").glob(f"{removed:x}-*")
    path.unlink()
    fs.commit()
    refused(errno.EIO, fs.fsync, handle)
    assert after_a_crash(machine, b"other") == b"important"
    with pytest.raises(OSError, match="has lost bytes"):
        content(fs, b"removed")
    fs.store_all(skip_unstorable=True)
    assert [one.path for one in fs.unstorable_files()] == ["/removed"]


@pytest.mark.promise("a-failed-sync-is-never-forgotten", "lost-staged-data-is-an-error")
def test_what_was_lost_stays_lost_after_a_crash(machine: Machine, fs: FileSystem, handle: int) -> None:
    fs.fsync(handle)
    fs.write(handle, MIB, b"b" * MIB)
    lose_in_background(machine, fs)
    crashed = machine.copy_of_the_disk()
    after = crashed.mount()
    again = after.open(after.lookup(1, b"f").number, os.O_RDWR, ROOT)
    assert after.read(again, 0, MIB) == DATA
    unreadable(after, again, MIB)
    with pytest.raises(OSError, match="lost"):
        after.store_all()
    after.write(again, MIB, b"c" * MIB)
    after.store_all()
    assert content(after, b"f") == DATA + b"c" * MIB
    crashed.close()


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
@pytest.mark.parametrize("look", [FileSystem.commit, lambda fs: None])
def test_what_was_lost_is_never_stored(
    machine: Machine, fs: FileSystem, handle: int, look: Callable[[FileSystem], None]
) -> None:
    """Neither when a sync has reported it, nor when only the system knows."""
    make_file(fs, 1, b"well", b"w" * MIB)
    assert machine.disk.lose_writes(f"{fs.lookup(1, b'f').number:x}-")
    look(fs)
    with pytest.raises(OSError, match="lost"):
        fs.store_all()
    until(lambda: not fs.lookup(1, b"well").is_unstored)
    assert fs.lookup(1, b"f").stored_seq == 0
    unreadable(fs, handle)


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
def test_lost_bytes_are_an_error_in_a_snapshot_and_no_zeros(machine: Machine, fs: FileSystem, tmp_path: Path) -> None:
    make_file(fs, 1, b"f", b"old")
    fs.store_all()
    replace_by_rename(fs, b"f", DATA)
    machine.disk.lose_writes()
    take_checkpoint(fs, tmp_path / "copy")
    other = on_another_machine(machine, tmp_path / "copy")
    after = other.mount()
    with pytest.raises(BlockError):
        content(after, b"f")
    other.close()


def test_a_write_whose_bytes_were_lost_before_it_returned_is_reported(
    machine: Machine, fs: FileSystem, handle: int
) -> None:
    """The sync that fails comes between the bytes and their being counted."""
    inode = fs.lookup(1, b"f")
    with fs.staging.lock:
        layer, held = fs.staging.begin_file_write(inode)
    put = held.write(MIB, b"b" * MIB)
    lose_in_background(machine, fs)
    with fs.staging.lock:
        inode.size = 2 * MIB
        fs.staging.end_file_write(inode, layer, held, put)
    refused(errno.EIO, fs.fsync, handle)
    unreadable(fs, handle, MIB)


@pytest.mark.promise("a-failed-sync-is-never-forgotten", "lost-staged-data-is-an-error")
def test_a_loss_in_one_file_does_not_concern_others(machine: Machine, fs: FileSystem, handle: int) -> None:
    well = fs.open(make_file(fs, 1, b"well", b"w" * MIB).number, os.O_RDWR, ROOT)
    machine.disk.fail("sync", name_part=f"{fs.lookup(1, b'f').number:x}-")
    fs.fsync(well)
    crashed = machine.copy_of_the_disk()
    assert content(crashed.mount(), b"well") == b"w" * MIB
    crashed.close()
    refused(errno.EIO, fs.fsync, handle)


def test_a_file_whose_name_the_folder_has_lost_is_lost(machine: Machine, fs: FileSystem, handle: int) -> None:
    machine.disk.fail("sync_folder")
    refused(errno.EIO, fs.fsync, handle)
    unreadable(fs, handle)


def test_what_was_cut_off_is_not_lost(machine: Machine, fs: FileSystem, handle: int) -> None:
    lose_in_background(machine, fs)
    fs.setattr(fs.lookup(1, b"f").number, ROOT, size=0)
    rewrite(fs, b"f", 10, b"new")
    fs.store_all()
    assert content(fs, b"f") == bytes(10) + b"new"
