# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of workloads, and what they share.

A workload gets a started, empty subject, and yields its figures one after the other, each under the name of a line. It
creates its data before it starts the clock; the timed part is the same system calls for every subject. The kernel's
caches are dropped before every step that is called *warm*, as the file system's own caches are measured; local state
and caches are dropped as well before every step that is called *cold*.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lines import PLACES
from benchmarks.sizes import FOLDERS, SMALL_BYTES, WorkloadSizes
from benchmarks.sources import Sources
from benchmarks.subjects import Subject

Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Work:
    """The sizes and source data of a run."""

    sizes: WorkloadSizes
    sources: Sources


@dataclass(frozen=True)
class Workload:
    """`run` carries it out; `places` are those of cas3fs, `beside` the other systems that are measured."""

    name: str
    what: str
    run: Callable[[Subject, Work], Figures]
    places: tuple[str, ...] = PLACES
    beside: frozenset[str] = frozenset({"plain", "nullfs", "s3ql", "s3fs", "rclone"})
    compress: bool = True
    """Whether the data is worth compressing, for peers that do not detect that."""

    def wants(self, name: str) -> bool:
        """Whether it runs in the subject of that name."""
        system, _, place = name.partition("-")
        return (not place or place in self.places) and (system == "cas3fs" or system in self.beside)


def seconds(action: Callable[[], object]) -> float:
    """The duration of `action`."""
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s


def processor_us(subject: Subject, count: int, action: Callable[[], object]) -> float | None:
    """The processor time of the subject's process for each of the `count` things that `action` does, in microseconds.

    None without a process.
    """
    before = subject.processor_s()
    action()
    after = subject.processor_s()
    return None if before is None or after is None else (after - before) / count * 1e6


def shell(command: str) -> float:
    """Run a shell command without output; returns its duration."""
    return seconds(lambda: subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL))


def find(root: Path) -> str:
    """The command that lists the size of every file below `root`."""
    return f"find {root} -type f -printf '%s\\n'"


def read_all(root: Path) -> str:
    """The command that reads every file below `root`."""
    return f"find {root} -type f -print0 | xargs -0 cat"


def copy_synced(source: Path, target: Path) -> float:
    """Copy a file in pieces of a mebibyte, with an fsync at the end; returns the duration."""
    return shell(f"dd if={source} of={target} bs=1M conv=fsync status=none")


def write_files(root: Path, count: int, blob: bytes, length_bytes: int = SMALL_BYTES) -> None:
    """Create `count` files below `root`; each begins with its number, followed by a slice of `blob`."""
    root.mkdir()
    for folder in range(FOLDERS):
        (root / f"{folder:02d}").mkdir()
    base = os.fspath(root)
    for number in range(count):
        path = f"{base}/{number % FOLDERS:02d}/f{number}"
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        os.write(descriptor, number.to_bytes(8, "little") + blob[number : number + length_bytes - 8])
        os.close(descriptor)


def dollars(requests: dict[str, int]) -> float:
    """The price of requests, counted by operation."""
    from cas3fs.prices import PriceTable

    return PriceTable().of_requests({name.lower(): count for name, count in requests.items()})


def difference(later: dict[str, int], earlier: dict[str, int]) -> dict[str, int]:
    """The difference of two counts."""
    return {name: count - earlier.get(name, 0) for name, count in later.items()}
