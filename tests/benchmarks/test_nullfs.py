# SPDX-License-Identifier: GPL-3.0-or-later
"""The null file system accepts the trees that are copied to the others."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.subjects.mounted import NullFileSystem


@pytest.fixture
def subject(need_fuse: None, tmp_path: Path) -> Iterator[NullFileSystem]:
    made = NullFileSystem(tmp_path / "subject")
    made.start()
    yield made
    made.stop()


def test_nullfs_accepts_hard_links_and_special_files(subject: NullFileSystem, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_bytes(b"x" * 5000)
    os.link(source / "one", source / "two")
    os.mkfifo(source / "pipe")
    subprocess.run(["cp", "-a", source, subject.root / "copy"], check=True)
    copy = subject.root / "copy"
    one, two = (copy / "one").stat(), (copy / "two").stat()
    assert (one.st_ino, one.st_nlink, two.st_size) == (two.st_ino, 2, 5000)
    assert stat.S_ISFIFO((copy / "pipe").stat().st_mode)
    (copy / "one").unlink()
    left = (copy / "two").stat()
    assert (left.st_nlink, left.st_size, len((copy / "two").read_bytes())) == (1, 5000, 5000)
    subprocess.run(["rm", "-r", copy], check=True)
    assert list(subject.root.iterdir()) == []
