# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree that the demonstration copies and compares."""

import os
import shutil
from pathlib import Path

import pytest

from benchmarks import trees
from benchmarks.trees import TreeItem


def ignore(item: TreeItem) -> None:
    """Ignore the progress."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "folder" / "empty").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"x" * 5000)
    (root / "folder" / "file").chmod(0o4751)
    os.link(root / "folder" / "file", root / "other name")
    (root / "broken link").symlink_to("nowhere")
    (root / "nothing").write_bytes(b"")
    os.utime(root / "nothing", ns=(1, 1_234_567_890_123_456_789))
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "skipped").write_bytes(b"x")
    return root


def test_a_copy_compares_equal(source: Path, tmp_path: Path) -> None:
    items = trees.choose([source], 100, 1 << 20)
    trees.copy(items, tmp_path / "copy", ignore)
    assert trees.compare(items, tmp_path / "copy", ignore) == []
    copied = tmp_path / "copy" / str(source).lstrip("/")
    assert sorted(path.name for path in copied.rglob("*")) == [
        "broken link", "empty", "file", "folder", "nothing", "other name",
    ]  # fmt: skip


def test_every_difference_is_named(source: Path, tmp_path: Path) -> None:
    items = trees.choose([source], 100, 1 << 20)
    trees.copy(items, tmp_path / "copy", ignore)
    copied = tmp_path / "copy" / str(source).lstrip("/")
    times = (copied / "folder" / "file").stat()
    with (copied / "folder" / "file").open("r+b") as file:
        file.write(b"y")
    os.utime(copied / "folder" / "file", ns=(times.st_atime_ns, times.st_mtime_ns))
    (copied / "nothing").chmod(0o600)
    (copied / "broken link").unlink()
    (copied / "broken link").symlink_to("elsewhere")
    shutil.rmtree(copied / "folder" / "empty")
    found = "\n".join(trees.compare(items, tmp_path / "copy", ignore))
    for what in ("different content", "mode 100600", "a link to elsewhere", "empty: No such file"):
        assert what in found


def test_a_copy_instead_of_a_hard_link_is_named(source: Path, tmp_path: Path) -> None:
    items = trees.choose([source], 100, 1 << 20)
    trees.copy(items, tmp_path / "copy", ignore)
    copied = tmp_path / "copy" / str(source).lstrip("/")
    shutil.copy2(copied / "other name", copied / "new")
    (copied / "new").chmod(0o4751)
    (copied / "new").replace(copied / "other name")
    assert any("hard link" in line for line in trees.compare(items, tmp_path / "copy", ignore))


def test_choose_respects_its_limits(source: Path) -> None:
    assert sum(item.data_bytes for item in trees.choose([source], 100, 4999)) == 0
    files = [item for item in trees.choose([source], 2, 1 << 20) if not Path(item.source).is_dir()]
    assert len(files) == 2
