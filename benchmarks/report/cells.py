# SPDX-License-Identifier: GPL-3.0-or-later
"""The cells of the tables, the same on a terminal and on a page."""

from collections.abc import Iterator

from benchmarks.goal_comparison import Row, rows
from benchmarks.results import Results

HEADINGS = ("line", "place", "cas3fs", "unit", "plain", "nullfs", "S3QL", "ratio", "goal", "")
RATIO_NOTE = "ratio: how many times better; ~: estimated from S3QL figures measured once (reference_figures.py)"


def cells(results: Results) -> Iterator[tuple[tuple[str, ...], bool | None]]:
    """The cells of each row below `HEADINGS`, and whether the goal is met; only the first row of a line has figures."""
    previous: tuple[str, str] | None = None
    for row in rows(results):
        is_repeated = previous == (row.line.name, row.place)
        previous = (row.line.name, row.place)
        yield _cells(row, is_repeated), row.met


def bound_cells(results: Results) -> Iterator[tuple[tuple[str, ...], bool | None]]:
    """The cells of bounds: program, what, figure, unit, goal, and whether it is met."""
    for bound in results.bounds:
        line = (bound.program, bound.what, number(bound.figure), bound.unit, bound.goal, _result(bound.met))
        yield line, bound.met


BOUND_HEADINGS = ("program", "figure", "measured", "unit", "goal", "")


def _cells(row: Row, is_repeated: bool) -> tuple[str, ...]:
    reference = row.line.reference(row.place).s3ql
    peer = row.others["s3ql"]
    peer_cell = number(peer) if peer is not None else "" if reference is None else f"({number(reference)})"
    figures = ("", "", "", "", "", "", "")
    if not is_repeated:
        others = (_optional(row.others["plain"]), _optional(row.others["nullfs"]), peer_cell)
        figures = (row.line.what, row.place, number(row.figure), row.line.unit, *others)
    evaluation = row.evaluation
    ratio = (
        ""
        if evaluation is None or evaluation.ratio is None
        else f"{'~' if evaluation.estimated else ''}{evaluation.ratio:.2f}"
    )
    return (*figures, ratio, "" if row.goal is None else str(row.goal), _result(row.met))


def _result(met: bool | None) -> str:
    return {None: "", True: "met", False: "missed"}[met]


def _optional(figure: float | None) -> str:
    return "" if figure is None else number(figure)


def number(figure: float) -> str:
    """Three significant digits, or thousands with separators."""
    if figure == 0 or abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.3g}" if abs(figure) >= 0.001 else f"{figure:.2g}"
