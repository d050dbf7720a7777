# SPDX-License-Identifier: GPL-3.0-or-later
"""Very many empty files: the cost of names alone."""

import os

from benchmarks.lines import DIR
from benchmarks.subjects import Subject
from benchmarks.workloads.workload import Figures, Work, Workload, find, seconds, shell

FILES_IN_FOLDER = 1000


def run(subject: Subject, work: Work) -> Figures:
    """Create them, list them after a remount, run fsck, and mount from the store alone."""
    count, root = work.sizes.empty_files, subject.root / "empty"
    yield "empty.create", count / seconds(lambda: make_empty(os.fspath(root), count))
    subject.settle()
    subject.remount()
    yield "empty.find", shell(find(root))
    checking_s = subject.check()
    if checking_s is not None:
        yield "empty.fsck", checking_s
        yield "empty.mount", subject.forget()


def make_empty(root: str, count: int) -> None:
    """Create `count` empty files in folders of a thousand below `root`."""
    for number in range(count):
        folder = f"{root}/{number // FILES_IN_FOLDER}"
        if number % FILES_IN_FOLDER == 0:
            os.makedirs(folder)
        os.close(os.open(f"{folder}/file{number % FILES_IN_FOLDER:04d}", os.O_CREAT | os.O_WRONLY, 0o644))


EMPTY = Workload("empty", "200,000 empty files", run, (DIR,), frozenset({"plain", "nullfs", "s3ql"}))
