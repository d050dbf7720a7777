# SPDX-License-Identifier: GPL-3.0-or-later
"""From figures to rows: each line of cas3fs in each place, beside what else was measured, and how it stands to its
goals."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.goals import Goal, OfPeer, Verdict, judge
from benchmarks.lines import LINES, PLACES, Line
from benchmarks.results import Results


@dataclass(frozen=True)
class Row:
    """A line in a place; `goal` and `verdict` are None where nothing is asked for."""

    line: Line
    place: str
    figure: float
    spread: tuple[float, float]
    others: dict[str, float | None]
    """medians of ``plain``, ``nullfs`` and ``s3ql``"""
    goal: Goal | None
    verdict: Verdict | None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached."""
        return None if self.verdict is None else self.verdict.met


def rows(results: Results) -> Iterator[Row]:
    """A row for each goal of what was measured of cas3fs, and for each figure without one."""
    for line in LINES:
        for place in PLACES:
            figure = results.of(line, f"cas3fs-{place}")
            if figure is not None:
                yield from _rows(results, line, place, figure)


def _rows(results: Results, line: Line, place: str, figure: float) -> Iterator[Row]:
    figures = results.figures[line.name, f"cas3fs-{place}"]
    others = {
        "plain": results.of(line, "plain"),
        "nullfs": results.of(line, "nullfs"),
        "s3ql": results.of(line, f"s3ql-{place}"),
    }
    spread = (min(figures), max(figures))
    for goal in line.goals.get(place, ()) or (None,):
        verdict = None if goal is None else judge(goal, figure, others, line.known(place), line.less_is_better)
        yield Row(line, place, figure, spread, others, goal, verdict)


def behind_the_peer(results: Results) -> list[str]:
    """The lines that are compared with S3QL, and in which it is better, as measured or as known; with their ratios."""
    return [
        f"{row.line.name} ({row.place}): {row.verdict.ratio:.2f}"
        for row in rows(results)
        if isinstance(row.goal, OfPeer) and row.verdict and row.verdict.ratio is not None and row.verdict.ratio < 1
    ]


def missed(results: Results) -> int:
    """How many goals and bounds were missed."""
    return sum(row.met is False for row in rows(results)) + sum(bound.met is False for bound in results.bounds)
