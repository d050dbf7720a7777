# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns figures into rows: each line of cas3fs in each place, beside other subjects, compared with its goals."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.goals import Evaluation, Goal, RatioToPeer, evaluate
from benchmarks.lines import LINES, PLACES, Line
from benchmarks.results import Results


@dataclass(frozen=True)
class Row:
    """A line in a place; `goal` and `evaluation` are None if there is no goal."""

    line: Line
    place: str
    figure: float
    spread: tuple[float, float]
    others: dict[str, float | None]
    """The medians of ``plain``, ``nullfs`` and ``s3ql``."""
    goal: Goal | None
    evaluation: Evaluation | None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached."""
        return None if self.evaluation is None else self.evaluation.met


def rows(results: Results) -> Iterator[Row]:
    """A row for each goal of a figure of cas3fs, and for each figure without a goal."""
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
        evaluation = (
            None if goal is None else evaluate(goal, figure, others, line.reference(place), line.less_is_better)
        )
        yield Row(line, place, figure, spread, others, goal, evaluation)


def lines_behind_peer(results: Results) -> list[str]:
    """The lines in which S3QL is better, as measured or as known, with their ratios."""
    return [
        f"{row.line.name} ({row.place}): {row.evaluation.ratio:.2f}"
        for row in rows(results)
        if isinstance(row.goal, RatioToPeer)
        and row.evaluation
        and row.evaluation.ratio is not None
        and row.evaluation.ratio < 1
    ]


def count_missed(results: Results) -> int:
    """How many goals and bounds were missed."""
    return sum(row.met is False for row in rows(results)) + sum(bound.met is False for bound in results.bounds)
