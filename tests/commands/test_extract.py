# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and trees that are copied out of a snapshot, without a mount."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.commands.extract import extract
from cas3fs.control import Message
from cas3fs.errors import SnapshotError
from cas3fs.filesystem import ROOT, Owner
from tests.volume.conftest import Volume, write

pytestmark = pytest.mark.encryption("plain", "encrypted")

DEPTH = 400


def silent(message: Message) -> None:
    """Nobody watches."""


@pytest.fixture
def tree(volume: Volume) -> Iterator[str]:
    """A snapshot with one of each kind of file."""
    opened = volume.open()
    fs, caller = opened.filesystem, Owner(os.getuid(), os.getgid())
    folder = fs.mkdir(ROOT, b"folder", 0o751, caller)
    write(opened, "plain", "text")
    plain = fs.lookup(ROOT, b"plain").number
    fs.link(plain, folder.number, b"again")
    fs.symlink(folder.number, b"link", b"../nowhere", caller)
    fs.mknod(folder.number, b"fifo", 0o010640, 0, caller)
    sparse, handle = fs.create(folder.number, b"sparse\xff", 0o600, os.O_WRONLY, caller)
    fs.write(handle, 3_000_000, b"in the middle")
    fs.release(handle)
    fs.setattr(sparse.number, caller, size=1 << 30)
    fs.setxattr(plain, b"user.told", b"value")
    fs.setattr(plain, caller, mode=0o440, mtime_ns=1_500_000_000_123_456_789)
    fs.setattr(folder.number, caller, mtime_ns=1_400_000_000_000_000_001)
    made = opened.finish()
    opened.close()
    assert made is not None
    yield made


def test_a_tree_is_extracted_with_links_attributes_and_holes(volume: Volume, tree: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = extract(volume.store_settings, volume.folders("x"), tree, "/", out, progress=silent)
    assert result.problems == []
    plain, folder = out / "plain", out / "folder"
    assert plain.read_text() == "text"
    assert (plain.stat().st_mode & 0o7777, plain.stat().st_mtime_ns) == (0o440, 1_500_000_000_123_456_789)
    assert plain.samefile(folder / "again")
    assert os.getxattr(plain, "user.told") == b"value"
    assert (folder.stat().st_mode & 0o7777, folder.stat().st_mtime_ns) == (0o751, 1_400_000_000_000_000_001)
    assert (folder / "link").readlink() == Path("../nowhere")
    assert (folder / "fifo").is_fifo()
    sparse = folder / os.fsdecode(b"sparse\xff")
    assert sparse.stat().st_size == 1 << 30
    assert sparse.stat().st_blocks * 512 < 1 << 20
    with open(sparse, "rb") as file:
        file.seek(2_999_999)
        assert file.read(15) == b"\0in the middle\0"


def test_access_lists_are_extracted(volume: Volume, tmp_path: Path) -> None:
    nobody = 0xFFFF_FFFF
    entries = ((1, 6, nobody), (2, 7, 1000), (4, 4, nobody), (16, 6, nobody), (32, 0, nobody))
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    (tmp_path / "probe").touch()
    try:
        os.setxattr(tmp_path / "probe", "system.posix_acl_access", value)
    except OSError:
        pytest.skip(f"{tmp_path} has no access lists")
    opened = volume.open()
    write(opened, "listed", "text")
    opened.filesystem.setxattr(opened.filesystem.lookup(ROOT, b"listed").number, b"system.posix_acl_access", value)
    made = opened.finish()
    opened.close()
    assert made is not None
    out = tmp_path / "out"
    assert extract(volume.store_settings, volume.folders("x"), made, "/", out, progress=silent).problems == []
    assert os.getxattr(out / "listed", "system.posix_acl_access") == value
    assert (out / "listed").stat().st_mode & 0o777 == 0o660


def test_a_file_is_extracted_under_a_name_or_into_a_folder(volume: Volume, tree: str, tmp_path: Path) -> None:
    folders = volume.folders("x")
    extract(volume.store_settings, folders, tree, "folder/again", tmp_path / "renamed", progress=silent)
    assert (tmp_path / "renamed").read_text() == "text"
    extract(volume.store_settings, folders, tree, "/plain", tmp_path, progress=silent)
    assert (tmp_path / "plain").read_text() == "text"
    with pytest.raises(SnapshotError, match="has no folder/none"):
        extract(volume.store_settings, folders, tree, "folder/none", tmp_path / "none", progress=silent)
    assert list((volume.state("x")).glob("views/*")) == []


def test_half_a_file_is_not_left_behind(volume: Volume, tree: str, tmp_path: Path) -> None:
    for pack in (volume.root / "v" / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()
    result = extract(volume.store_settings, volume.folders("x"), tree, "/", tmp_path / "out", progress=silent)
    assert len(result.problems) >= 2
    assert not (tmp_path / "out" / "plain").exists()
    assert (tmp_path / "out" / "folder" / "link").readlink() == Path("../nowhere")


def test_a_tree_that_is_deeper_than_pythons_stack_is_extracted(volume: Volume, tmp_path: Path) -> None:
    opened = volume.open()
    fs, folder = opened.filesystem, ROOT
    for _ in range(DEPTH):
        folder = fs.mkdir(folder, b"d", 0o755, Owner(os.getuid(), os.getgid())).number
    fs.symlink(folder, b"bottom", b"reached", Owner())
    made = opened.finish()
    opened.close()
    assert made is not None
    result = extract(volume.store_settings, volume.folders("x"), made, "/", tmp_path / "out", progress=silent)
    assert (result.files, result.problems) == (DEPTH + 2, [])
    assert (tmp_path / "out" / ("d/" * DEPTH) / "bottom").readlink() == Path("reached")


def test_a_too_long_path_is_reported_and_the_rest_extracted(volume: Volume, tmp_path: Path) -> None:
    opened = volume.open()
    fs, folder = opened.filesystem, ROOT
    for _ in range(20):
        folder = fs.mkdir(folder, b"d" * 250, 0o755, Owner(os.getuid(), os.getgid())).number
    write(opened, "plain", "text")
    made = opened.finish()
    opened.close()
    assert made is not None
    result = extract(volume.store_settings, volume.folders("x"), made, "/", tmp_path / "out", progress=silent)
    (problem,) = result.problems
    assert "too long" in problem
    assert (tmp_path / "out" / "plain").read_text() == "text"
