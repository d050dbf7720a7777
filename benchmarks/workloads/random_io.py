# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and writes at random offsets of a large file of random bytes."""

import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.lines import DIR
from benchmarks.sizes import MIB, SMALL_BYTES, WorkloadSizes
from benchmarks.subjects import Subject, drop_kernel_caches
from benchmarks.workloads.workload import Figures, Work, Workload, copy_synced

LARGE_READ_BYTES = 128 << 10
SYNCED_WRITES = 500
WRITTEN_DIVISOR = 4
"""The written file is this fraction of the file that is read."""


def run(subject: Subject, work: Work) -> Figures:
    """Read each block at most once; write some blocks, a few of them twice."""
    size = work.sizes
    path = subject.root / "read"
    copy_synced(work.sources.random(size.stream_mib), path)
    subject.settle()
    for length_bytes, name in ((SMALL_BYTES, "read-4k"), (LARGE_READ_BYTES, "read-128k")):
        drop_kernel_caches()
        yield f"random.{name}", _reads(path, length_bytes, size)
    path = subject.root / "written"
    copy_synced(work.sources.random(max(1, size.stream_mib // WRITTEN_DIVISOR)), path)
    subject.settle()
    drop_kernel_caches()
    yield from _writes(subject, path, size)


def _reads(path: Path, length_bytes: int, size: WorkloadSizes) -> float:
    """Reads per second, of different blocks, until all are read or the time is over."""
    count = size.stream_mib * MIB // length_bytes
    places = random.Random(1).sample(range(count), min(size.random_operations, count))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        done, taken_s = _until(
            size.random_s, places, lambda place: os.pread(descriptor, length_bytes, place * length_bytes)
        )
        return done / taken_s
    finally:
        os.close(descriptor)


def _writes(subject: Subject, path: Path, size: WorkloadSizes) -> Figures:
    noise = random.Random(2)
    bytes_ = os.urandom(2 * SMALL_BYTES)
    count = path.stat().st_size // SMALL_BYTES
    places = [noise.randrange(count) for _ in range(size.random_operations // 2)]
    descriptor = os.open(path, os.O_RDWR)

    def write(place: int) -> None:
        start = place % SMALL_BYTES
        os.pwrite(descriptor, bytes_[start : start + SMALL_BYTES], place * SMALL_BYTES)

    def write_synced(place: int) -> None:
        write(place)
        os.fsync(descriptor)

    try:
        started_s = time.perf_counter()
        done, taken_s = _until(size.random_s, places, write)
        yield "random.write-4k", done / taken_s
        os.fsync(descriptor)
        yield "random.write-4k-fsync", done / (time.perf_counter() - started_s)
        subject.settle()
        yield "random.write-4k-stored", done / (time.perf_counter() - started_s)
        done, taken_s = _until(size.random_s / 2, places[:SYNCED_WRITES], write_synced)
        yield "random.write-4k-each", done / taken_s
    finally:
        os.close(descriptor)


def _until(limit_s: float, places: Iterable[int], do: Callable[[int], object]) -> tuple[int, float]:
    """Call `do` for each block until the time is over; returns the number of calls and the seconds."""
    started_s = time.perf_counter()
    done = 0
    for place in places:
        do(place)
        done += 1
        if time.perf_counter() - started_s > limit_s:
            break
    return done, time.perf_counter() - started_s


RANDOM = Workload(
    "random",
    "random reads and writes of 4 KiB in 1 GiB",
    run,
    places=(DIR,),
    beside=frozenset({"plain", "nullfs", "s3ql"}),
    compress=False,
)
