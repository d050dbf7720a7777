# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of a table, the same on a terminal and on a page."""

from collections.abc import Iterator

from benchmarks.comparing import Row, rows
from benchmarks.results import Results

HEADINGS = ("line", "place", "cas3fs", "unit", "plain", "nullfs", "S3QL", "ratio", "goal", "")
WHAT_RATIO = "A ratio says how many times better; ~ rests on figures of S3QL that were measured once (known.py)."


def cells(results: Results) -> Iterator[tuple[tuple[str, ...], bool | None]]:
    """The cells of each row under `HEADINGS`, and whether the goal is met; a line's first row has the figures."""
    told: tuple[str, str] | None = None
    for row in rows(results):
        again = told == (row.line.name, row.place)
        told = (row.line.name, row.place)
        yield _cells(row, again), row.met


def bound_cells(results: Results) -> Iterator[tuple[tuple[str, ...], bool | None]]:
    """The same of bounds: program, what, figure, unit, goal, and whether it is met."""
    for bound in results.bounds:
        told = (bound.program, bound.what, number(bound.figure), bound.unit, bound.goal, _answer(bound.met))
        yield told, bound.met


BOUND_HEADINGS = ("program", "figure", "measured", "unit", "goal", "")


def _cells(row: Row, again: bool) -> tuple[str, ...]:
    known = row.line.known(row.place).s3ql
    peer = row.others["s3ql"]
    peer_told = number(peer) if peer is not None else "" if known is None else f"({number(known)})"
    figures = ("", "", "", "", "", "", "")
    if not again:
        others = (_optional(row.others["plain"]), _optional(row.others["nullfs"]), peer_told)
        figures = (row.line.what, row.place, number(row.figure), row.line.unit, *others)
    verdict = row.verdict
    ratio = "" if verdict is None or verdict.ratio is None else f"{'~' if verdict.estimated else ''}{verdict.ratio:.2f}"
    return (*figures, ratio, "" if row.goal is None else str(row.goal), _answer(row.met))


def _answer(met: bool | None) -> str:
    return {None: "", True: "met", False: "missed"}[met]


def _optional(figure: float | None) -> str:
    return "" if figure is None else number(figure)


def number(figure: float) -> str:
    """With as many digits as mean something."""
    if figure == 0 or abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.3g}" if abs(figure) >= 0.001 else f"{figure:.2g}"
