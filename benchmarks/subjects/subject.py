# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of all subjects. A subject uses one folder of its own and leaves nothing outside it."""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

from benchmarks.lines import DIR


class RequestCounter(Protocol):
    """Counts the requests to an S3 server."""

    def count(self) -> dict[str, int]:
        """Requests so far, by operation."""


class Subject(ABC):
    """A place for files, in `root` while started; its name is ``system-place`` or only ``system``."""

    system: str
    place: str = DIR

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "mnt"
        self.compress = True
        self.requests: RequestCounter | None = None

    @property
    def name(self) -> str:
        """The name on the command line and in the table."""
        return f"{self.system}-{self.place}"

    @abstractmethod
    def start(self) -> None:
        """Start it, empty. `compress` says whether the data is worth compressing."""

    @abstractmethod
    def settle(self) -> None:
        """Return when all written data is in its final place."""

    @abstractmethod
    def remount(self) -> float:
        """Remount, so that the kernel's caches are empty but local state is kept; returns the seconds of mounting."""

    def forget(self) -> float:
        """As `remount`, as on a new machine, without local state."""
        return self.remount()

    def refresh(self) -> None:  # noqa: B027  # most need nothing
        """Do what users do after filling a new volume, so that it performs best."""

    def stored_bytes(self) -> int | None:
        """The stored size of all files; None if unknown."""
        return None

    def clone(self, source: Path, target: Path) -> bool:
        """Copy the tree at `source` to `target` without reading it; False if not supported."""
        return False

    def check(self) -> float | None:
        """Unmount, run fsck, and mount again; returns the seconds of fsck, None if there is no fsck."""
        return None

    def memory_kib(self) -> int | None:
        """The peak resident memory of the mount's processes so far; None without a process."""
        return None

    def processor_s(self) -> float | None:
        """The processor time of the mount's process so far, in seconds; None without a process."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """Stop it and remove its folder, in any state."""


class PlainDirectory(Subject):
    """A folder of the local file system."""

    system = "plain"

    @property
    def name(self) -> str:
        return self.system

    def start(self) -> None:
        self.root.mkdir(parents=True)

    def settle(self) -> None:
        subprocess.run(["sync", "-f", self.root], check=True)

    def remount(self) -> float:
        drop_kernel_caches()
        return 0.0

    def stop(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def peak_memory_kib(pid: int) -> int:
    """The peak resident memory of a process (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def drop_kernel_caches() -> None:
    """Empty the kernel's caches of names and data; only root can, others measure with warm caches."""
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def move_away(folder: Path) -> None:
    """Move the folder away without deleting its files; does nothing if it does not exist.

    A new machine has not just deleted ten thousand files: ext4 skips recently deleted inodes one by one, which took 60%
    of the processor time of a cold read.
    """
    if folder.exists():
        aside = folder.with_name("aside")
        aside.mkdir(exist_ok=True)
        folder.rename(aside / f"{folder.name}-{sum(1 for _ in aside.iterdir())}")


def tree_bytes(folder: Path) -> int:
    """The total length of all files below `folder`."""
    return sum(os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(folder) for name in names)
