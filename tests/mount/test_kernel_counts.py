# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel asks for is counted, and what it has forgotten is forgotten."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import TIMEOUT_S, CliMachine

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
LOAD_S = 3.0
PROGRAMS = {
    "find": "import subprocess\nwhile go(): subprocess.run(['find', folder, '-size', '+1'], stdout=-3, stderr=-3)",
    "create": "while go(): open(f'{folder}/{next(count) % 300}', 'a').close()",
    "unlink": "while go(): tried(os.unlink, f'{folder}/{next(count) * 7 % 300}')",
    "stat": "while go(): tried(os.stat, f'{folder}/{next(count) % 400}')",
    "list": "while go(): [tried(one.stat) for one in os.scandir(folder)]",
    "rename": "while go(): tried(os.rename, f'{folder}/{next(count) % 300}', f'{folder}/{next(count) * 3 % 300}')",
}
_BEGIN = """
import contextlib, itertools, os, sys, time
folder, count, end = sys.argv[1], itertools.count(), time.monotonic() + float(sys.argv[2])
go = lambda: time.monotonic() < end
def tried(call, *args):
    with contextlib.suppress(FileNotFoundError):
        call(*args)
"""


def _known(machine: CliMachine) -> int:
    return int(machine.report("stats", machine.url)["process"]["inodes.known_to_kernel"])


@pytest.mark.skipif(not os.access(DROP_CACHES, os.W_OK) or os.geteuid() != 0, reason="only root drops caches")
@pytest.mark.promise("memory-is-freed-when-the-kernel-forgets")
@pytest.mark.frontend("kernel", "llfuse")
def test_no_inode_is_left_when_caches_were_dropped(machine: CliMachine) -> None:
    """Not after listings, creations, removals and renames by several programs, with caches dropped all the time."""
    machine.mkfs()
    machine.mount()
    folder = machine.dir / "folder"
    folder.mkdir()
    programs = [
        subprocess.Popen([sys.executable, "-c", _BEGIN + code, folder, str(LOAD_S)]) for code in PROGRAMS.values()
    ]
    dropped = 0
    while any(program.poll() is None for program in programs):
        DROP_CACHES.write_text("2")
        dropped += 1
    assert dropped > 3
    assert [program.returncode for program in programs] == [0] * len(programs)
    with os.scandir(folder):
        assert _known(machine) > 0
    deadline_s = time.monotonic() + TIMEOUT_S
    while _known(machine):
        assert time.monotonic() < deadline_s, f"{_known(machine)} inodes are left"
        DROP_CACHES.write_text("2")
    machine.umount()


@pytest.mark.frontend("kernel", lacks="large requests")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root raises the read-ahead of a mount")
def test_sequential_reads_come_in_large_requests(machine: CliMachine) -> None:
    """Of 256 KiB each, although a program reads 4 KiB at a time."""
    machine.mkfs()
    machine.mount()
    path = machine.dir / "file"
    path.write_bytes(bytes(8 << 20))
    with open(path, "rb", buffering=4096) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = machine.report("stats", machine.url)["kernel_requests"].get("read", 0)
        while file.read(4096):
            pass
        after = machine.report("stats", machine.url)["kernel_requests"]["read"]
    assert after - before < 40
    machine.umount()


@pytest.mark.frontend("kernel", lacks="counts of requests")
def test_requests_are_counted_by_kind(machine: CliMachine) -> None:
    machine.mkfs()
    machine.mount()
    before = machine.report("stats", machine.url)["kernel_requests"]
    for number in range(10):
        (machine.dir / f"file{number}").write_bytes(b"x")
    after = machine.report("stats", machine.url)["kernel_requests"]
    assert after["create"] - before.get("create", 0) == 10
    assert after["write"] - before.get("write", 0) == 10
    assert set(after) >= {"lookup", "create", "write", "release"}
    machine.umount()
