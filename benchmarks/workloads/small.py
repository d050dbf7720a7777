# SPDX-License-Identifier: GPL-3.0-or-later
"""Many small files with different contents: created, stored, listed, read, removed."""

import os
from pathlib import Path

from benchmarks.lines import FAR
from benchmarks.sizes import FOLDERS, SMALL_BYTES
from benchmarks.subjects import Subject, drop_kernel_caches
from benchmarks.workloads.workload import (
    Figures,
    Work,
    Workload,
    difference,
    dollars,
    find,
    processor_us,
    read_all,
    seconds,
    shell,
    write_files,
)

SAMPLED_FOLDERS = 5


def run(subject: Subject, work: Work) -> Figures:
    """Create, list, read and remove files of 4 KiB in a hundred folders."""
    count, root = work.sizes.files, subject.root / "small"
    blob = os.urandom(SMALL_BYTES + count)
    before = subject.requests.count() if subject.requests else {}
    writing_s = seconds(lambda: write_files(root, count, blob))
    yield "small.create", count / writing_s
    yield "small.stored", count / (writing_s + seconds(subject.settle))
    if subject.requests:
        requests = difference(subject.requests.count(), before)
        yield "small.requests", sum(requests.values())
        yield "small.puts", requests.get("PUT", 0)
        yield "small.dollars", dollars(requests)
    yield "small.stat", count / shell(find(root))
    if subject.place != FAR:
        drop_kernel_caches()
        yield "small.read", count / shell(read_all(root))
    subject.forget()
    yield "small.stat-remount", count / shell(find(root))
    yield "small.read-cold", _read_cold(subject, count)
    yield "small.rm", count / shell(f"rm -rf {root}")
    yield from _processor_times(subject, count, blob)


def _processor_times(subject: Subject, count: int, blob: bytes) -> Figures:
    """What the process of the mount needs of the processor, once more for each."""
    root = subject.root / "again"
    for line, command in {
        "small.create-cpu": lambda: write_files(root, count, blob),
        "small.stat-cpu": lambda: shell(find(root)),
        "small.read-cpu": lambda: _read_again(root),
        "small.rm-cpu": lambda: shell(f"rm -rf {root}"),
    }.items():
        spent_us = processor_us(subject, count, command)
        if spent_us is not None:
            yield line, spent_us
        subject.settle()


def _read_again(root: Path) -> None:
    drop_kernel_caches()
    shell(read_all(root))


def _read_cold(subject: Subject, count: int) -> float:
    """Files per second; of a sample where each file needs a request to the far server."""
    root = subject.root / "small"
    if subject.place != FAR or subject.system == "cas3fs":
        return count / shell(read_all(root))
    sample = root / f"0[0-{SAMPLED_FOLDERS - 1}]"
    return count * SAMPLED_FOLDERS / FOLDERS / shell(f"find {sample} -type f -print0 | xargs -0 cat")


SMALL = Workload("small", "10,000 files of 4 KiB", run)
