# SPDX-License-Identifier: GPL-3.0-or-later
"""Many small files: made, stored, looked at, read, removed; each has content of its own."""

import os

from benchmarks.lines import FAR
from benchmarks.sizes import FOLDERS, SMALL_BYTES
from benchmarks.subjects import Subject, drop_kernel_caches
from benchmarks.workloads.base import (
    Figures,
    Work,
    Workload,
    difference,
    dollars,
    find,
    read_all,
    seconds,
    shell,
    write_files,
)

SAMPLED_FOLDERS = 5


def run(subject: Subject, work: Work) -> Figures:
    """The life of files of 4 KiB in a hundred folders."""
    count, root = work.size.files, subject.root / "small"
    blob = os.urandom(SMALL_BYTES + count)
    before = subject.requests.count() if subject.requests else {}
    writing_s = seconds(lambda: write_files(root, count, blob))
    yield "small.create", count / writing_s
    yield "small.stored", count / (writing_s + seconds(subject.settle))
    if subject.requests:
        asked = difference(subject.requests.count(), before)
        yield "small.requests", sum(asked.values())
        yield "small.puts", asked.get("PUT", 0)
        yield "small.dollars", dollars(asked)
    yield "small.stat", count / shell(find(root))
    if subject.place != FAR:
        drop_kernel_caches()
        yield "small.read", count / shell(read_all(root))
    subject.forget()
    yield "small.stat-remount", count / shell(find(root))
    yield "small.read-cold", _read_cold(subject, count)
    yield "small.rm", count / shell(f"rm -rf {root}")


def _read_cold(subject: Subject, count: int) -> float:
    """Files a second; of a part of them where a request for each is made from afar."""
    root = subject.root / "small"
    if subject.place != FAR or subject.system == "cas3fs":
        return count / shell(read_all(root))
    sample = root / f"0[0-{SAMPLED_FOLDERS - 1}]"
    return count * SAMPLED_FOLDERS / FOLDERS / shell(f"find {sample} -type f -print0 | xargs -0 cat")


SMALL = Workload("small", "10,000 files of 4 KiB", run)
