# SPDX-License-Identifier: GPL-3.0-or-later
"""The subjects: each can be started empty, settled, mounted again and stopped, and tells its memory.

A subject lives in one folder of its own and leaves nothing outside it. `stop` may be called in any state.
"""

import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cas3fs.objectstores import ObjectStore

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 600


class RequestCounter(Protocol):
    """Something that knows how many requests an S3 server was sent."""

    def count(self) -> dict[str, int]:
        """Requests so far, by operation."""


class Subject(ABC):
    """Somewhere to keep files, in `root` while started."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "mnt"
        self.requests: RequestCounter | None = None

    @abstractmethod
    def start(self) -> None:
        """Brings it up, empty."""

    @abstractmethod
    def settle(self) -> None:
        """Returns when nothing is left to be done in the background."""

    @abstractmethod
    def remount(self) -> None:
        """Makes the kernel forget names and data; what the subject keeps on the local disk stays."""

    def memory_kib(self) -> int | None:
        """The most memory that the mount's process, and those before it, had resident; None without a process."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """Takes it down and removes its folder."""


class PlainDirectory(Subject):
    """A folder of the local file system."""

    name = "plain"

    def start(self) -> None:
        self.root.mkdir(parents=True)

    def settle(self) -> None:
        os.sync()

    def remount(self) -> None:
        drop_kernel_caches()

    def stop(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Mounted(Subject):
    """A file system served by one process of ours, in the foreground."""

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__(folder)
        self.workers = workers
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._peak_kib = 0

    @abstractmethod
    def command(self) -> list[str]:
        """The command that mounts and serves until unmounted."""

    @abstractmethod
    def unmount(self) -> None:
        """Asks for the end; the process may still run when this returns."""

    def prepare(self) -> None:
        """What has to be there before the first mount."""

    def environment(self) -> dict[str, str]:
        """The environment of the subject's commands."""
        return dict(os.environ)

    def start(self) -> None:
        self.root.mkdir(parents=True)
        self.prepare()
        self._mount()

    def remount(self) -> None:
        self._unmount()
        drop_kernel_caches()
        self._mount()

    def memory_kib(self) -> int | None:
        if self._process is not None and self._process.poll() is None:
            self._peak_kib = max(self._peak_kib, peak_memory_kib(self._process.pid))
        return self._peak_kib

    def stop(self) -> None:
        try:
            if self._process is not None and os.path.ismount(self.root):
                self._unmount()
        finally:
            self._force_down()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _mount(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), env=self.environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not os.path.ismount(self.root):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not mount:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def _unmount(self) -> None:
        assert self._process is not None
        self.memory_kib()
        self.unmount()
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def _force_down(self) -> None:
        if os.path.ismount(self.root):
            subprocess.run(["fusermount", "-u", "-z", str(self.root)], check=False, capture_output=True)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class NullFileSystem(Mounted):
    """An llfuse file system whose handlers do nothing."""

    name = "nullfs"

    def command(self) -> list[str]:
        keep = ["--keep", str(self.folder / "names")]
        return [sys.executable, "-m", "benchmarks.nullfs", str(self.root), "--workers", str(self.workers), *keep]

    def unmount(self) -> None:
        subprocess.run(["fusermount", "-u", str(self.root)], check=True)

    def settle(self) -> None:
        """It has no background."""


class Cas3fs(Mounted):
    """cas3fs, by its command line; `url` is where the volume is made."""

    name = "cas3fs-file"
    mkfs_options: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"file://{self.folder / 'store'}"

    def prepare(self) -> None:
        (self.folder / "store").mkdir()
        self.run("mkfs", self.url, *self.mkfs_options)

    def command(self) -> list[str]:
        options = ["--foreground", "--workers", str(self.workers), *self.mount_options]
        return [sys.executable, "-m", "cas3fs", "mount", *options, self.url, str(self.root)]

    def unmount(self) -> None:
        self.run("umount", str(self.root))

    def settle(self) -> None:
        self.run("flush", self.url)

    def environment(self) -> dict[str, str]:
        places = {"CAS3FS_STATE_DIR": str(self.folder / "state"), "CAS3FS_CACHE_DIR": str(self.folder / "cache")}
        return {**super().environment(), **places}

    def run(self, *words: str) -> str:
        """Runs ``cas3fs`` with `words`, and gives what it prints.

        Raises:
            RuntimeError: it failed; with its words.
        """
        command = [sys.executable, "-m", "cas3fs", *words]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cas3fs {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout


class Cas3fsOnS3(Cas3fs):
    """cas3fs on a real S3 server (``rclone serve s3``) on this machine."""

    name = "cas3fs-s3"
    mkfs_options = ("--allow-unfenced",)  # rclone ignores create-if-absent

    def __init__(self, folder: Path, workers: int, *, counted: bool = False) -> None:
        super().__init__(folder, workers)
        self._counted = counted
        self._servers = ExitStack()
        self._connection: dict[str, str] = {}

    @property
    def url(self) -> str:
        return "s3://bench/volume"

    def prepare(self) -> None:
        from benchmarks.counting import counting_proxy
        from cas3fs.testing.servers import rclone_s3

        (self.folder / "store").mkdir()
        server = self._servers.enter_context(rclone_s3(self.folder / "store"))
        server.make_bucket("bench")
        self._connection = server.environment
        if self._counted:
            proxy = self._servers.enter_context(counting_proxy(server.endpoint_url))
            self.requests = proxy
            self._connection = {**server.environment, "AWS_ENDPOINT_URL_S3": proxy.endpoint_url}
        self.run("mkfs", self.url, *self.mkfs_options)

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in super().environment().items() if not name.startswith("AWS_")}
        return {**inherited, **self._connection}

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self._servers.close()
            shutil.rmtree(self.folder, ignore_errors=True)


class Cas3fsFar(Cas3fsOnS3):
    """cas3fs on that server behind a proxy that delays and counts requests."""

    name = "cas3fs-far"
    delay_s = 0.03

    def prepare(self) -> None:
        from benchmarks.distance import DistantServer, distance

        super().prepare()
        near = self._connection["AWS_ENDPOINT_URL_S3"]
        self._far: DistantServer = self._servers.enter_context(distance(near, self.delay_s))
        self._connection = {**self._connection, "AWS_ENDPOINT_URL_S3": self._far.endpoint_url}

    def gets(self) -> int:
        """GETs of objects so far."""
        return self._far.count().get("GET", 0)

    def open_store(self) -> "ObjectStore":
        """The volume's store, past the mount; the caller closes it."""
        from cas3fs.metrics import Metrics
        from cas3fs.objectstores import open_store

        return open_store(
            self.url,
            metrics=Metrics(),
            endpoint_url=self._connection["AWS_ENDPOINT_URL_S3"],
            access_key=self._connection["AWS_ACCESS_KEY_ID"],
            secret_key=self._connection["AWS_SECRET_ACCESS_KEY"],
            region=self._connection["AWS_DEFAULT_REGION"],
        )

    def forget(self) -> None:
        """Mounts as a machine that has never seen the volume."""
        self._unmount()
        drop_kernel_caches()
        for name in ("state", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._mount()

    @contextmanager
    def memcached(self) -> Iterator[None]:
        """Mounts from here on share a memcached behind their disk caches."""
        from cas3fs.testing.memcached_process import memcached

        with memcached(1024) as server:
            self.mount_options = ("--cache", "disk:10GiB", "--cache", server.spec)
            try:
                yield
            finally:
                self.mount_options = ()


def peak_memory_kib(pid: int) -> int:
    """The most memory that a process had resident so far (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def drop_kernel_caches() -> None:
    """Empties the kernel's caches of names and data; only root can, others measure with them full."""
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")
