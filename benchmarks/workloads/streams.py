# SPDX-License-Identifier: GPL-3.0-or-later
"""Large files, written and read sequentially: random bytes, log text, and a file with a byte inserted at the start."""

from pathlib import Path

from benchmarks.lines import DIR, FAR
from benchmarks.sizes import MIB
from benchmarks.subjects import Subject, drop_kernel_caches
from benchmarks.workloads.workload import Figures, Work, Workload, copy_synced, seconds, shell


def run_random(subject: Subject, work: Work) -> Figures:
    """1 GiB of random bytes."""
    yield from _stream(subject, work.sources.random(work.sizes.stream_mib), "stream")


def run_text(subject: Subject, work: Work) -> Figures:
    """1 GiB of log text."""
    yield from _stream(subject, work.sources.text(work.sizes.stream_mib), "text")


def _stream(subject: Subject, source: Path, name: str) -> Figures:
    megabytes = source.stat().st_size / 1e6
    target = subject.root / "stream"
    before = subject.stored_bytes()
    writing_s = copy_synced(source, target)
    yield f"{name}.fsync", megabytes / writing_s
    yield f"{name}.stored", megabytes / (writing_s + seconds(subject.settle))
    after = subject.stored_bytes()
    if before is not None and after is not None:
        yield f"{name}.ratio", source.stat().st_size / (after - before)
    if subject.place != FAR:
        drop_kernel_caches()
        yield f"{name}.read", megabytes / shell(f"cat {target}")
    subject.forget()
    yield f"{name}.read-cold", megabytes / shell(f"cat {target}")


def run_shifted(subject: Subject, work: Work) -> Figures:
    """A random file, and the same with a byte inserted at the start."""
    source = work.sources.random(work.sizes.shifted_mib)
    copy_synced(source, subject.root / "plain")
    subject.settle()
    before = subject.stored_bytes()
    target = subject.root / "shifted"
    shell(f"(printf x; cat {source}) | dd of={target} bs=1M iflag=fullblock conv=fsync status=none")
    subject.settle()
    after = subject.stored_bytes()
    if before is not None and after is not None:
        yield "shifted.added", 100 * (after - before) / (work.sizes.shifted_mib * MIB)


STREAM = Workload("stream", "1 GiB of random bytes", run_random, compress=False)
TEXT = Workload("text", "1 GiB of log text", run_text, places=(DIR,))
SHIFTED = Workload(
    "shifted",
    "512 MiB, and the same with a byte inserted at the start",
    run_shifted,
    (DIR,),
    frozenset(),
    compress=False,
)
