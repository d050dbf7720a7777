# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mount lacks with ``--frontend llfuse``."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from .calls import EXCHANGE, NOREPLACE, WHITEOUT, fallocate, renameat2
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
