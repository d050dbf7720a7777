# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel keeps of a mount (listings, targets of links, locks) is right."""

import ctypes
import fcntl
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CliMachine

NAMES = 500
_GETDENTS64_OF = {"x86_64": 217, "aarch64": 61, "riscv64": 61}
_GETDENTS64 = _GETDENTS64_OF.get(platform.machine())
_TRY = """
import fcntl, os, struct, sys
kind, path = sys.argv[1:]
file = os.open(path, os.O_RDWR)
lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 10, 10, 0)
try:
    if kind == "flock":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        fcntl.fcntl(file, fcntl.F_SETLK if kind == "fcntl" else fcntl.F_OFD_SETLK, lock)
except BlockingIOError:
    print("excluded")
else:
    print("locked")
"""


@pytest.fixture
def mounted(machine: CliMachine) -> CliMachine:
    machine.mkfs()
    machine.mount()
    return machine


def _requests(machine: CliMachine, *kinds: str) -> int:
    found = machine.report("stats", machine.url)["kernel_requests"]
    return sum(found.get(kind, 0) for kind in kinds)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.frontend("kernel", lacks="counts of requests")
def test_a_kept_listing_costs_no_request(mounted: CliMachine) -> None:
    folder = mounted.dir / "folder"
    folder.mkdir()
    names = {f"name{number}" for number in range(NAMES)}
    for name in names:
        (folder / name).touch()
    assert _names(folder) == names
    before = _requests(mounted, "readdir", "readdirplus", "lookup")
    assert {entry.name for entry in os.scandir(folder) if entry.stat().st_size == 0} == names
    assert _requests(mounted, "readdir", "readdirplus", "lookup") == before
    mounted.umount()


@pytest.mark.promise("the-kernel-caches-only-what-is-true")
def test_a_kept_listing_shows_every_change_at_once(mounted: CliMachine) -> None:
    """Whatever the change is, and also when it is made by another program in a listing's middle."""
    folder, other = mounted.dir / "folder", mounted.dir / "other"
    folder.mkdir()
    other.mkdir()
    expected = {f"name{number}" for number in range(NAMES)}
    for name in expected:
        (folder / name).touch()

    def change(add: str | None, remove: str | None) -> None:
        expected.difference_update({remove})
        expected.update({add} - {None})
        assert _names(folder) == expected
        assert _names(folder) == expected

    change(None, None)
    (folder / "name1").unlink()
    change(None, "name1")
    (folder / "made").mkdir()
    change("made", None)
    (folder / "made").rmdir()
    change(None, "made")
    (folder / "name2").rename(folder / "renamed")
    change("renamed", "name2")
    (folder / "name3").rename(other / "name3")
    change(None, "name3")
    (other / "name3").rename(folder / "name4")
    change("name4", None)
    os.link(folder / "name5", folder / "linked")
    change("linked", None)
    (folder / "symlink").symlink_to("name5")
    change("symlink", None)
    os.mkfifo(folder / "pipe")
    change("pipe", None)
    with os.scandir(folder) as listing:
        seen = [next(listing).name for _ in range(20)]
        subprocess.run(["touch", folder / "late"], check=True)
        subprocess.run(["rm", folder / "name7"], check=True)
        seen += [entry.name for entry in listing]
    assert set(seen) >= expected - {"late", "name7"}
    assert len(seen) == len(set(seen))
    change("late", "name7")
    mounted.umount()


@pytest.mark.promise("the-kernel-caches-only-what-is-true")
def test_a_replaced_link_leads_to_the_new_target(mounted: CliMachine) -> None:
    link = mounted.dir / "link"
    for number in range(20):
        (mounted.dir / "new").symlink_to(f"target{number}")
        (mounted.dir / "new").rename(link)
        assert link.readlink() == Path(f"target{number}")
    before = _requests(mounted, "readlink")
    assert link.readlink() == Path("target19")
    assert _requests(mounted, "readlink") == before
    link.unlink()
    link.symlink_to("made anew")
    assert link.readlink() == Path("made anew")
    mounted.umount()


def _tried(kind: str, path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", _TRY, kind, path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.promise("locks-work-on-one-machine")
@pytest.mark.frontend("kernel", "llfuse")
@pytest.mark.parametrize("kind", ["fcntl", "OFD", "flock"])
def test_two_processes_exclude_each_other(mounted: CliMachine, kind: str) -> None:
    path = mounted.dir / "file"
    path.write_bytes(bytes(100))
    with open(path, "r+b") as file:
        if kind == "flock":
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 50, 0)
            fcntl.fcntl(file, fcntl.F_SETLK if kind == "fcntl" else fcntl.F_OFD_SETLK, lock)
        assert _tried(kind, path) == "excluded"
    assert _tried(kind, path) == "locked"
    mounted.umount()


def _entries(directory: int, size_bytes: int) -> list[bytes]:
    """What one getdents64(2) with a buffer of that size returns: names."""
    buffer = ctypes.create_string_buffer(size_bytes)
    length = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(_GETDENTS64), directory, buffer, size_bytes)
    assert length >= 0, os.strerror(ctypes.get_errno())
    names, at = [], 0
    while at < length:
        (record,) = struct.unpack_from("=H", buffer, at + 16)
        names.append(buffer.raw[at + 19 : at + record].split(b"\0")[0])
        at += record
    return names


@pytest.mark.skipif(platform.machine() not in _GETDENTS64_OF, reason="the number of getdents64(2) is not known")
def test_a_reader_sees_nothing_that_was_deleted_before_it_began(mounted: CliMachine) -> None:
    folder = mounted.dir / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / name).touch()
    first = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    assert _entries(first, 32 * 1024) == [b".", b"..", b"a", b"b", b"c"]
    (folder / "b").unlink()
    second = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    assert _entries(second, 80) == [b".", b"..", b"a"]
    assert _entries(first, 32 * 1024) == []  # the kernel has now read to the end what it began before
    assert _entries(second, 32 * 1024) == [b"c"]
    os.close(first)
    os.close(second)
    assert _names(folder) == {"a", "c"}
    mounted.umount()
