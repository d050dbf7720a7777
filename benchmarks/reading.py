# SPDX-License-Identifier: GPL-3.0-or-later
"""The workloads that read: from far away without anything cached, from the disk cache, and from another machine's.

*Far* is an S3 server on this machine behind a proxy that delays each request. *Cold* means that the mount has
neither an index nor a cached block.
"""

import os
import random
import time
from contextlib import closing
from pathlib import Path

from benchmarks.subjects import Cas3fsFar, Subject
from benchmarks.workloads import MIB, PIECE_BYTES, SMALL_BYTES, Goal, Size, Workload, write_files

RANDOM_READS = 20_000
SERIAL_GETS = 24


def cold_stream(subject: Subject, size: Size) -> float | None:
    """How many times faster a file is read than by requests of 1 MiB, one after the other."""
    if not isinstance(subject, Cas3fsFar):
        return None
    path = subject.root / "cold-stream"
    _write_random(path, size.stream_mib)
    subject.settle()
    one_by_one = _one_by_one_bytes_per_s(subject)
    subject.forget()
    started = time.perf_counter()
    count = _read_through(path)
    return count / (time.perf_counter() - started) / one_by_one


def cold_tree(subject: Subject, size: Size) -> float | None:
    """Files a second of reading all files of 4 KiB that were written together."""
    return _read_cold_tree(subject, size, "cold-tree")[0]


def cold_tree_gets(subject: Subject, size: Size) -> float | None:
    """The GETs that it takes."""
    return _read_cold_tree(subject, size, "cold-tree-gets")[1]


def random_4k(subject: Subject, size: Size) -> float:
    """Reads of 4 KiB a second at random places of a file that the disk cache has, and the kernel has not."""
    path = subject.root / "random"
    _write_random(path, size.stream_mib)
    subject.settle()
    subject.remount()
    _read_through(path)
    subject.remount()
    _read_tree(subject.folder / "cache")  # it is the file system that is measured, not the machine's disk
    places = random.Random(1)
    offsets = [places.randrange(size.stream_mib * MIB // SMALL_BYTES) * SMALL_BYTES for _ in range(RANDOM_READS)]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        started = time.perf_counter()
        for offset in offsets:
            os.pread(descriptor, SMALL_BYTES, offset)
        return len(offsets) / (time.perf_counter() - started)
    finally:
        os.close(descriptor)


def second_machine(subject: Subject, size: Size) -> float | None:
    """The GETs of a second machine's first read, in percent of the first machine's; they share a memcached."""
    if not isinstance(subject, Cas3fsFar):
        return None
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


def _read_cold_tree(subject: Subject, size: Size, name: str) -> tuple[float | None, float | None]:
    if not isinstance(subject, Cas3fsFar):
        return None, None
    root = subject.root / name
    write_files(root, size.files, os.urandom(SMALL_BYTES + size.files))
    subject.settle()
    subject.forget()
    before = subject.gets()
    started = time.perf_counter()
    count = _read_tree(root)
    seconds = time.perf_counter() - started
    if count != size.files:
        raise RuntimeError(f"{count} files were read of {size.files}")
    return count / seconds, subject.gets() - before


def _one_by_one_bytes_per_s(subject: Cas3fsFar) -> float:
    """What requests of 1 MiB give, one after the other, on packs of the volume."""
    with closing(subject.open_store()) as store:
        large = [info for info in store.list("packs/") if info.size > PIECE_BYTES]
        wanted = [(info.key, start) for info in large for start in range(0, info.size - PIECE_BYTES, PIECE_BYTES)]
        wanted = wanted[:SERIAL_GETS]
        started = time.perf_counter()
        for key, start in wanted:
            store.get_range(key, start, PIECE_BYTES)
        return len(wanted) * PIECE_BYTES / (time.perf_counter() - started)


def _write_random(path: Path, mebibytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(os.urandom(PIECE_BYTES))


def _read_through(path: Path) -> int:
    """Read a file from front to back; its length."""
    count = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            count += len(piece)
    return count


def _read_tree(root: Path) -> int:
    """Read every file below `root`; how many there are."""
    count = 0
    for folder, _, names in os.walk(root):
        for name in names:
            _read_through(Path(folder, name))
            count += 1
    return count


READING = (
    Workload("random-4k", "reads/s", Goal(least_of_null=0.3), random_4k),
    Workload("cold-1g", "x serial", Goal(at_least=10), cold_stream, far=True),
    Workload("cold-tree", "files/s", Goal(at_least=2000), cold_tree, far=True),
    Workload("cold-tree-gets", "GETs", Goal(at_most=100), cold_tree_gets, far=True),
    Workload("second-machine", "% of GETs", Goal(at_most=2), second_machine, far=True),
)
