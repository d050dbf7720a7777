# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading from far away without anything cached, from the disk cache, and from another machine's.

*Far* is an S3 server on this machine behind a proxy that delays each request. *Cold* means that the mount has
neither an index nor a cached block.
"""

import os
import random
import time
from contextlib import closing
from pathlib import Path

from benchmarks.lines import FAR
from benchmarks.sizes import MIB, PIECE_BYTES, SMALL_BYTES, Size
from benchmarks.subjects import Cas3fs, Subject
from benchmarks.workloads.base import Figures, Work, Workload, write_files

RANDOM_READS = 20_000
SERIAL_GETS = 24


def run(subject: Subject, work: Work) -> Figures:
    """Random reads from the disk cache everywhere; the rest of cas3fs far away alone."""
    stream = subject.root / "stream"
    _write_random(stream, work.size.stream_mib)
    subject.settle()
    if not isinstance(subject, Cas3fs):
        yield "reading.random-4k", random_reads(subject, stream, work.size)
        return
    one_by_one = _one_by_one_bytes_per_s(subject)
    subject.forget()
    begun_s = time.perf_counter()
    count = _read_through(stream)
    yield "reading.cold-stream", count / (time.perf_counter() - begun_s) / one_by_one
    yield "reading.random-4k", random_reads(subject, stream, work.size)
    yield from _cold_tree(subject, work.size)
    yield "reading.second-machine", _second_machine(subject, work.size)


def random_reads(subject: Subject, path: Path, size: Size) -> float:
    """Reads of 4 KiB a second at random places of a file that the disk cache has, and the kernel has not."""
    subject.remount()
    _read_through(path)
    subject.remount()
    _read_tree(subject.folder / "cache")  # it is the file system that is measured, not the machine's disk
    places = random.Random(1)
    count = size.stream_mib * MIB // SMALL_BYTES
    offsets = [places.randrange(count) * SMALL_BYTES for _ in range(min(RANDOM_READS, count))]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        begun_s = time.perf_counter()
        for offset in offsets:
            os.pread(descriptor, SMALL_BYTES, offset)
        return len(offsets) / (time.perf_counter() - begun_s)
    finally:
        os.close(descriptor)


def _cold_tree(subject: Cas3fs, size: Size) -> Figures:
    """All files of 4 KiB that were written together."""
    root = subject.root / "tree"
    write_files(root, size.files, os.urandom(SMALL_BYTES + size.files))
    subject.settle()
    subject.forget()
    before = subject.gets()
    begun_s = time.perf_counter()
    count = _read_tree(root)
    yield "reading.cold-tree", count / (time.perf_counter() - begun_s)
    yield "reading.cold-tree-gets", subject.gets() - before


def _second_machine(subject: Cas3fs, size: Size) -> float:
    """The GETs of a second machine's first read, in percent of the first machine's; they share a memcached."""
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


def _one_by_one_bytes_per_s(subject: Cas3fs) -> float:
    """What requests of 1 MiB give, one after the other, on packs of the volume."""
    with closing(subject.open_store()) as store:
        large = [info for info in store.list("packs/") if info.size > PIECE_BYTES]
        wanted = [(info.key, start) for info in large for start in range(0, info.size - PIECE_BYTES, PIECE_BYTES)]
        wanted = wanted[:SERIAL_GETS]
        begun_s = time.perf_counter()
        for key, start in wanted:
            store.get_range(key, start, PIECE_BYTES)
        return len(wanted) * PIECE_BYTES / (time.perf_counter() - begun_s)


def _write_random(path: Path, mebibytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(os.urandom(PIECE_BYTES))


def _read_through(path: Path) -> int:
    """Reads a file from front to back; its length."""
    count = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            count += len(piece)
    return count


def _read_tree(root: Path) -> int:
    """Reads every file below `root`; how many there are."""
    count = 0
    for folder, _, names in os.walk(root):
        for name in names:
            _read_through(Path(folder, name))
            count += 1
    return count


READING = Workload(
    "reading", "reads from afar and from the disk cache", run, (FAR,), frozenset({"plain", "nullfs"}), compress=False
)
