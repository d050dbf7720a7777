# SPDX-License-Identifier: GPL-3.0-or-later
"""However a mount ends, or a program that waits for it, nothing hangs and nothing that was stored is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import TIMEOUT_S, CliMachine, new_bucket, wait_for_exit

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

FILE_BYTES = 300_000
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_WRITER = "import sys, time; f = open(sys.argv[1], 'wb', 0); print(flush=True); sys.stdin.read(1); f.write(b'more')"
_COPIER = """
import os, sys
source, copy = open(sys.argv[1], "rb"), open(sys.argv[2], "wb", 0)
copy.write(b"begin")
print(flush=True)
os.copy_file_range(source.fileno(), copy.fileno(), 300_000)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="these ways to end a mount are root's")


@pytest.fixture
def connections() -> Iterator[Path]:
    """Where the kernel lists connections, by the minor number of the mount's device."""
    is_ours = not any(_CONNECTIONS.iterdir()) and not os.path.ismount(_CONNECTIONS)
    if is_ours:
        subprocess.run(["mount", "-t", "fusectl", "none", _CONNECTIONS], check=True)
    yield _CONNECTIONS
    if is_ours:
        subprocess.run(["umount", _CONNECTIONS], check=True)


@pytest.fixture
def stored(need_fuse: None, encryption: str, rclone_s3: "RcloneServer", workspace: Path) -> Iterator[CliMachine]:
    """A mount with a file ``stored``, of which this machine has no data."""
    machine = CliMachine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    machine.mkfs()
    machine.mount("--cache-size", "0")
    (machine.dir / "stored").write_bytes(os.urandom(FILE_BYTES))
    machine.umount()
    machine.mount("--cache-size", "0")
    yield machine
    rclone_s3.resume()
    machine.clean_up()


# dd(1) catches SIGINT, and would go on waiting
_READER = """
import mmap, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.preadv(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), [mmap.mmap(-1, 4096)], 0)
"""


def _connection(connections: Path, mounted: Path) -> Path:
    return connections / str(os.minor(mounted.stat().st_dev))


def _start_cat(path: Path) -> "subprocess.Popen[bytes]":
    """Reads the file without the kernel's read-ahead, which would go on after the program."""
    return subprocess.Popen([sys.executable, "-c", _READER, path], stderr=subprocess.PIPE)


def _await_requests(connection: Path, count: int) -> None:
    """Return when the kernel waits for the replies to `count` requests."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while int((connection / "waiting").read_text()) != count:
        assert time.monotonic() < deadline_s, (connection / "waiting").read_text()


@pytest.mark.frontend("kernel", lacks="replies to interrupted requests")
@pytest.mark.promise("a-mount-ends-cleanly")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_a_reader_killed_while_it_waits_leaves_nothing(
    stored: CliMachine, rclone_s3: "RcloneServer", connections: Path, number: int
) -> None:
    """It is gone at once, and when the store is back, no request is left, and the file can be read."""
    connection = _connection(connections, stored.dir)
    rclone_s3.pause()
    reader = _start_cat(stored.dir / "stored")
    _await_requests(connection, 1)
    reader.send_signal(number)
    assert reader.wait(5) == -number
    rclone_s3.resume()
    _await_requests(connection, 0)
    assert len((stored.dir / "stored").read_bytes()) == FILE_BYTES
    stored.umount()


@pytest.mark.frontend("kernel", lacks="replies to interrupted requests")
@pytest.mark.promise("a-mount-ends-cleanly")
def test_a_copier_killed_while_it_waits_leaves_nothing(
    stored: CliMachine, rclone_s3: "RcloneServer", connections: Path
) -> None:
    """It is gone at once, although a copy changes a file, and the copy ends there."""
    connection = _connection(connections, stored.dir)
    rclone_s3.pause()
    command = [sys.executable, "-c", _COPIER, stored.dir / "stored", stored.dir / "copy"]
    copier = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert copier.stdout is not None
    copier.stdout.readline()
    _await_requests(connection, 1)
    copier.kill()
    assert copier.wait(5) == -signal.SIGKILL
    rclone_s3.resume()
    _await_requests(connection, 0)
    assert (stored.dir / "copy").read_bytes() == b"begin"
    stored.umount()


def _start_writer(path: Path) -> "subprocess.Popen[bytes]":
    """A program that has `path` open, and writes to it when it gets a byte."""
    program = subprocess.Popen(
        [sys.executable, "-c", _WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    program.stdout.readline()
    return program


def _is_refused(writer: "subprocess.Popen[bytes]") -> bool:
    """Whether its write fails."""
    return b"OSError" in writer.communicate(b"x", timeout=TIMEOUT_S)[1]


@pytest.mark.promise("a-mount-ends-cleanly")
@pytest.mark.parametrize("way", ["umount -f", "abort", "SIGKILL"])
def test_waiting_programs_get_an_error_at_an_early_end(
    stored: CliMachine, rclone_s3: "RcloneServer", connections: Path, way: str
) -> None:
    """Then the volume is released and mounted again; nothing is left in the way."""
    connection, pid = _connection(connections, stored.dir), stored.pids[-1]
    (stored.dir / "kept").write_bytes(b"kept")
    writer = _start_writer(stored.dir / "written")
    rclone_s3.pause()
    reader = _start_cat(stored.dir / "stored")
    _await_requests(connection, 1)
    if way == "umount -f":
        subprocess.run(["umount", "-f", stored.dir], check=False, capture_output=True)
    elif way == "abort":
        (connection / "abort").write_text("1")
    else:
        os.kill(pid, signal.SIGKILL)
    assert reader.wait(TIMEOUT_S) == 1
    assert _is_refused(writer)
    rclone_s3.resume()
    if way == "SIGKILL":
        wait_for_exit(pid)
        stored.run("umount", stored.dir)
    else:
        wait_for_exit(pid, 2 * TIMEOUT_S)
        assert not os.path.ismount(stored.dir)
    stored.mount()
    if way != "SIGKILL":  # what was not synced may be lost with the process, and only then
        assert (stored.dir / "kept").read_bytes() == b"kept"
    assert len((stored.dir / "stored").read_bytes()) == FILE_BYTES
    stored.umount()


@pytest.mark.promise("a-mount-ends-cleanly")
def test_a_lazy_umount_ends_when_the_last_file_is_closed(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount()
    writer = _start_writer(machine.dir / "written")
    subprocess.run(["umount", "--lazy", machine.dir], check=True)
    assert not os.path.ismount(machine.dir)
    assert not _is_refused(writer)
    wait_for_exit(pid)
    machine.mount()
    assert (machine.dir / "written").read_bytes() == b"more"
    machine.umount()
