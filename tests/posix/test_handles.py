# SPDX-License-Identifier: GPL-3.0-or-later
"""File handles: name_to_handle_at(2) and open_by_handle_at(2), as servers of NFS use them."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

from .calls import FileHandle, name_to_handle_at, open_by_handle_at

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open by handle, and drop caches")
needs_export = pytest.mark.frontend("kernel", lacks="handles of forgotten files")


def forget_inodes() -> None:
    """Have the kernel forget the inodes and names that nobody uses."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


@contextmanager
def opened(folder: Path, handle: FileHandle, flags: int = os.O_RDONLY) -> Iterator[int]:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = open_by_handle_at(at, handle, flags)
    finally:
        os.close(at)
    try:
        yield file
    finally:
        os.close(file)


def is_stale(folder: Path, handle: FileHandle) -> bool:
    try:
        with opened(folder, handle):
            return False
    except OSError as error:
        assert error.errno == errno.ESTALE
        return True


def make_tree(folder: Path) -> list[Path]:
    (folder / "d" / "deep" / "est").mkdir(parents=True)
    (folder / "f").write_text("top")
    (folder / "d" / "deep" / "f").write_text("deep")
    return [folder, folder / "d", folder / "d" / "deep" / "est", folder / "f", folder / "d" / "deep" / "f"]


@needs_export
@pytest.mark.promise("handles-are-stable")
def test_a_handle_leads_to_an_inode_that_the_kernel_forgot(folder: Path) -> None:
    places = make_tree(folder)
    handles = [name_to_handle_at(path) for path in places]
    forget_inodes()
    for path, handle in zip(places, handles, strict=True):
        with opened(folder, handle) as file:
            found = os.fstat(file)
        assert found.st_ino == path.stat().st_ino
        forget_inodes()
    with opened(folder, handles[3]) as file:
        assert os.read(file, 10) == b"top"


@needs_export
@pytest.mark.promise("handles-are-stable")
def test_a_directory_opened_by_handle_knows_where_it_is(folder: Path) -> None:
    places = make_tree(folder)
    handle = name_to_handle_at(places[2])
    forget_inodes()
    with opened(folder, handle) as file:
        assert os.readlink(f"/proc/self/fd/{file}") == os.fspath(places[2])
        assert os.stat("..", dir_fd=file).st_ino == places[2].parent.stat().st_ino


@needs_export
@pytest.mark.promise("handles-are-stable")
def test_handles_are_the_same_after_a_remount(need_fuse: None, cas3fs_mount: TemporaryMount) -> None:
    places = make_tree(cas3fs_mount.path)
    handles = [name_to_handle_at(path) for path in places]
    for keep_state in (True, False):
        cas3fs_mount.again(keep_state=keep_state)
        for path, handle in zip(places, handles, strict=True):
            with opened(cas3fs_mount.path, handle) as file:
                assert os.fstat(file).st_ino == path.stat().st_ino
        assert [name_to_handle_at(path) for path in places] == handles


@pytest.mark.promise("handles-are-stable")
@pytest.mark.parametrize("remove", [Path.unlink, lambda path: os.replace(path.with_name("g"), path)])
@pytest.mark.parametrize("forgotten", [False, True])
def test_the_handle_of_a_removed_file_is_stale(folder: Path, forgotten: bool, remove: Callable[[Path], None]) -> None:
    for name in ("f", "g"):
        (folder / name).write_text("x")
    handle = name_to_handle_at(folder / "f")
    remove(folder / "f")
    if forgotten:
        forget_inodes()
    assert is_stale(folder, handle)
    (folder / "new").write_text("x")
    assert is_stale(folder, handle)


@pytest.mark.promise("handles-are-stable")
def test_the_handle_of_a_removed_directory_is_stale(folder: Path) -> None:
    (folder / "d").mkdir()
    handle = name_to_handle_at(folder / "d")
    (folder / "d").rmdir()
    forget_inodes()
    assert is_stale(folder, handle)


@pytest.mark.promise("handles-are-stable")
def test_an_invented_handle_is_stale(folder: Path) -> None:
    (folder / "f").touch()
    kind, content = name_to_handle_at(folder / "f")
    for invented in (bytes(12), b"\xff" * 12, content[:8] + b"\1\2\3\4", b"\0\0\0\0\xff\xff\xff\x7f" + bytes(4)):
        assert is_stale(folder, (kind, invented))
