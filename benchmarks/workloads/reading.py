# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading from far away with cold caches, from the disk cache, and from a memcached that another machine has filled.

*Far* is an S3 server on this machine behind a proxy that delays each request. *Cold* means that the mount has neither
an index nor a cached block.
"""

import os
import random
import time
from contextlib import closing
from pathlib import Path

from benchmarks.lines import FAR
from benchmarks.sizes import MIB, PIECE_BYTES, SMALL_BYTES, WorkloadSizes
from benchmarks.subjects import Cas3fs, Subject
from benchmarks.workloads.workload import Figures, Work, Workload, write_files

RANDOM_READS = 20_000
SERIAL_GETS = 24


def run(subject: Subject, work: Work) -> Figures:
    """Random reads from the disk cache for all subjects; the rest only for cas3fs far away."""
    stream = subject.root / "stream"
    _write_random(stream, work.sizes.stream_mib)
    subject.settle()
    if not isinstance(subject, Cas3fs):
        yield "reading.random-4k", random_reads(subject, stream, work.sizes)
        return
    serial_rate = _serial_bytes_per_s(subject)
    subject.forget()
    started_s = time.perf_counter()
    count = _read_through(stream)
    yield "reading.cold-stream", count / (time.perf_counter() - started_s) / serial_rate
    yield "reading.random-4k", random_reads(subject, stream, work.sizes)
    yield from _cold_tree(subject, work.sizes)
    yield "reading.second-machine", _second_machine(subject, work.sizes)


def random_reads(subject: Subject, path: Path, size: WorkloadSizes) -> float:
    """Random reads of 4 KiB per second of a file that is in the disk cache, but not in the kernel's."""
    subject.remount()
    _read_through(path)
    subject.remount()
    _read_tree(subject.folder / "cache")  # the file system is measured, not the machine's disk
    places = random.Random(1)
    count = size.stream_mib * MIB // SMALL_BYTES
    offsets = [places.randrange(count) * SMALL_BYTES for _ in range(min(RANDOM_READS, count))]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        started_s = time.perf_counter()
        for offset in offsets:
            os.pread(descriptor, SMALL_BYTES, offset)
        return len(offsets) / (time.perf_counter() - started_s)
    finally:
        os.close(descriptor)


def _cold_tree(subject: Cas3fs, size: WorkloadSizes) -> Figures:
    """A cold read of files of 4 KiB that were written together."""
    root = subject.root / "tree"
    write_files(root, size.files, os.urandom(SMALL_BYTES + size.files))
    subject.settle()
    subject.forget()
    before = subject.gets()
    started_s = time.perf_counter()
    count = _read_tree(root)
    yield "reading.cold-tree", count / (time.perf_counter() - started_s)
    yield "reading.cold-tree-gets", subject.gets() - before


def _second_machine(subject: Cas3fs, size: WorkloadSizes) -> float:
    """The GETs of a second machine that shares a memcached, in percent of the first machine's."""
    root = subject.root / "shared"
    write_files(root, size.files, os.urandom(SMALL_BYTES + size.files))
    _write_random(root / "stream", max(1, size.stream_mib // 8))
    subject.settle()
    counts = []
    with subject.memcached():
        for _ in range(2):
            subject.forget()
            before = subject.gets()
            _read_tree(root)
            counts.append(subject.gets() - before)
    subject.remount()
    return 100 * counts[1] / counts[0]


def _serial_bytes_per_s(subject: Cas3fs) -> float:
    """The rate of serial requests of 1 MiB on packs of the volume."""
    with closing(subject.open_store()) as store:
        large = [info for info in store.list("packs/") if info.size > PIECE_BYTES]
        wanted = [(info.key, start) for info in large for start in range(0, info.size - PIECE_BYTES, PIECE_BYTES)]
        wanted = wanted[:SERIAL_GETS]
        started_s = time.perf_counter()
        for key, start in wanted:
            store.get_range(key, start, PIECE_BYTES)
        return len(wanted) * PIECE_BYTES / (time.perf_counter() - started_s)


def _write_random(path: Path, mebibytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(os.urandom(PIECE_BYTES))


def _read_through(path: Path) -> int:
    """Read a file from start to end; returns its length."""
    count = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            count += len(piece)
    return count


def _read_tree(root: Path) -> int:
    """Read every file below `root`; returns their number."""
    count = 0
    for folder, _, names in os.walk(root):
        for name in names:
            _read_through(Path(folder, name))
            count += 1
    return count


READING = Workload(
    "reading",
    "reads from far away and from the disk cache",
    run,
    (FAR,),
    frozenset({"plain", "nullfs"}),
    compress=False,
)
