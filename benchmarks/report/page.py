# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as reStructuredText: the tables of `docs/performance.rst` and `docs/scaling.rst`, put between two marks of
the page."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparing import behind_the_peer
from benchmarks.report.cells import BOUND_HEADINGS, HEADINGS, WHAT_RATIO, bound_cells, cells
from benchmarks.results import Results

BEGIN, END = ".. begin of what ./dev bench wrote", ".. end of what ./dev bench wrote"


def write(page: Path, results: Results) -> None:
    """Puts the results between the marks of `page`, in place of what is there.

    Raises:
        ValueError: the page has no such marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{begin}\n\n{as_rst(results)}\n{end}{after}")


def as_rst(results: Results) -> str:
    """The machine, the table of lines, the table of bounds, what failed, and where S3QL is ahead."""
    parts = [_circumstances(results)]
    for headings, rows in ((HEADINGS, list(cells(results))), (BOUND_HEADINGS, list(bound_cells(results)))):
        if rows:
            parts.append("\n".join(_table(headings, [told for told, _ in rows])))
    if results.figures:
        behind = behind_the_peer(results)
        parts.append(WHAT_RATIO)
        parts.append("S3QL is ahead in: " + "; ".join(behind) + "." if behind else "In no line is S3QL ahead.")
    if results.failures:
        parts.append("Failed: " + "; ".join(failure.replace("\n", " ")[:200] for failure in results.failures) + ".")
    return "\n\n".join(parts) + "\n"


def _circumstances(results: Results) -> str:
    machine, settings = results.machine, results.settings
    return (
        f"{results.time[:10]}: {machine['cpus']} cores ({machine['cpu']}), {machine['memory_gib']} GiB of memory, "
        f"Linux {machine['kernel']}, Python {machine['python']}; repeated {settings.get('repeat', 1)} times, "
        f"medians; scale {settings.get('scale', 1)}."
    )


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f".. csv-table::\n   :header: {_csv(headings)}\n"
    yield from (f"   {_csv(row)}" for row in rows)


def _csv(cells: tuple[str, ...]) -> str:
    return ", ".join('"{}"'.format(cell.replace("*", "\\*").replace('"', '""')) for cell in cells)
