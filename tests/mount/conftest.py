# SPDX-License-Identifier: GPL-3.0-or-later
"""Real mounts for the tests: the command line, run as by a user, with folders of its own, on each kind of store."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import frontends
from tests.encrypted import mkfs_option

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer, S3Server

TIMEOUT_S = 30


class CliMachine:
    """A machine with its own state and cache folders, on which the tests run the command line."""

    def __init__(self, root: Path, url: str, environment: dict[str, str], frontend: str | None = None) -> None:
        self.root = root
        self.url = url
        self.frontend = frontend or frontends.chosen()
        self.state = root / "s"
        self.cache = root / "c"
        self.dir = root / "m"
        self.dir.mkdir(parents=True)
        self.environment = os.environ | environment
        self.pids: list[int] = []
        self.max_open_files: int | None = None
        """How many files a process may have open."""

    def run(self, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run ``cas3fs`` and check the exit status."""
        if arguments[0] == "mount" and "--frontend" not in arguments:
            arguments = (*arguments, "--frontend", self.frontend)
        places = {"CAS3FS_STATE_DIR": str(self.state), "CAS3FS_CACHE_DIR": str(self.cache)}
        limited = (
            [] if self.max_open_files is None else ["sh", "-c", f'ulimit -n {self.max_open_files} && exec "$@"', "sh"]
        )
        done = subprocess.run(
            [*limited, sys.executable, "-m", "cas3fs", *map(str, arguments)],
            env=self.environment | places,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.stdout}{done.stderr}{self.log()}"
        assert "Traceback" not in done.stderr
        return done

    def fail(self, *arguments: str | Path, status: int = 1) -> str:
        """Run ``cas3fs``, which must fail; returns its single line on stderr."""
        lines = self.run(*arguments, status=status).stderr.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    def report(self, *arguments: str | Path) -> Any:
        """What ``cas3fs ... --json`` prints."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def mkfs(self, *options: str) -> None:
        self.run("mkfs", self.url, mkfs_option(), *(options or ("--allow-unfenced",)))

    def mount(self, *options: str) -> int:
        """Mount; returns the process id."""
        self.run("mount", self.url, self.dir, *options)
        pid = int(json.loads(next(self.state.glob("*/mount.json")).read_text())["pid"])
        self.pids.append(pid)
        return pid

    def umount(self) -> None:
        self.run("umount", self.dir)

    def forget_everything(self) -> None:
        """Delete the state and cache folders, as if this were another machine."""
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.rmtree(self.cache, ignore_errors=True)

    def kill(self, pid: int) -> None:
        """Kill the mount's process; its stale mount stays."""
        os.kill(pid, signal.SIGKILL)
        wait_for_exit(pid)

    def log(self) -> str:
        return "".join(path.read_text() for path in self.state.glob("*/mount.log"))

    def clean_up(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_for_exit(pid)
        while os.path.ismount(self.dir) or _is_stale(self.dir):
            subprocess.run(["umount", "--lazy", self.dir], check=True)


def _is_stale(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return True
    return False


def wait_for_exit(pid: int, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until the process has ended; it need not be a child."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(process, select.POLLIN)
        assert poller.poll(timeout_s * 1000), f"process {pid} does not end"
    finally:
        os.close(process)


def new_bucket(server: "S3Server", workspace: Path) -> str:
    """Create a bucket named after `workspace` by a request, as the server would not see a new folder at once."""
    from cas3fs.testing.servers import s3_client

    name = f"mount-{workspace.name.replace('_', '-')}-bucket"  # the name of a bucket must end with a letter or digit
    client = s3_client(server)
    try:
        client.create_bucket(Bucket=name)
    finally:
        client.close()
    return name


@pytest.fixture
def machine(need_fuse: None, frontend: str, encryption: str, workspace: Path) -> Iterator[CliMachine]:
    """A machine, and a folder for a volume."""
    (workspace / "v").mkdir()
    made = CliMachine(workspace, (workspace / "v").as_uri(), {}, frontend)
    yield made
    made.clean_up()


@pytest.fixture(params=["directory", "rclone"])
def any_machine(
    request: pytest.FixtureRequest, need_fuse: None, frontend: str, encryption: str, workspace: Path
) -> Iterator[CliMachine]:
    """A machine, and a place for a volume on each kind of store."""
    if request.param == "directory":
        (workspace / "v").mkdir()
        made = CliMachine(workspace, (workspace / "v").as_uri(), {}, frontend)
    else:
        server: RcloneServer = request.getfixturevalue("rclone_s3")
        made = CliMachine(workspace, f"s3://{new_bucket(server, workspace)}/volume", server.environment, frontend)
    yield made
    made.clean_up()


@pytest.fixture
def small_disk(need_fuse: None, encryption: str, rclone_s3: "RcloneServer", workspace: Path) -> Iterator[CliMachine]:
    """A machine with a small disk of its own, on a store that can be paused."""
    if os.geteuid() != 0:
        pytest.skip("a small disk of its own needs root")
    machine = CliMachine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    machine.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", machine.state], check=True)
    yield machine
    rclone_s3.resume()
    machine.clean_up()
    subprocess.run(["umount", "--lazy", machine.state], check=True)
