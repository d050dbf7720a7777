# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of a figure: a ratio to the peer, a part of the null file system's figure, or a bound.

A ratio says how many times better one figure is than another: above 1 means faster, or less where less is better.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class OfPeer:
    """At least `times` as good as S3QL."""

    times: float

    def __str__(self) -> str:
        return f"{self.times:g} x S3QL"


@dataclass(frozen=True)
class OfNull:
    """At least this part of what the null file system reaches."""

    part: float

    def __str__(self) -> str:
        return f"{self.part:g} of nullfs"


@dataclass(frozen=True)
class AtMost:
    """No more than this, in the line's unit."""

    bound: float

    def __str__(self) -> str:
        return f"<= {self.bound:g}"


@dataclass(frozen=True)
class AtLeast:
    """No less than this, in the line's unit."""

    bound: float

    def __str__(self) -> str:
        return f">= {self.bound:g}"


Goal = OfPeer | OfNull | AtMost | AtLeast


@dataclass(frozen=True)
class Known:
    """What was measured once of a plain directory on ext4 and of S3QL, in its better state; None where nothing was."""

    ext4: float | None = None
    s3ql: float | None = None


@dataclass(frozen=True)
class Verdict:
    """How a figure stands to a goal: the ratio (None for bounds), whether it rests on known figures, and the answer."""

    ratio: float | None
    estimated: bool
    met: bool | None


def times_better(figure: float, other: float, less_is_better: bool) -> float | None:
    """How many times better `figure` is; None if that cannot be told."""
    above, below = (other, figure) if less_is_better else (figure, other)
    return above / below if below else None


def judge(goal: Goal, figure: float, others: dict[str, float | None], known: Known, less_is_better: bool) -> Verdict:
    """Compares `figure` with what `goal` names; `others` has the medians of ``plain``, ``nullfs`` and ``s3ql``."""
    if isinstance(goal, AtMost):
        return Verdict(None, False, figure <= goal.bound)
    if isinstance(goal, AtLeast):
        return Verdict(None, False, figure >= goal.bound)
    if isinstance(goal, OfNull):
        null = others.get("nullfs")
        ratio = None if null is None else times_better(figure, null, less_is_better)
        return Verdict(ratio, False, None if ratio is None else ratio >= goal.part)
    ratio, estimated = ratio_to_peer(figure, others, known, less_is_better)
    return Verdict(ratio, estimated, None if ratio is None else ratio >= goal.times)


def ratio_to_peer(
    figure: float, others: dict[str, float | None], known: Known, less_is_better: bool
) -> tuple[float | None, bool]:
    """The ratio to S3QL, and whether it rests on known figures.

    Measured in the same run if it can be; else by way of the plain directory, which both were compared with; else of
    the known figure itself.
    """
    measured = others.get("s3ql")
    if measured is not None:
        return times_better(figure, measured, less_is_better), False
    if known.s3ql is None:
        return None, False
    plain = others.get("plain")
    if plain is None or known.ext4 is None:
        return times_better(figure, known.s3ql, less_is_better), True
    ours = times_better(figure, plain, less_is_better)
    theirs = times_better(known.s3ql, known.ext4, less_is_better)
    return (ours / theirs if ours is not None and theirs else None), True
