# SPDX-License-Identifier: GPL-3.0-or-later
"""What a workload is, and what workloads have in common.

A workload gets a started, empty subject, and yields its figures one after the other, each under the name of a line.
It makes what it needs before it looks at the clock; the timed part is the same system calls for every subject. What
the kernel keeps is dropped before anything that is called warm (the file system's own caches are what is measured),
and the local state and caches too before anything that is called cold.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lines import PLACES
from benchmarks.sizes import FOLDERS, SMALL_BYTES, Size
from benchmarks.sources import Sources
from benchmarks.subjects import Subject

Figures = Iterator[tuple[str, float]]
NOTHING_BESIDE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Work:
    """How much is to be done, and with what."""

    size: Size
    sources: Sources


@dataclass(frozen=True)
class Workload:
    """`run` does it in a subject; `places` are those where cas3fs is measured, `beside` the systems measured too."""

    name: str
    what: str
    run: Callable[[Subject, Work], Figures]
    places: tuple[str, ...] = PLACES
    beside: frozenset[str] = frozenset({"plain", "nullfs", "s3ql", "s3fs", "rclone"})
    compress: bool = True
    """whether what is written is worth compressing: peers that do not see for themselves are told"""

    def wants(self, name: str) -> bool:
        """Whether it is to be run in the subject of that name."""
        system, _, place = name.partition("-")
        return (not place or place in self.places) and (system == "cas3fs" or system in self.beside)


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    begun_s = time.perf_counter()
    action()
    return time.perf_counter() - begun_s


def shell(command: str) -> float:
    """Runs a command of the shell, without its output; the seconds it took."""
    return seconds(lambda: subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL))


def find(root: Path) -> str:
    """The command that asks for the size of every file below `root`."""
    return f"find {root} -type f -printf '%s\\n'"


def read_all(root: Path) -> str:
    """The command that reads every file below `root`."""
    return f"find {root} -type f -print0 | xargs -0 cat"


def copy_synced(source: Path, target: Path) -> float:
    """Copies a file in pieces of a mebibyte until fsync returns; the seconds."""
    return shell(f"dd if={source} of={target} bs=1M conv=fsync status=none")


def write_files(root: Path, count: int, blob: bytes, length_bytes: int = SMALL_BYTES) -> None:
    """Makes `count` files below `root`; each begins with its own number, followed by a slice of `blob`."""
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
    """What requests cost, counted by operation."""
    from cas3fs.prices import PriceTable

    return PriceTable().of_requests({name.lower(): count for name, count in requests.items()})


def difference(later: dict[str, int], earlier: dict[str, int]) -> dict[str, int]:
    """What was counted between two counts."""
    return {name: count - earlier.get(name, 0) for name, count in later.items()}
