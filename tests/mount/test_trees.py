# SPDX-License-Identifier: GPL-3.0-or-later
"""A copied tree is identical on another machine, on each kind of store."""

import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from .conftest import CliMachine

pytestmark = pytest.mark.frontend("kernel", "llfuse")

TreeState = dict[bytes, tuple[object, ...]]


def make_tree(root: Path) -> None:
    """Make a tree with every kind of thing that a file system has to keep."""
    noise = random.Random(7)
    root.mkdir()
    for number in range(40):
        folder = root / f"folder {number % 5}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_bytes(noise.randbytes(number * 700))
    (root / "large").write_bytes(noise.randbytes(3_000_000) + bytes(1_000_000) + noise.randbytes(100))
    (root / "empty").touch()
    (root / "link").symlink_to("folder 1/deep")
    (root / "dangling").symlink_to("/nowhere/" + "x" * 200)
    os.link(root / "large", root / "hard link")
    os.mkfifo(root / "fifo", 0o640)
    (root / "read-only").write_text("x")
    (root / "read-only").chmod(0o4444)
    for name in (b"\xff\xfe not utf-8", b"line\nfeed", b"-rf *", b"n" * 255, "ünïcode".encode()):
        (root / os.fsdecode(name)).write_bytes(name)
    with open(root / "sparse", "wb") as file:
        file.truncate(50_000_000)
        file.seek(20_000_000)
        file.write(b"in the middle")
    (root / "empty folder").mkdir(mode=0o1777)
    for path in sorted(root.rglob("*")):
        os.utime(path, ns=(1_000_000_000_123_456_789, noise.randrange(10**18)), follow_symlinks=False)


def tree_state(root: Path) -> TreeState:
    """All attributes and contents of a tree, by path."""
    found: TreeState = {}
    for path in root.rglob("*"):
        status = path.lstat()
        links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        known = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, links, size, content)
        found[os.fsencode(path.relative_to(root))] = known
    return found


@pytest.mark.promise("the-store-restores-the-newest-snapshot")
def test_a_copied_tree_is_identical_on_another_machine(any_machine: CliMachine) -> None:
    machine = any_machine
    make_tree(machine.root / "tree")
    machine.mkfs()
    machine.mount()
    subprocess.run(["cp", "-a", machine.root / "tree", machine.dir / "copy"], check=True)
    expected = tree_state(machine.root / "tree")
    assert tree_state(machine.dir / "copy") == expected
    machine.umount()
    machine.forget_everything()
    machine.mount()
    assert tree_state(machine.dir / "copy") == expected
    machine.umount()


def test_a_second_copy_adds_almost_no_data(machine: CliMachine) -> None:
    make_tree(machine.root / "tree")
    machine.mkfs()
    machine.mount()
    subprocess.run(["cp", "-a", machine.root / "tree", machine.dir / "one"], check=True)
    machine.run("flush", machine.dir)
    first = machine.report("stats", machine.dir)["pack_bytes"]
    subprocess.run(["cp", "-a", machine.root / "tree", machine.dir / "two"], check=True)
    machine.run("flush", machine.dir)
    assert machine.report("stats", machine.dir)["pack_bytes"] <= first * 1.01
    machine.umount()


def test_changes_of_one_mount_are_visible_in_the_next(machine: CliMachine) -> None:
    machine.mkfs()
    machine.mount()
    (machine.dir / "a").write_text("first")
    (machine.dir / "b").write_text("removed soon")
    machine.umount()
    machine.mount()
    (machine.dir / "a").write_text("second, longer")
    (machine.dir / "b").unlink()
    (machine.dir / "a").rename(machine.dir / "c")
    machine.umount()
    machine.forget_everything()
    machine.mount()
    assert {path.name: path.read_text() for path in machine.dir.iterdir()} == {"c": "second, longer"}
    machine.umount()
