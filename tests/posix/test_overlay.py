# SPDX-License-Identifier: GPL-3.0-or-later
"""An overlay whose upper layer is on a mount shows what one shows whose upper layer is on a local disk."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

pytestmark = [
    pytest.mark.frontend("kernel", lacks="what an upper layer needs"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount an overlay"),
    pytest.mark.skipif("overlay" not in Path("/proc/filesystems").read_text(), reason="this kernel has no overlayfs"),
]


def make_lower(folder: Path) -> None:
    for name in ("kept", "changed", "gone", "moved", "linked", "mode"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    os.link(folder / "linked", folder / "other")
    os.setxattr(folder / "mode", "user.a", b"kept")
    for name in ("walk/in/side", "remade/old", "removed/below"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text(name)


def change(folder: Path) -> None:
    """What programs do in an overlay: each line makes overlayfs use another feature of its upper layer."""
    (folder / "new").write_text("new")
    with open(folder / "changed", "a") as file:
        file.write(" and more")
    (folder / "mode").chmod(0o4711)
    (folder / "gone").unlink()
    (folder / "moved").rename(folder / "elsewhere")
    os.link(folder / "linked", folder / "third")
    (folder / "walk" / "in").rename(folder / "out")
    (folder / "out" / "side" / "file").unlink()
    shutil.rmtree(folder / "remade")
    (folder / "remade").mkdir()
    (folder / "remade" / "young").write_text("young")
    shutil.rmtree(folder / "removed")
    (folder / "link").symlink_to("new")
    os.mkfifo(folder / "fifo")
    unnamed = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(unnamed, b"named later")
    os.link(f"/proc/self/fd/{unnamed}", folder / "named", src_dir_fd=unnamed)
    os.close(unnamed)
    os.setxattr(folder / "kept", "user.b", b"set")


def seen(folder: Path) -> dict[str, object]:
    """All that a program sees there, but times and numbers."""
    found: dict[str, object] = {}
    for path in [folder, *folder.rglob("*")]:
        about = path.lstat()
        content = (
            path.read_bytes()
            if stat.S_ISREG(about.st_mode)
            else os.readlink(path)
            if path.is_symlink()
            else sorted(os.listdir(path))
            if path.is_dir()
            else None
        )
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        links = None if path.is_dir() else about.st_nlink
        found[str(path.relative_to(folder))] = oct(about.st_mode), links, content, attributes
    return found


@contextmanager
def overlay(place: Path, upper: Path, options: str) -> Iterator[Path]:
    """An overlay of ``lower`` in `place`, with layers in `upper`."""
    merged = place / "merged"
    for folder in (merged, upper / "upper", upper / "work"):
        folder.mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={place / 'lower'},upperdir={upper / 'upper'},workdir={upper / 'work'},{options}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", merged], check=True)


@contextmanager
def kernel_log() -> Iterator[Callable[[], str]]:
    """What the kernel logs meanwhile."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(log, 0, os.SEEK_END)

    def lines() -> str:
        text = ""
        while True:
            try:
                text += os.read(log, 8192).decode()
            except BlockingIOError:
                return text

    try:
        yield lines
    finally:
        os.close(log)


@pytest.mark.promise("overlays-work")
@pytest.mark.parametrize("options", ["redirect_dir=on", "redirect_dir=on,index=on,nfs_export=on", "metacopy=on"])
def test_an_overlay_works_with_its_upper_layer_here(
    need_fuse: None, cas3fs_mount: TemporaryMount, tmp_path: Path, options: str
) -> None:
    mount = cas3fs_mount
    make_lower(tmp_path / "lower")
    with overlay(tmp_path, tmp_path / "model", options) as merged:
        change(merged)
        expected = seen(merged)
    with overlay(tmp_path, tmp_path / "model", options) as merged:
        expected_later = seen(merged)
    with kernel_log() as lines:
        with overlay(tmp_path, mount.path, options) as merged:
            change(merged)
            assert seen(merged) == expected
        assert "upper fs" not in lines()  # it warns of what the upper layer lacks
    for keep_state in (True, False):
        mount.again(keep_state=keep_state)
        with overlay(tmp_path, mount.path, options) as merged:
            assert seen(merged) == expected_later
