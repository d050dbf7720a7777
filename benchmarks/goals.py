# SPDX-License-Identifier: GPL-3.0-or-later
"""Goals of figures: a ratio to the peer, a share of the null file system's figure, or a limit.

A ratio says how many times better one figure is than another: above 1 means faster, or less where less is better.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RatioToPeer:
    """At least `times` as good as S3QL."""

    times: float

    def __str__(self) -> str:
        return f"{self.times:g} x S3QL"


@dataclass(frozen=True)
class ShareOfNull:
    """At least this share of the null file system's figure."""

    share: float

    def __str__(self) -> str:
        return f"{self.share:g} of nullfs"


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


Goal = RatioToPeer | ShareOfNull | AtMost | AtLeast


@dataclass(frozen=True)
class ReferenceFigures:
    """Figures measured once of a plain directory on ext4, and of S3QL in its better state; None if not measured."""

    ext4: float | None = None
    s3ql: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A figure compared with a goal: the ratio (None for limits), whether it is estimated, and whether it is met."""

    ratio: float | None
    estimated: bool
    met: bool | None


def times_better(figure: float, other: float, less_is_better: bool) -> float | None:
    """How many times better `figure` is; None if it cannot be computed."""
    above, below = (other, figure) if less_is_better else (figure, other)
    return above / below if below else None


def evaluate(
    goal: Goal, figure: float, others: dict[str, float | None], reference: ReferenceFigures, less_is_better: bool
) -> Evaluation:
    """Compare `figure` with `goal`; `others` has the medians of ``plain``, ``nullfs`` and ``s3ql``."""
    if isinstance(goal, AtMost):
        return Evaluation(None, False, figure <= goal.bound)
    if isinstance(goal, AtLeast):
        return Evaluation(None, False, figure >= goal.bound)
    if isinstance(goal, ShareOfNull):
        null = others.get("nullfs")
        ratio = None if null is None else times_better(figure, null, less_is_better)
        return Evaluation(ratio, False, None if ratio is None else ratio >= goal.share)
    ratio, estimated = ratio_to_peer(figure, others, reference, less_is_better)
    return Evaluation(ratio, estimated, None if ratio is None else ratio >= goal.times)


def ratio_to_peer(
    figure: float, others: dict[str, float | None], reference: ReferenceFigures, less_is_better: bool
) -> tuple[float | None, bool]:
    """The ratio to S3QL, and whether it is estimated.

    S3QL's figure of the same session if there is one; else estimated from the ratios of both to a plain directory; else
    from S3QL's reference figure alone.
    """
    measured = others.get("s3ql")
    if measured is not None:
        return times_better(figure, measured, less_is_better), False
    if reference.s3ql is None:
        return None, False
    plain = others.get("plain")
    if plain is None or reference.ext4 is None:
        return times_better(figure, reference.s3ql, less_is_better), True
    ours = times_better(figure, plain, less_is_better)
    theirs = times_better(reference.s3ql, reference.ext4, less_is_better)
    return (ours / theirs if ours is not None and theirs else None), True
