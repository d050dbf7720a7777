# SPDX-License-Identifier: GPL-3.0-or-later
"""What docs/posix.rst says was decided, on a mount."""

import errno
import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

PIB = 1 << 50
NOBODY = 0xFFFF_FFFF
ENTRIES = ((1, 6, NOBODY), (2, 4, 1000), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
"""Tag, permissions and id: of the owner, user 1000, the group, the mask, and others."""
ACCESS_LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)


@pytest.mark.promise("no-atime")
def test_reading_does_not_change_the_atime(cas3fs_mount: TemporaryMount) -> None:
    file = cas3fs_mount / "f"
    file.write_bytes(b"content")
    os.utime(file, ns=(1_000_000_000, 2_000_000_000))
    cas3fs_mount.again()
    assert file.read_bytes() == b"content"
    assert file.stat().st_atime_ns == 1_000_000_000


@pytest.mark.promise("the-store-has-a-petabyte")
def test_statvfs_shows_a_petabyte_free(cas3fs_mount: TemporaryMount) -> None:
    shown = os.statvfs(cas3fs_mount)
    assert shown.f_bavail * shown.f_frsize == pytest.approx(PIB, rel=0.01)


@pytest.mark.promise("devices-and-set-id-bits-need-an-option")
def test_devices_and_set_id_bits_are_ignored_without_the_options(cas3fs_mount: TemporaryMount) -> None:
    line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(cas3fs_mount.path) in line)
    assert {"nodev", "nosuid"} <= set(line.split()[3].split(","))
    if os.geteuid() == 0:
        os.mknod(cas3fs_mount / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with pytest.raises(PermissionError):
            os.close(os.open(cas3fs_mount / "null", os.O_RDONLY))


@pytest.mark.promise("attributes-have-64-kib")
def test_a_value_of_an_attribute_has_64_kib(cas3fs_mount: TemporaryMount) -> None:
    (cas3fs_mount / "f").touch()
    os.setxattr(cas3fs_mount / "f", "user.a", bytes(65536))
    with pytest.raises(OSError, match=os.strerror(errno.E2BIG)):
        os.setxattr(cas3fs_mount / "f", "user.b", bytes(65537))


@pytest.mark.promise("access-lists-can-be-refused")
@pytest.mark.parametrize("options", [["--no-acl"], ["-o", "noacl"]])
def test_an_access_list_is_refused_and_cp_keeps_the_mode(cas3fs_mount: TemporaryMount, options: list[str]) -> None:
    (cas3fs_mount / "listed").touch()
    os.setxattr(cas3fs_mount / "listed", "system.posix_acl_access", ACCESS_LIST)
    cas3fs_mount.again(*options)
    assert os.listxattr(cas3fs_mount / "listed") == []
    (cas3fs_mount / "f").write_bytes(b"x")
    (cas3fs_mount / "f").chmod(0o640)
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        os.setxattr(cas3fs_mount / "f", "system.posix_acl_access", ACCESS_LIST)
    subprocess.run(["cp", "-p", cas3fs_mount / "f", cas3fs_mount / "g"], check=True)
    assert stat.S_IMODE((cas3fs_mount / "g").stat().st_mode) == 0o640
