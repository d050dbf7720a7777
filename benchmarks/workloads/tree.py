# SPDX-License-Identifier: GPL-3.0-or-later
"""A real tree: copied, copied again, unpacked, cloned, read, removed."""

from benchmarks.lines import DIR, FAR
from benchmarks.subjects import Subject
from benchmarks.workloads.workload import Figures, Work, Workload, difference, dollars, seconds, shell


def run(subject: Subject, work: Work) -> Figures:
    """Copy, unpack, clone, read and remove a tree of 22,000 files."""
    files, root = work.sizes.tree_files, subject.root
    source, archive = work.sources.tree(files), work.sources.archive(files)
    empty = subject.stored_bytes()
    copying_s = shell(f"cp -a {source} {root}/t1")
    yield "tree.copy", copying_s
    yield "tree.copy-stored", copying_s + seconds(subject.settle)
    once = subject.stored_bytes()
    subject.refresh()
    yield "tree.again", shell(f"cp -a {source} {root}/t2")
    subject.settle()
    twice = subject.stored_bytes()
    if empty is not None and once is not None and twice is not None:
        yield "tree.again-added", 100 * (twice - once) / (once - empty)
    (root / "t3").mkdir()
    yield "tree.untar", shell(f"tar -xf {archive} -C {root}/t3")
    subject.settle()
    yield from _clone(subject)
    subject.remount()
    shell(f"du -s {root}/t1")
    yield "tree.read", shell(f"tar -cf - -C {root} t1 | cat")
    subject.forget()
    yield "tree.read-cold", shell(f"tar -cf - -C {root} t1 | cat")
    yield "tree.rm", shell(f"rm -rf {root}/t1")


def _clone(subject: Subject) -> Figures:
    done = []
    cloning_s = seconds(lambda: done.append(subject.clone(subject.root / "t1", subject.root / "t4")))
    if done[0]:
        yield "tree.clone", cloning_s


def run_far(subject: Subject, work: Work) -> Figures:
    """Copy the tree to a far server, and count the requests."""
    source = work.sources.tree(work.sizes.tree_files)
    assert subject.requests is not None, "a far place counts requests"
    before = subject.requests.count()
    copying_s = shell(f"cp -a {source} {subject.root}/t1")
    yield "tree-far.stored", copying_s + seconds(subject.settle)
    requests = difference(subject.requests.count(), before)
    yield "tree-far.puts", requests.get("PUT", 0)
    yield "tree-far.dollars", dollars(requests)


TREE = Workload(
    "tree", "a tree of 22,000 real files", run, places=(DIR,), beside=frozenset({"plain", "nullfs", "s3ql"})
)
TREE_FAR = Workload(
    "tree-far", "requests to store that tree far away", run_far, places=(FAR,), beside=frozenset({"s3ql"})
)
