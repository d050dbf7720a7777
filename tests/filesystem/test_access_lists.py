# SPDX-License-Identifier: GPL-3.0-or-later
"""POSIX access lists, the umask and flags of inodes, without FUSE."""

import errno
import os
import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.errors import FileSystemError
from cas3fs.filesystem import FileSystem
from cas3fs.filesystem.settings import Owner
from cas3fs.filesystem.state.access_lists import ACCESS, DEFAULT, AccessList
from cas3fs.filesystem.state.inode_flags import APPEND, IMMUTABLE
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import make_file, refused

NOBODY = 0xFFFF_FFFF
Permissions = st.integers(0, 7)


def value_of(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def list_of(owner: int, named: int, group: int, mask: int, other: int) -> bytes:
    """Of one user with a name, beside the three classes and the mask."""
    return value_of((1, owner, NOBODY), (2, named, 1000), (4, group, NOBODY), (16, mask, NOBODY), (32, other, NOBODY))


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: struct.pack("<I", 2) + tail))
def test_any_bytes_are_a_list_or_refused(value: bytes) -> None:
    try:
        found = AccessList.parse(value)
    except FileSystemError as error:
        assert error.errno == errno.EINVAL
    else:
        assert found.value() == value


@given(st.tuples(*[Permissions] * 5), st.integers(0, 0o777))
def test_a_new_mode_changes_the_classes_and_no_named_entry(listed: tuple[int, int, int, int, int], mode: int) -> None:
    owner, named, group, mask, other = listed
    found = AccessList.parse(list_of(owner, named, group, mask, other))
    assert found.permissions == owner << 6 | mask << 3 | other
    changed = found.with_mode(mode)
    assert changed.permissions == mode
    assert changed.value() == list_of(mode >> 6, named, group, mode >> 3 & 7, mode & 7)
    assert found.limited_to(mode).permissions == found.permissions & mode


def with_lists(machine: Machine) -> FileSystem:
    fs = machine.mount()
    fs.access_lists.enabled = True
    return fs


def test_the_umask_counts_unless_the_directory_has_a_default_list(machine: Machine) -> None:
    fs, caller = with_lists(machine), Owner(umask=0o077)
    assert stat.S_IMODE(fs.mkdir(1, b"d", 0o777, caller).mode) == 0o700
    folder = fs.lookup(1, b"d").number
    fs.setxattr(folder, DEFAULT, list_of(7, 7, 5, 5, 0))
    made, handle = fs.create(folder, b"f", 0o666, os.O_RDWR, caller)
    fs.release(handle)
    assert stat.S_IMODE(made.mode) == 0o640
    assert fs.getxattr(made.number, ACCESS) == list_of(6, 7, 5, 4, 0)
    below = fs.mkdir(folder, b"below", 0o777, caller)
    assert fs.getxattr(below.number, DEFAULT) == list_of(7, 7, 5, 5, 0)
    assert stat.S_IMODE(fs.symlink(folder, b"s", b"target", caller).mode) == 0o777


def test_inherited_lists_survive_a_crash_with_their_files(machine: Machine) -> None:
    fs = with_lists(machine)
    fs.setxattr(1, DEFAULT, list_of(7, 7, 5, 5, 0))
    file = make_file(fs, 1, b"f", b"content")
    fs.commit()
    other = machine.copy_of_the_disk()
    again = with_lists(other)
    assert again.getxattr(again.lookup(1, b"f").number, ACCESS) == fs.getxattr(file.number, ACCESS)
    other.close()


@pytest.mark.promise("access-lists-work")
def test_the_first_list_is_kept_also_after_one_that_is_not(machine: Machine) -> None:
    """Such a one is set by ``cp -a`` and ``rsync -A``, and not kept."""
    fs = with_lists(machine)
    fs.setxattr(1, ACCESS, value_of((1, 7, NOBODY), (4, 5, NOBODY), (32, 5, NOBODY)))
    file = make_file(fs, 1, b"f")
    fs.setxattr(file.number, ACCESS, list_of(6, 7, 5, 4, 0))
    fs.commit()
    other = machine.copy_of_the_disk()
    assert with_lists(other).getxattr(file.number, ACCESS) == list_of(6, 7, 5, 4, 0)
    other.close()


def test_lists_are_not_followed_where_they_are_refused(machine: Machine) -> None:
    fs = with_lists(machine)
    fs.setxattr(1, DEFAULT, list_of(7, 7, 5, 5, 0))
    fs.access_lists.enabled = False
    assert stat.S_IMODE(fs.mkdir(1, b"d", 0o777, Owner(umask=0o022)).mode) == 0o755
    assert fs.listxattr(fs.lookup(1, b"d").number) == []


def test_a_file_with_writes_in_a_cache_above_gets_no_protection(machine: Machine) -> None:
    fs = machine.mount()
    fs.files.has_cache_above = True
    file, handle = fs.create(1, b"f", 0o600, os.O_RDWR, ROOT)
    for flag in (IMMUTABLE, APPEND):
        refused(errno.EBUSY, fs.set_flags, file.number, flag)
    fs.write(handle, 0, b"content")
    fs.release(handle)
    fs.set_flags(file.number, IMMUTABLE)
    refused(errno.EPERM, fs.unlink, 1, b"f")


def test_a_default_list_needs_a_directory(machine: Machine) -> None:
    fs = with_lists(machine)
    file = make_file(fs, 1, b"f")
    refused(errno.EACCES, fs.setxattr, file.number, DEFAULT, list_of(7, 7, 5, 5, 0))
    fs.removexattr(file.number, ACCESS)  # there is none, and that is fine
    fs.setattr(file.number, ROOT, mode=0o600)
    assert fs.listxattr(file.number) == []


def test_a_new_mode_counts_in_lists_that_are_not_followed_now(machine: Machine) -> None:
    fs = with_lists(machine)
    file = make_file(fs, 1, b"f", b"content")
    fs.setxattr(file.number, ACCESS, list_of(7, 7, 5, 5, 4))
    fs.access_lists.enabled = False
    fs.setattr(file.number, ROOT, mode=0o600)
    fs.access_lists.enabled = True
    assert fs.getxattr(file.number, ACCESS) == list_of(6, 7, 5, 0, 0)
