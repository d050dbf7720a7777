# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mount lacks with ``--frontend llfuse``."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from .calls import EXCHANGE, NOREPLACE, WHITEOUT, fallocate, name_to_handle_at, renameat2
from .test_handles import forget_inodes, is_stale
from .test_names import refused

pytestmark = pytest.mark.frontend("llfuse")


@pytest.mark.promise("llfuse-has-no-flags-of-renames")
def test_llfuse_refuses_flags_of_renames_without_a_change(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(name)
    refused(errno.EEXIST, renameat2, folder / "a", folder / "b", NOREPLACE)
    refused(errno.EINVAL, renameat2, folder / "a", folder / "new", NOREPLACE)
    refused(errno.EINVAL, renameat2, folder / "a", folder / "b", EXCHANGE)
    refused(errno.EINVAL, renameat2, folder / "a", folder / "new", WHITEOUT)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "a", "b": "b"}


@pytest.mark.promise("llfuse-has-no-flags-of-renames")
def test_llfuse_refuses_o_tmpfile_and_tempfile_falls_back(folder: Path) -> None:
    refused(errno.EOPNOTSUPP, os.open, folder, os.O_TMPFILE | os.O_RDWR)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        assert list(folder.iterdir()) == []


@pytest.mark.promise("llfuse-lacks-ranges")
def test_llfuse_allocates_nothing_finds_no_hole_and_copies_data(folder: Path) -> None:
    with open(folder / "f", "w+b") as file, open(folder / "g", "w+b") as other:
        os.truncate(file.fileno(), 1 << 20)
        os.pwrite(file.fileno(), b"end", 1 << 20)
        refused(errno.EOPNOTSUPP, fallocate, file.fileno(), 0, 0, 2 << 20)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == (1 << 20) + 3
        copied = os.copy_file_range(file.fileno(), other.fileno(), 2 << 20, 0, 0)
        assert os.pread(other.fileno(), 2 << 20, 0) == (bytes(1 << 20) + b"end")[:copied]
        assert copied > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open by handle, and drop caches")
@pytest.mark.promise("llfuse-lacks-handles")
def test_llfuse_opens_by_handle_only_what_the_kernel_knows(folder: Path) -> None:
    (folder / "f").write_text("x")
    handle = name_to_handle_at(folder / "f")
    assert not is_stale(folder, handle)
    forget_inodes()
    assert is_stale(folder, handle)
    assert (folder / "f").read_text() == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount an overlay")
@pytest.mark.skipif("overlay" not in Path("/proc/filesystems").read_text(), reason="this kernel has no overlayfs")
@pytest.mark.promise("llfuse-has-no-flags-of-renames")
def test_linux_refuses_an_upper_layer_through_llfuse(folder: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (folder / name).mkdir()
    layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work,redirect_dir=on"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, folder / "merged"], check=False)
    assert done.returncode != 0
    assert not (folder / "merged").is_mount()


@pytest.mark.promise("llfuse-lacks-flags-and-times-of-birth")
def test_llfuse_has_no_chattr_and_shows_no_time_of_birth(folder: Path) -> None:
    (folder / "f").touch()
    done = subprocess.run(["chattr", "+i", folder / "f"], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Operation not supported" in done.stderr
    (folder / "f").write_text("it can still be changed")
    assert subprocess.run(["stat", "-c", "%W", folder / "f"], check=True, capture_output=True).stdout == b"0\n"
