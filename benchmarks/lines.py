# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of the table: each figure that a workload yields, its unit, and its goals in each place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.goals import AtLeast, AtMost, Goal, RatioToPeer, ReferenceFigures, ShareOfNull
from benchmarks.reference_figures import REFERENCE_FIGURES

DIR, S3, FAR = "dir", "s3", "far"
PLACES = (DIR, S3, FAR)


@dataclass(frozen=True)
class Line:
    """One figure of a workload, named ``workload.figure``."""

    name: str
    what: str
    unit: str
    goals: Mapping[str, tuple[Goal, ...]]
    """Goals by place."""
    less_is_better: bool = False
    peak: bool = False
    """Whether the maximum of all runs counts, not the median."""

    @property
    def workload(self) -> str:
        """The workload that yields it."""
        return self.name.partition(".")[0]

    def reference(self, place: str) -> ReferenceFigures:
        """Figures of other systems, measured once."""
        return REFERENCE_FIGURES.get((self.name, place), ReferenceFigures())


def _rate(name: str, what: str, unit: str, **goals: tuple[Goal, ...]) -> Line:
    return Line(name, what, unit, goals)


def _cost(name: str, what: str, unit: str, **goals: tuple[Goal, ...]) -> Line:
    return Line(name, what, unit, goals, less_is_better=True)


def _peak(name: str, what: str, unit: str, bound: float) -> Line:
    return Line(name, what, unit, dict.fromkeys(PLACES, (AtMost(bound),)), less_is_better=True, peak=True)


LINES: Final[tuple[Line, ...]] = (
    _rate(
        "small.create",
        "create and close files of 4 KiB",
        "files/s",
        dir=(RatioToPeer(6), ShareOfNull(0.6)),
        s3=(ShareOfNull(0.6),),
    ),
    _rate(
        "small.stored",
        "the same until stored",
        "files/s",
        dir=(RatioToPeer(4),),
        s3=(RatioToPeer(5),),
        far=(RatioToPeer(6),),
    ),
    _cost("small.requests", "requests to store them", "requests", far=(AtMost(30),)),
    _cost("small.puts", "PUTs among these", "PUTs", far=()),
    _cost("small.dollars", "price of these requests at Amazon", "$", far=()),
    _rate("small.stat", "stat of them, warm", "files/s", dir=(RatioToPeer(8), ShareOfNull(0.6))),
    _rate(
        "small.stat-remount",
        "stat of them after a remount",
        "files/s",
        dir=(RatioToPeer(1), ShareOfNull(0.6)),
        s3=(ShareOfNull(0.6),),
    ),
    _rate("small.read", "read them, warm", "files/s", dir=(RatioToPeer(4),)),
    _rate(
        "small.read-cold",
        "read them, cold",
        "files/s",
        dir=(RatioToPeer(4),),
        s3=(RatioToPeer(10),),
        far=(RatioToPeer(60),),
    ),
    _rate("small.rm", "rm -r of them, stored", "files/s", dir=(RatioToPeer(3), ShareOfNull(0.6))),
    _cost("small.create-cpu", "processor time of the mount to create one", "us", dir=()),
    _cost("small.stat-cpu", "to stat one", "us", dir=()),
    _cost("small.read-cpu", "to read one, warm", "us", dir=()),
    _cost("small.rm-cpu", "to remove one", "us", dir=()),
    _rate(
        "stream.fsync",
        "random data until fsync",
        "MB/s",
        dir=(RatioToPeer(0.9), ShareOfNull(0.5)),
        s3=(ShareOfNull(0.4),),
    ),
    _rate("stream.stored", "the same until stored", "MB/s", dir=(RatioToPeer(1),), s3=(RatioToPeer(1.5),)),
    _rate("stream.read", "read it, warm", "MB/s", dir=(RatioToPeer(1),)),
    _rate(
        "stream.read-cold",
        "read it, cold",
        "MB/s",
        dir=(RatioToPeer(1.5),),
        s3=(RatioToPeer(2),),
        far=(RatioToPeer(10),),
    ),
    _rate("text.stored", "log text until stored", "MB/s", dir=(RatioToPeer(3),)),
    _rate("text.ratio", "its compression", "to 1", dir=(RatioToPeer(1),)),
    _rate("text.read-cold", "read it, cold", "MB/s", dir=(RatioToPeer(2),)),
    _rate("random.read-4k", "random reads of 4 KiB, warm", "/s", dir=(RatioToPeer(1),)),
    _rate("random.read-128k", "random reads of 128 KiB, warm", "/s", dir=()),
    _rate("random.write-4k", "random writes of 4 KiB", "/s", dir=(RatioToPeer(0.6),)),
    _rate("random.write-4k-fsync", "the same with one fsync at the end", "/s", dir=(RatioToPeer(3),)),
    _rate("random.write-4k-stored", "the same until stored", "/s", dir=(RatioToPeer(2),)),
    _rate("random.write-4k-each", "writes with an fsync each", "/s", dir=()),
    _cost("tree.copy", "cp -a of a tree", "s", dir=(RatioToPeer(3),)),
    _cost("tree.copy-stored", "the same until stored", "s", dir=(RatioToPeer(4),)),
    _cost("tree.again", "the same tree a second time", "s", dir=(RatioToPeer(2.5),)),
    _cost("tree.again-added", "stored bytes added by that", "%", dir=(AtMost(1),)),
    _cost("tree.untar", "tar x of it a third time", "s", dir=(RatioToPeer(5),)),
    _cost("tree.clone", "a clone of it", "s", dir=(RatioToPeer(10),)),
    _cost("tree.read", "tar c of it, warm", "s", dir=(RatioToPeer(4),)),
    _cost("tree.read-cold", "tar c of it, cold", "s", dir=(RatioToPeer(3),)),
    _cost("tree.rm", "rm -r of it", "s", dir=(RatioToPeer(3),)),
    _cost("tree-far.stored", "cp -a of the tree until stored", "s", far=()),
    _cost("tree-far.puts", "PUTs to store it", "PUTs", far=(AtMost(60),)),
    _cost("tree-far.dollars", "price of all its requests at Amazon", "$", far=()),
    _cost("shifted.added", "a byte inserted at the start of a random file: bytes added", "%", dir=(AtMost(2),)),
    _cost("copying.cp", "cp of a file of 10 GiB", "s", dir=(AtMost(1),)),
    _rate("empty.create", "create empty files", "files/s", dir=(RatioToPeer(1),)),
    _cost("empty.find", "find -printf %s of them after a remount", "s", dir=(RatioToPeer(1), ShareOfNull(0.6))),
    _cost("empty.fsck", "fsck", "s", dir=(RatioToPeer(1.5),)),
    _cost("empty.mount", "mount from the store alone", "s", dir=(RatioToPeer(1),)),
    _rate("reading.random-4k", "random reads of 4 KiB from the disk cache", "/s", far=(ShareOfNull(0.3),)),
    _rate("reading.cold-stream", "cold read, relative to serial requests of 1 MiB", "times", far=(AtLeast(10),)),
    _rate("reading.cold-tree", "cold read of files of 4 KiB", "files/s", far=(AtLeast(2000),)),
    _cost("reading.cold-tree-gets", "GETs for it", "GETs", far=(AtMost(100),)),
    _cost("reading.second-machine", "GETs of a second machine with a shared memcached", "%", far=(AtMost(2),)),
    _peak("memory", "memory of the mount, at most", "MiB", 200),
)
"""The lines in the order of the table."""


def line_of(name: str) -> Line:
    """The line of that name.

    Raises:
        KeyError: there is no such line.
    """
    return {line.name: line for line in LINES}[name]
