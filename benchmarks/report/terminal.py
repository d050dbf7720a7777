# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as tables for a terminal."""

from collections.abc import Iterator

from rich.table import Table

from benchmarks.report.cells import BOUND_HEADINGS, HEADINGS, bound_cells, cells
from benchmarks.results import Results

COLOURS = {None: "", True: "green", False: "red"}
WORDS = {"line", "place", "unit", "program", "figure", "goal", ""}


def tables(results: Results) -> Iterator[Table]:
    """The table of lines and the table of bounds; empty tables are left out."""
    for headings, rows in ((HEADINGS, list(cells(results))), (BOUND_HEADINGS, list(bound_cells(results)))):
        if not rows:
            continue
        drawn = Table(box=None, header_style="bold", pad_edge=False)
        for heading in headings:
            drawn.add_column(heading, justify="left" if heading in WORDS else "right")
        for cells_of_row, met in rows:
            drawn.add_row(
                *cells_of_row[:-1], f"[{COLOURS[met]}]{cells_of_row[-1]}[/]" if COLOURS[met] else cells_of_row[-1]
            )
        yield drawn
