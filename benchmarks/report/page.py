# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as reStructuredText: the tables of `docs/performance.rst` and `docs/scaling.rst`, between two marks."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.goal_comparison import lines_behind_peer
from benchmarks.report.cells import BOUND_HEADINGS, HEADINGS, RATIO_NOTE, bound_cells, cells
from benchmarks.results import Results

BEGIN, END = ".. begin of the output of ./dev bench", ".. end of the output of ./dev bench"


def write(page: Path, results: Results) -> None:
    """Replace what is between the marks of `page` by the results.

    Raises:
        ValueError: the page has no such marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{begin}\n\n{as_rst(results)}\n{end}{after}")


def as_rst(results: Results) -> str:
    """The machine, the table of lines, the table of bounds, failures, and the lines in which S3QL is ahead."""
    parts = [_environment(results)]
    for headings, rows in ((HEADINGS, list(cells(results))), (BOUND_HEADINGS, list(bound_cells(results)))):
        if rows:
            parts.append("\n".join(_table(headings, [row for row, _ in rows])))
    if results.figures:
        behind = lines_behind_peer(results)
        parts.append(RATIO_NOTE)
        parts.append("S3QL is ahead in: " + "; ".join(behind) + "." if behind else "S3QL is ahead in no line.")
    if results.failures:
        parts.append("Failed: " + "; ".join(failure.replace("\n", " ")[:200] for failure in results.failures) + ".")
    return "\n\n".join(parts) + "\n"


def _environment(results: Results) -> str:
    machine, settings = results.machine, results.settings
    return (
        f"{results.time[:10]}: {machine['cpus']} cores ({machine['cpu']}), {machine['memory_gib']} GiB of memory, "
        f"Linux {machine['kernel']}, Python {machine['python']}; {settings.get('repeat', 1)} repetitions, "
        f"medians; scale {settings.get('scale', 1)}."
    )


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f".. csv-table::\n   :header: {_csv(headings)}\n"
    yield from (f"   {_csv(row)}" for row in rows)


def _csv(cells: tuple[str, ...]) -> str:
    return ", ".join('"{}"'.format(cell.replace("*", "\\*").replace('"', '""')) for cell in cells)
