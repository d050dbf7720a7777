# SPDX-License-Identifier: GPL-3.0-or-later
"""Subjects served by one foreground process, and the null file system, the simplest of them."""

import os
import shutil
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from benchmarks.subjects.subject import Subject, drop_kernel_caches, peak_memory_kib

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 900
POLL_INTERVAL_S = 0.005
_USER_TICKS, _SYSTEM_TICKS = 14 - 3, 15 - 3  # fields of /proc/PID/stat behind the name (proc(5))


class Mounted(Subject):
    """A file system served by one process."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.mount_options = options
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._peak_kib = 0

    @abstractmethod
    def command(self) -> list[str]:
        """The command that mounts and serves until unmounted."""

    @abstractmethod
    def unmount(self) -> None:
        """Request the unmount; the process may still run when this returns."""

    def prepare(self) -> None:
        """Create what the first mount needs."""

    def forget_locally(self) -> None:
        """Remove local state of the unmounted file system."""

    def environment(self) -> dict[str, str]:
        """The environment of the subject's commands."""
        return dict(os.environ)

    def start(self) -> None:
        self.root.mkdir(parents=True)
        self.prepare()
        self._mount()

    def remount(self) -> float:
        self._unmount()
        drop_kernel_caches()
        return self._mount()

    def forget(self) -> float:
        self._unmount()
        self.forget_locally()
        drop_kernel_caches()
        return self._mount()

    def memory_kib(self) -> int | None:
        if self._process is not None and self._process.poll() is None:
            self._peak_kib = max(self._peak_kib, peak_memory_kib(self._process.pid))
        return self._peak_kib

    def processor_s(self) -> float | None:
        if self._process is None or self._process.poll() is not None:
            return None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        try:
            if self._process is not None and os.path.ismount(self.root):
                self._unmount()
        finally:
            self._force_down()
            shutil.rmtree(self.folder, ignore_errors=True)

    def timed_check(self, *command: str) -> float:
        """Unmount, run `command`, and mount again; returns the seconds of the command."""
        self._unmount()
        started_s = time.perf_counter()
        self.call(command)
        seconds = time.perf_counter() - started_s
        self._mount()
        return seconds

    def call(self, command: Sequence[str | Path], accepted: Sequence[int] = (0,)) -> str:
        """Run a command of the subject; returns its output.

        Raises:
            RuntimeError: the command failed; with its error output.
        """
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode not in accepted:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _mount(self) -> float:
        started_s = time.perf_counter()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), env=self.environment(), stdout=log, stderr=log)
        while not os.path.ismount(self.root):
            if self._process.poll() is not None or time.perf_counter() > started_s + START_TIMEOUT_S:
                raise RuntimeError(f"{self.name} cannot be mounted:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_INTERVAL_S)
        os.listdir(self.root)  # it responds
        return time.perf_counter() - started_s

    def _unmount(self) -> None:
        assert self._process is not None
        self.memory_kib()
        self.unmount()
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def _force_down(self) -> None:
        if os.path.ismount(self.root):
            subprocess.run(["fusermount3", "-u", "-z", str(self.root)], check=False, capture_output=True)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class NullFileSystem(Mounted):
    """The file system on `cas3fs.fuse.kernel` whose handlers do nothing."""

    system = "nullfs"

    @property
    def name(self) -> str:
        return self.system

    def command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.nullfs", str(self.root), "--keep", str(self.folder / "names")]

    def unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", str(self.root)], check=True)

    def settle(self) -> None:
        """Nothing to do: nothing happens in the background."""
