# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes, extended attributes, and the edge cases of reading and writing."""

import errno
import os
import sqlite3
import stat
import time
from contextlib import closing

import pytest

from cas3fs.errors import IndexDatabaseError
from cas3fs.filesystem import FileSystem, FileSystemSettings
from tests.filesystem.machine import MIB, ROOT, USER, Machine
from tests.filesystem.usage import chunk_bytes, content, make_file, refused


def test_setattr_changes_what_it_is_told_and_the_ctime(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f", b"abc")
    before_ns = file.ctime_ns
    changed = fs.setattr(file.number, ROOT, mode=0o4755, atime_ns=5, mtime_ns=7)
    assert (changed.mode, changed.atime_ns, changed.mtime_ns) == (stat.S_IFREG | 0o4755, 5, 7)
    assert changed.ctime_ns > before_ns
    assert changed.size == 3


def test_a_new_owner_does_not_inherit_set_id_bits(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    fs.setattr(file.number, ROOT, mode=0o6755)
    assert stat.S_IMODE(fs.setattr(file.number, ROOT, uid=5, gid=6).mode) == 0o755


def test_a_write_of_a_plain_user_clears_set_id_bits(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    fs.setattr(file.number, ROOT, mode=0o6755)
    handle = fs.open(file.number, os.O_WRONLY, USER)
    fs.write(handle, 0, b"x")
    fs.release(handle)
    assert stat.S_IMODE(fs.getattr(file.number).mode) == 0o755


def test_times_that_were_set_stay_through_storing_and_a_crash(machine: Machine) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"data")
    fs.setattr(file.number, ROOT, atime_ns=1_000_000_001, mtime_ns=-2_000_000_003)
    fs.store_all()
    other = machine.copy_of_the_disk()
    after = other.mount().getattr(file.number)
    assert (after.atime_ns, after.mtime_ns, after.ctime_ns) == (1_000_000_001, -2_000_000_003, file.ctime_ns)
    other.close()


@pytest.mark.promise("staging-owns-size-and-times")
def test_a_mode_changed_while_data_is_staged_is_there_after_a_crash(machine: Machine) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"data")
    fs.commit()
    fs.setattr(file.number, ROOT, mode=0o600)
    fs.commit()
    other = machine.copy_of_the_disk()
    after = other.mount().getattr(file.number)
    assert (after.mode, after.ctime_ns, after.size) == (stat.S_IFREG | 0o600, file.ctime_ns, 4)
    other.close()


@pytest.mark.promise("older-data-survives-a-crash")
def test_changes_older_than_the_commit_interval_survive_a_crash(machine: Machine) -> None:
    assert FileSystemSettings().commit_interval_s == 5
    fs = machine.mount(FileSystemSettings(commit_interval_s=0.1, settle_s=3600, batch_wait_s=3600))
    file = make_file(fs, 1, b"f", b"data")
    commits, deadline_s = fs.statistics()["commits"], time.monotonic() + 10
    while fs.statistics()["commits"] < commits + 2:  # the first may have begun before the file was made
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    other = machine.copy_of_the_disk()
    recovered = other.mount()
    handle = recovered.open(file.number, os.O_RDONLY, ROOT)
    assert bytes(recovered.read(handle, 0, 10)) == b"data"
    recovered.release(handle)
    other.close()


def test_truncate_is_for_regular_files_and_sizes_that_exist(fs: FileSystem) -> None:
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    file = make_file(fs, 1, b"f")
    with pytest.raises(Exception, match="directory"):
        fs.setattr(made.number, ROOT, size=0)
    with pytest.raises(Exception, match="Invalid"):
        fs.setattr(file.number, ROOT, size=-1)
    assert fs.setattr(file.number, ROOT, size=2**63 - 1).size == 2**63 - 1


def test_a_hole_reads_as_zeros_and_costs_nothing(fs: FileSystem) -> None:
    inode, handle = fs.create(1, b"f", 0o600, os.O_RDWR, ROOT)
    fs.write(handle, 2**40, b"end")
    fs.setattr(inode.number, ROOT, size=2**62)
    fs.store_all()
    assert bytes(fs.read(handle, 2**40 - 5, 10)) == b"\0\0\0\0\0end\0\0"
    assert bytes(fs.read(handle, 12345, 100)) == bytes(100)
    assert chunk_bytes(fs, inode.number) == 3
    fs.release(handle)


def test_bytes_cut_off_by_a_truncation_are_zeros_when_the_file_grows_again(fs: FileSystem) -> None:
    inode, handle = fs.create(1, b"f", 0o600, os.O_RDWR, ROOT)
    fs.write(handle, 0, b"x" * 50_000)
    fs.store_all()
    fs.setattr(inode.number, ROOT, size=10_000)
    fs.setattr(inode.number, ROOT, size=60_000)
    assert bytes(fs.read(handle, 0, 60_000)) == b"x" * 10_000 + bytes(50_000)
    fs.store_all()
    assert bytes(fs.read(handle, 0, 60_000)) == b"x" * 10_000 + bytes(50_000)
    fs.release(handle)


def test_opening_with_trunc_empties_the_file(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f", b"content")
    fs.release(fs.open(file.number, os.O_WRONLY | os.O_TRUNC, ROOT))
    assert fs.getattr(file.number).size == 0


def test_handles_allow_what_they_were_opened_for(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f", b"content")
    reading, writing = fs.open(file.number, os.O_RDONLY, ROOT), fs.open(file.number, os.O_WRONLY, ROOT)
    refused(errno.EBADF, fs.write, reading, 0, b"x")
    refused(errno.EBADF, fs.read, writing, 0, 1)
    refused(errno.EFBIG, fs.write, writing, 2**63 - 2, b"xx")
    fs.release(reading)
    fs.release(writing)


def test_extended_attributes_heed_create_replace_and_limits(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    refused(errno.ENODATA, fs.getxattr, file.number, b"user.a")
    refused(errno.ENODATA, fs.setxattr, file.number, b"user.a", b"1", os.XATTR_REPLACE)
    fs.setxattr(file.number, b"user.a", b"1", os.XATTR_CREATE)
    refused(errno.EEXIST, fs.setxattr, file.number, b"user.a", b"2", os.XATTR_CREATE)
    fs.setxattr(file.number, b"user.a", b"", os.XATTR_REPLACE)
    fs.setxattr(file.number, b"user.b", b"\0" * 65_536)
    assert fs.getxattr(file.number, b"user.a") == b""
    assert fs.listxattr(file.number) == [b"user.a", b"user.b"]
    refused(errno.E2BIG, fs.setxattr, file.number, b"user.c", b"\0" * 65_537)
    refused(errno.ERANGE, fs.setxattr, file.number, b"n" * 256, b"")
    fs.removexattr(file.number, b"user.a")
    refused(errno.ENODATA, fs.removexattr, file.number, b"user.a")


@pytest.mark.promise("unusable-requests-are-refused-at-once", "attributes-have-64-kib")
def test_a_file_has_no_more_attributes_than_can_be_listed(fs: FileSystem) -> None:
    """The kernel passes on 64 KiB of names; a file with more could never be copied with its attributes."""
    file = make_file(fs, 1, b"f")
    names = [b"user.%03d" % number + b"n" * 191 for number in range(400)]
    for name in names[:327]:
        fs.setxattr(file.number, name, b"")
    refused(errno.ENOSPC, fs.setxattr, file.number, names[327], b"")
    fs.setxattr(file.number, names[0], b"another value")
    assert sum(len(name) + 1 for name in fs.listxattr(file.number)) <= 65_536
    fs.removexattr(file.number, names[0])
    fs.setxattr(file.number, names[327], b"")


def test_a_read_only_file_system_changes_nothing(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f", b"content")
    handle = fs.open(file.number, os.O_RDWR, ROOT)
    fs.turn_read_only("for the test")
    refused(errno.EROFS, fs.write, handle, 0, b"x")
    refused(errno.EROFS, fs.unlink, 1, b"f")
    refused(errno.EROFS, fs.mkdir, 1, b"d", 0o755, ROOT)
    assert bytes(fs.read(handle, 0, 100)) == b"content"
    fs.release(handle)


def test_statfs_counts_files_and_bytes(fs: FileSystem) -> None:
    make_file(fs, 1, b"f", b"x" * MIB)
    fs.store_all()
    figures = fs.statfs()
    assert figures.blocks - figures.blocks_free == MIB // figures.block_size
    assert figures.files - figures.files_free == 2


def test_opening_to_truncate_changes_the_times_of_an_empty_file_too(fs: FileSystem) -> None:
    inode, handle = fs.create(1, b"f", 0o644, os.O_RDWR, ROOT)
    fs.release(handle)
    fs.setattr(inode.number, ROOT, mtime_ns=5)
    fs.release(fs.open(inode.number, os.O_WRONLY | os.O_TRUNC, ROOT))
    assert fs.getattr(inode.number).mtime_ns > 5


@pytest.mark.promise("a-locked-index-is-waited-for")
def test_while_another_process_has_the_index_locked_nothing_is_promised_and_nothing_lost(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cas3fs.index.sqlite.BUSY_TIMEOUT_S", 0.2)
    fs = machine.mount()
    make_file(fs, 1, b"before", b"x" * 1000)
    fs.commit()
    with closing(sqlite3.connect(machine.folder / "index.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        make_file(fs, 1, b"meanwhile", b"y" * 1000)
        with pytest.raises(IndexDatabaseError, match="locked"):
            fs.commit()
        assert content(fs, b"before") == b"x" * 1000
        other.execute("ROLLBACK")
    fs.commit()
    crashed = machine.copy_of_the_disk()
    found = crashed.mount()
    assert (content(found, b"before"), content(found, b"meanwhile")) == (b"x" * 1000, b"y" * 1000)
    crashed.close()


def test_a_small_write_to_a_file_of_staging_is_made_at_once(fs: FileSystem) -> None:
    handle = fs.create(1, b"f", 0o600, os.O_RDWR, ROOT)[1]
    fs.write(handle, 0, bytes(8 * MIB))  # more than a layer holds in memory
    assert fs.write_now(handle, 5, b"small") == 5
    assert fs.write_now(handle, MIB, bytes(MIB)) is None
    assert fs.write(handle, MIB, b"b" * MIB) == MIB
    assert content(fs, b"f") == bytes(5) + b"small" + bytes(MIB - 10) + b"b" * MIB + bytes(6 * MIB)


def test_after_a_slow_write_the_next_ones_are_left_to_others_for_a_second(
    fs: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SlowClock()
    monkeypatch.setattr("cas3fs.filesystem.operations.files.time", clock)
    handle = fs.create(1, b"f", 0o600, os.O_RDWR, ROOT)[1]
    fs.write(handle, 0, bytes(8 * MIB))
    assert fs.write_now(handle, 0, b"quick") == 5
    clock.step_s = 0.01
    assert fs.write_now(handle, 0, b"slow") == 4
    clock.step_s = 0.0
    assert fs.write_now(handle, 0, b"next") is None
    clock.now_s += 1.1
    assert fs.write_now(handle, 0, b"later") == 5


class SlowClock:
    """A clock of the file system that goes on by `step_s` each time that it is read."""

    def __init__(self) -> None:
        self.now_s, self.step_s = 1000.0, 0.0

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def time_ns(self) -> int:
        return time.time_ns()
