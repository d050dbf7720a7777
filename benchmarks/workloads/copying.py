# SPDX-License-Identifier: GPL-3.0-or-later
"""A large file, copied within the file system by ``cp``."""

import os
from pathlib import Path

from benchmarks.lines import DIR
from benchmarks.sizes import MIB
from benchmarks.subjects import Subject
from benchmarks.workloads.workload import Figures, Work, Workload, shell

STREAMS = 10
"""How many times as long as the usual stream the file is."""
REPEATED_MIB = 64


def run(subject: Subject, work: Work) -> Figures:
    """Copy a file of 10 GiB that repeats itself, so that little of it has to be stored."""
    source, target = subject.root / "source", subject.root / "target"
    _write(source, work.sizes.stream_mib * STREAMS)
    subject.settle()
    yield "copying.cp", shell(f"cp {source} {target}")
    shell(f"cmp -n {MIB} -i {work.sizes.stream_mib * MIB} {source} {target}")


def _write(path: Path, mebibytes: int) -> None:
    content = os.urandom(REPEATED_MIB * MIB)
    with path.open("wb", buffering=0) as file:
        for number in range(mebibytes):
            begin = number % REPEATED_MIB * MIB
            file.write(content[begin : begin + MIB])


COPYING = Workload("copying", "a copy of 10 GiB", run, (DIR,), frozenset({"plain", "s3ql"}), compress=False)
