# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume that grows to 1,000,000 files and 1 TiB: whether operations on a file take as long as in a small volume.

Every file is sparse and about a mebibyte long; its 4 KiB of data are one of a thousand pieces, so that the volume
repeats itself. At most 100,000 files, spread over the volume, are read and deleted; times are per file. Times of
snapshots, gc, fsck and mounts are per file of the volume.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.results import Bound
from benchmarks.subjects import Cas3fs, drop_kernel_caches
from benchmarks.workloads.workload import find, seconds, shell

SIZES = (10_000, 100_000, 1_000_000)
FILES_IN_FOLDER = 1000
SAMPLE = 100_000
FILE_BYTES = (1 << 40) // 1_000_000 + 1
DATA_BYTES = 4096
PIECES = 1000
FLATNESS = 1.5
MEMORY_MIB = 400.0


def run(factor: float, sizes: Sequence[int] = SIZES) -> Iterator[Bound]:
    """Measure each size in a volume of its own, then compare the largest with the smallest."""
    times: dict[str, list[float]] = {}
    for size in sizes:
        files = max(FILES_IN_FOLDER, round(size * factor))
        folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
        subject = Cas3fs(folder / "subject")
        try:
            subject.start()
            for step, file_s in _steps(subject, files):
                times.setdefault(step, []).append(file_s)
                yield Bound("scale", f"{files:,} files: {step}", "us/file", file_s * 1e6)
            memory_mib = (subject.memory_kib() or 0) / 1024
            yield Bound("scale", f"{files:,} files: memory of the mount", "MiB", memory_mib, MEMORY_MIB)
        finally:
            subject.stop()
            shutil.rmtree(folder, ignore_errors=True)
    for step, by_size in times.items():
        yield Bound("scale", f"{step}: most files relative to fewest", "times", by_size[-1] / by_size[0], FLATNESS)


def _steps(subject: Cas3fs, files: int) -> Iterator[tuple[str, float]]:
    """Use a volume with so many files: each step, and its seconds per file."""
    root = subject.root / "files"
    writing_s = seconds(lambda: _write(os.fspath(root), files))
    yield "create", writing_s / files
    yield "create until stored", (writing_s + seconds(subject.settle)) / files
    subject.remount()
    yield "list", shell(f"ls -fR {root}") / files
    drop_kernel_caches()
    yield "stat", shell(find(root)) / files
    drop_kernel_caches()
    sample = min(files, SAMPLE)
    yield "read", seconds(lambda: _read(root, files, sample)) / sample
    (root / "0" / "one").write_bytes(os.urandom(DATA_BYTES))
    yield "snapshot after one file", seconds(subject.settle) / files
    folders = [root / str(number) for number in _spread(files // FILES_IN_FOLDER, sample // FILES_IN_FOLDER)]
    yield "delete", shell(f"rm -rf {' '.join(map(str, folders))}") / sample
    subject.settle()
    yield "gc", seconds(lambda: subject.run("gc", subject.url)) / files
    checking_s = subject.check()
    assert checking_s is not None
    yield "fsck", checking_s / files
    yield "mount", subject.remount() / files
    yield "mount from the store alone", subject.forget() / files


def _write(root: str, files: int) -> None:
    pieces = [os.urandom(DATA_BYTES) for _ in range(PIECES)]
    for number in range(files):
        folder = f"{root}/{number // FILES_IN_FOLDER}"
        if number % FILES_IN_FOLDER == 0:
            os.makedirs(folder)
        path = f"{folder}/file{number % FILES_IN_FOLDER:04d}"
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        os.write(descriptor, pieces[number % PIECES])
        os.ftruncate(descriptor, FILE_BYTES)
        os.close(descriptor)


def _read(root: Path, files: int, sample: int) -> None:
    for number in _spread(files, sample):
        path = f"{root}/{number // FILES_IN_FOLDER}/file{number % FILES_IN_FOLDER:04d}"
        descriptor = os.open(path, os.O_RDONLY)
        os.pread(descriptor, DATA_BYTES, 0)
        os.close(descriptor)


def _spread(count: int, sample: int) -> range:
    """`sample` numbers below `count`, evenly spread."""
    return range(0, count, max(1, count // max(1, sample)))
