# SPDX-License-Identifier: GPL-3.0-or-later
"""The workloads: what is done, in which unit it is told, and which figure is wanted.

A workload gets a started, settled subject and makes what it needs before it looks at the clock. The timed part is
the same system calls for every subject. What it wrote is left in place: later workloads of the session meet a file
system in use.
"""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.subjects import Subject

FOLDERS = 100
SMALL_BYTES = 4096
PIECE_BYTES = 1 << 20
MIB = 1 << 20


@dataclass(frozen=True)
class Size:
    """How much a run does: the figures of the goals, or a part of them to try things out."""

    files: int = 10_000
    tree_files: int = 20_000
    stream_mib: int = 1024

    def scaled(self, factor: float) -> "Size":
        """`factor` of everything."""
        return Size(
            files=max(FOLDERS, round(self.files * factor)),
            tree_files=max(FOLDERS, round(self.tree_files * factor)),
            stream_mib=max(1, round(self.stream_mib * factor)),
        )


@dataclass(frozen=True)
class Goal:
    """The figure that is wanted of cas3fs."""

    least_of_null: float | None = None
    """at least this part of the null file system's figure"""
    at_most: float | None = None
    """at most this much, in the workload's unit"""
    at_least: float | None = None
    """at least this much, in the workload's unit"""

    def __str__(self) -> str:
        if self.least_of_null is not None:
            return f">= {self.least_of_null} of nullfs"
        return f"<= {self.at_most:g}" if self.at_least is None else f">= {self.at_least:g}"

    def is_met(self, figure: float, null_figure: float | None) -> bool | None:
        """Whether `figure` reaches the goal; None if there is nothing to compare it with."""
        if self.least_of_null is not None:
            return None if null_figure is None else figure >= self.least_of_null * null_figure
        if self.at_least is not None:
            return figure >= self.at_least
        return self.at_most is None or figure <= self.at_most


@dataclass(frozen=True)
class Workload:
    """`measure` does it and gives the figure in `unit`, or None where the subject has no such figure."""

    name: str
    unit: str
    goal: Goal
    measure: Callable[[Subject, Size], float | None]
    counted: bool = False
    """wants requests counted, in a session of its own: counting costs time"""
    far: bool = False
    """wants a store far away, in a session of its own"""


def create_small(subject: Subject, size: Size) -> float:
    """Files a second: create, write 4 KiB, close, in a hundred new folders; every file has content of its own."""
    root = subject.root / "create"
    blob = os.urandom(SMALL_BYTES + size.files)
    return size.files / _seconds(lambda: write_files(root, size.files, blob))


def write_stream(subject: Subject, size: Size) -> float:
    """MB/s of a file of random bytes, read from a local file and written in pieces of 1 MiB until fsync returns."""
    source = subject.folder / "source"
    with source.open("wb") as random_bytes:
        for _ in range(size.stream_mib):
            random_bytes.write(os.urandom(PIECE_BYTES))
        os.fsync(random_bytes.fileno())  # the disk is quiet before the clock starts
    try:
        seconds = _seconds(lambda: _copy_and_sync(source, subject.root / "stream"))
    finally:
        source.unlink()
    return size.stream_mib * MIB / 1e6 / seconds


def find_warm(subject: Subject, size: Size) -> float:
    """Files a second of ``find -printf %s`` after a remount, local state kept."""
    root = subject.root / "find"
    write_files(root, size.tree_files, os.urandom(64 + size.tree_files), length_bytes=64)
    subject.settle()
    subject.remount()
    command = ["find", str(root), "-type", "f", "-printf", "%s\\n"]
    started = time.perf_counter()
    lines = subprocess.run(command, check=True, capture_output=True).stdout.count(b"\n")
    seconds = time.perf_counter() - started
    if lines != size.tree_files:
        raise RuntimeError(f"find saw {lines} files of {size.tree_files} on {subject.name}")
    return lines / seconds


def count_requests(subject: Subject, size: Size) -> float | None:
    """Requests from the first file of 4 KiB until all of them are in the store."""
    if subject.requests is None:
        return None
    before = sum(subject.requests.count().values())
    write_files(subject.root / "requests", size.files, os.urandom(SMALL_BYTES + size.files))
    subject.settle()
    return sum(subject.requests.count().values()) - before


def peak_memory(subject: Subject, size: Size) -> float | None:
    """MiB that the mount had resident at most, after all that came before in the session."""
    subject.settle()
    peak_kib = subject.memory_kib()
    return None if peak_kib is None else peak_kib / 1024


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


def _copy_and_sync(source: Path, target: Path) -> None:
    reading = os.open(source, os.O_RDONLY)
    writing = os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
    try:
        while piece := os.read(reading, PIECE_BYTES):
            os.write(writing, piece)
        os.fsync(writing)
    finally:
        os.close(reading)
        os.close(writing)


def _seconds(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


WORKLOADS = (
    Workload("create-4k", "files/s", Goal(least_of_null=0.3), create_small),
    Workload("write-1g", "MB/s", Goal(least_of_null=0.4), write_stream),
    Workload("find-warm", "files/s", Goal(least_of_null=0.4), find_warm),
    Workload("memory", "MiB", Goal(at_most=300), peak_memory),
    Workload("requests", "requests", Goal(at_most=30), count_requests, counted=True),
)
"""In the order in which a session runs them: `memory` looks back on those before it."""
