# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands when the process of the mount is stopped, or its mount does not respond."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.subjects.mounted import NullFileSystem
from cas3fs.cli.socket_lookup import find_socket
from cas3fs.config import LocalFolders
from cas3fs.control import SOCKET_NAME, ControlServer, MountRecord
from cas3fs.errors import ControlError

from .conftest import CliMachine


@pytest.mark.promise("a-stopped-mount-is-named")
def test_every_command_names_the_stopped_process_and_remedy(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount()
    (machine.dir / "file").write_bytes(b"kept")
    commands: list[tuple[int, list[str | Path]]] = [
        (1, ["stats", machine.dir]),
        (1, ["stats", machine.url]),
        (1, ["flush", machine.dir]),
        (1, ["umount", machine.dir]),
        (8, ["fsck", machine.dir]),
        (1, ["snapshot", "list", machine.url]),
        (1, ["mount", machine.url, machine.dir]),
    ]
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(len(commands)) as pool:
            lines = [pool.submit(machine.fail, *words, status=status) for status, words in commands]
            for line in lines:
                assert f"the process {pid} that serves {machine.dir} is stopped" in line.result()
                assert f"kill -CONT {pid}" in line.result()
    finally:
        os.kill(pid, signal.SIGCONT)
    machine.umount()
    machine.mount()
    assert (machine.dir / "file").read_bytes() == b"kept"


@pytest.fixture
def unresponsive(need_fuse: None, workspace: Path) -> Iterator[Path]:
    """A mount point on which no request is answered."""
    mount = NullFileSystem(workspace / "null")
    mount.start()
    assert mount._process is not None
    mount._process.send_signal(signal.SIGSTOP)
    yield mount.root
    mount._process.send_signal(signal.SIGCONT)
    mount.stop()


def test_an_unresponsive_mount_is_reached_by_its_record(unresponsive: Path, workspace: Path) -> None:
    (workspace / "s" / "uuid").mkdir(parents=True)
    MountRecord("file:///v", "uuid", str(unresponsive), os.getpid()).save(workspace / "s" / "uuid")
    server = ControlServer(workspace / "s" / "uuid" / SOCKET_NAME, {})
    server.start()
    places = LocalFolders(workspace / "s", workspace / "c")
    assert find_socket(unresponsive, places, quiet_s=0.1) == workspace / "s" / "uuid" / SOCKET_NAME
    server.close()
    with pytest.raises(ControlError, match=f"the mount on {unresponsive} has not responded"):
        find_socket(unresponsive, places, quiet_s=0.1, alive_timeout_s=0.1)
