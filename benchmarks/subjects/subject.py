# SPDX-License-Identifier: GPL-3.0-or-later
"""What every subject can do. A subject lives in one folder of its own and leaves nothing outside it."""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

from benchmarks.lines import DIR


class RequestCounter(Protocol):
    """Something that knows what an S3 server was sent."""

    def count(self) -> dict[str, int]:
        """Requests so far, by operation."""


class Subject(ABC):
    """Somewhere to keep files, in `root` while started; `name` is ``system-place``, or ``system`` alone."""

    system: str
    place: str = DIR

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "mnt"
        self.compress = True
        self.requests: RequestCounter | None = None

    @property
    def name(self) -> str:
        """What it is called on the command line and in the table."""
        return f"{self.system}-{self.place}"

    @abstractmethod
    def start(self) -> None:
        """Brings it up, empty. `compress` says whether what will be written is worth compressing."""

    @abstractmethod
    def settle(self) -> None:
        """Returns when all that was written is where it is to be in the end."""

    @abstractmethod
    def remount(self) -> float:
        """Makes the kernel forget names and data; what lies on the local disk stays. The seconds of mounting."""

    def forget(self) -> float:
        """As `remount`, on a machine that has never seen the volume."""
        return self.remount()

    def refresh(self) -> None:  # noqa: B027  # most need nothing
        """Does what its users do to a new volume that has been filled, so that it works at its best."""

    def stored_bytes(self) -> int | None:
        """What its files take where they are in the end; None if that cannot be told."""
        return None

    def clone(self, source: Path, target: Path) -> bool:
        """Makes `target` a copy of the tree at `source` without reading it; False if it cannot."""
        return False

    def check(self) -> float | None:
        """Seconds of an fsck of the unmounted volume, which is mounted again after it; None if there is no fsck."""
        return None

    def memory_kib(self) -> int | None:
        """The most memory that the mount's process, and those before it, had resident; None without a process."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """Takes it down and removes its folder; in any state."""


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


def set_aside(folder: Path) -> None:
    """Lets the folder be gone, without removing what is in it; nothing happens where there is none.

    A machine that has never seen the volume has not just deleted ten thousand files either: ext4 passes over inodes
    that were deleted in the last seconds, one by one, and took 60% of a cold read's processor time for that.
    """
    if folder.exists():
        aside = folder.with_name("aside")
        aside.mkdir(exist_ok=True)
        folder.rename(aside / f"{folder.name}-{sum(1 for _ in aside.iterdir())}")


def tree_bytes(folder: Path) -> int:
    """The lengths of all files below `folder`."""
    return sum(os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(folder) for name in names)
