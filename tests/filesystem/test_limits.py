# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers that a program may hand in: one that cannot be kept is replaced by the nearest, or refused, without effect on
other files."""

import errno
import os
import stat

import pytest

from cas3fs.filesystem import Owner
from cas3fs.filesystem.limits import TIME_MAX_NS, TIME_MIN_NS
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import make_file, names_in, refused

SECOND_NS = 10**9
EXTREME = 2**63
BEYOND = [-(EXTREME**2), -EXTREME * SECOND_NS, -EXTREME - 1, EXTREME, EXTREME * SECOND_NS, EXTREME**2]
WITHIN = [TIME_MIN_NS, -1, 0, 1, TIME_MAX_NS]


@pytest.mark.promise("values-are-checked-at-the-border", "times-have-64-bits")
@pytest.mark.parametrize("time_ns", BEYOND + WITHIN)
def test_a_time_that_does_not_fit_becomes_the_nearest_that_does(machine: Machine, time_ns: int) -> None:
    fs = machine.mount()
    for name in (b"plain", b"staged"):
        number = make_file(fs, 1, name, b"content" if name == b"staged" else b"").number
        changed = fs.setattr(number, ROOT, atime_ns=time_ns, mtime_ns=time_ns)
        assert changed.mtime_ns == min(max(time_ns, TIME_MIN_NS), TIME_MAX_NS) == changed.atime_ns
    fs.commit()
    fs.store_all()
    crashed = machine.copy_of_the_disk()
    shown = crashed.mount().lookup(1, b"staged")
    assert (shown.atime_ns, shown.mtime_ns) == (changed.atime_ns, changed.mtime_ns)
    crashed.close()


@pytest.mark.parametrize("number", [-1, 2**32, 2**63, 2**64])
def test_an_impossible_owner_or_device_is_refused(machine: Machine, number: int) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f").number
    refused(errno.EINVAL, lambda: fs.setattr(file, ROOT, uid=number))
    refused(errno.EINVAL, lambda: fs.setattr(file, ROOT, gid=number))
    refused(errno.EINVAL, fs.mkdir, 1, b"d", 0o755, Owner(number, 0))
    refused(errno.EINVAL, fs.symlink, 1, b"l", b"t", Owner(0, number))
    if number < 0 or number >= EXTREME:
        refused(errno.EINVAL, fs.mknod, 1, b"n", stat.S_IFCHR | 0o600, number, ROOT)
    assert names_in(fs, 1) == [b"f"]
    fs.commit()


@pytest.mark.parametrize("number", [-1, 0, 2**63, 2**64, 2**200])
def test_an_impossible_inode_number_is_not_found(machine: Machine, number: int) -> None:
    fs = machine.mount()
    refused(errno.ENOENT, fs.getattr, number)
    refused(errno.ENOENT, fs.listxattr, number)
    refused(errno.ENOENT, fs.lookup, number, b"a")
    refused(errno.ENOENT, fs.open, number, os.O_RDONLY, ROOT)
    refused(errno.ENOENT, fs.mkdir, number, b"a", 0o755, ROOT)
    fs.commit()


@pytest.mark.promise("values-are-checked-at-the-border")
def test_impossible_sizes_and_offsets_are_refused(machine: Machine) -> None:
    fs = machine.mount()
    handle = fs.create(1, b"f", 0o644, os.O_RDWR, ROOT)[1]
    number = fs.lookup(1, b"f").number
    refused(errno.EINVAL, fs.read, handle, -1, 10)
    refused(errno.EINVAL, fs.write, handle, -1, b"x")
    refused(errno.EFBIG, fs.write, handle, 2**63 - 1, b"x")
    refused(errno.EFBIG, fs.write, handle, 2**70, b"x")
    refused(errno.EINVAL, lambda: fs.setattr(number, ROOT, size=-1))
    refused(errno.EFBIG, lambda: fs.setattr(number, ROOT, size=2**63))
    assert fs.write(handle, 2**63 - 2, b"x") == 1
    assert bytes(fs.read(handle, 2**63 - 2, 2**64)) == b"x"
    fs.setattr(number, ROOT, mode=2**80 - 1)
    assert fs.getattr(number).mode == stat.S_IFREG | 0o7777
    fs.commit()
    fs.release(handle)
    fs.store_all()
    crashed = machine.copy_of_the_disk()
    assert crashed.mount().lookup(1, b"f").size == 2**63 - 1
    crashed.close()
