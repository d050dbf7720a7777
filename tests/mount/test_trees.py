# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree that was copied in comes back the same on another machine, on each kind of store."""

import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from .conftest import Machine

Facts = dict[bytes, tuple[object, ...]]


def make_tree(root: Path) -> None:
    """A tree with a bit of everything that a file system has to keep."""
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


def facts(root: Path) -> Facts:
    """What there is to know of a tree, by name."""
    found: Facts = {}
    for path in root.rglob("*"):
        told = path.lstat()
        links = 0 if stat.S_ISDIR(told.st_mode) else told.st_nlink
        size = 0 if stat.S_ISDIR(told.st_mode) else told.st_size
        content = b""
        if stat.S_ISLNK(told.st_mode):
            content = os.fsencode(path.readlink())
        elif stat.S_ISREG(told.st_mode):
            content = path.read_bytes()
        known = (told.st_mode, told.st_uid, told.st_gid, told.st_mtime_ns, links, size, content)
        found[os.fsencode(path.relative_to(root))] = known
    return found


@pytest.mark.promise("the-store-restores-the-newest-snapshot")
def test_a_copied_tree_is_the_same_on_another_machine(any_machine: Machine) -> None:
    machine = any_machine
    make_tree(machine.root / "tree")
    machine.mkfs()
    machine.mount()
    subprocess.run(["cp", "-a", machine.root / "tree", machine.dir / "copy"], check=True)
    expected = facts(machine.root / "tree")
    assert facts(machine.dir / "copy") == expected
    machine.umount()
    machine.forget_everything()
    machine.mount()
    assert facts(machine.dir / "copy") == expected
    machine.umount()


def test_a_second_copy_adds_next_to_nothing(machine: Machine) -> None:
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


def test_what_changes_between_mounts_is_what_the_next_one_shows(machine: Machine) -> None:
    machine.mkfs()
    machine.mount()
    (machine.dir / "a").write_text("first")
    (machine.dir / "b").write_text("gone soon")
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
