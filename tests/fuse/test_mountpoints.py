# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount points: how the kernel lists them, and which folders are valid."""

from pathlib import Path

import pytest

from cas3fs.errors import MountError
from cas3fs.fuse.mountpoints import MountEntry, check_mountpoint, list_mounts, mount_at, resolve, unmount

MOUNTINFO = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 22 0:31 / /mnt/with\040space\134 rw,nosuid shared:2 master:3 - fuse.cas3fs s3://bucket/a\040b rw,user_id=0
37 22 0:32 / /mnt/other rw - fuse.sshfs host: rw
38 22 0:33 / /mnt/plain rw - fuse.cas3fs file:///v rw
"""


def test_only_mounts_of_cas3fs_are_listed_with_unescaped_names(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(MOUNTINFO)
    assert list_mounts(tmp_path / "mountinfo") == [
        MountEntry(Path("/mnt/with space\\"), "s3://bucket/a b"),
        MountEntry(Path("/mnt/plain"), "file:///v"),
    ]


def test_an_empty_folder_is_a_valid_mount_point(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_mountpoint(tmp_path / "link") == (tmp_path / "real").resolve()


def test_an_invalid_mount_point_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="does not exist"):
        check_mountpoint(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="is not a folder"):
        check_mountpoint(tmp_path / "file")
    with pytest.raises(MountError, match="is not empty"):
        check_mountpoint(tmp_path)
    assert check_mountpoint(tmp_path, may_hold_files=True) == tmp_path.resolve()


def test_mount_at_returns_none_for_a_plain_folder(tmp_path: Path) -> None:
    assert mount_at(tmp_path) is None
    assert mount_at(tmp_path / "nowhere") is None


def test_resolve_follows_links_except_in_the_last_part(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve(tmp_path / "link" / "mount") == (tmp_path / "real" / "mount").resolve()
    assert resolve(tmp_path / "link").name == "link"


def test_unmounting_a_plain_folder_fails_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="cannot unmount"):
        unmount(tmp_path)
