# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured, as a table for people and as JSON for machines."""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from benchmarks.subjects import NullFileSystem
from benchmarks.workloads import Workload


@dataclass
class Results:
    """The figures of a run: of every workload and subject, one a repetition."""

    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, workload: str, subject: str, figure: float) -> None:
        """Enters one figure."""
        self.figures.setdefault((workload, subject), []).append(figure)

    def median(self, workload: str, subject: str) -> float | None:
        """The median over the repetitions; None if there is none."""
        figures = self.figures.get((workload, subject))
        return statistics.median(figures) if figures else None

    def subjects(self, workload: str) -> list[str]:
        """The subjects that have a figure of `workload`."""
        return [subject for name, subject in self.figures if name == workload]


@dataclass(frozen=True)
class Line:
    """One workload on one subject."""

    workload: Workload
    subject: str
    median: float
    least: float
    most: float
    of_null: float | None
    met: bool | None


def lines(results: Results, workloads: Iterable[Workload]) -> list[Line]:
    """Everything that was measured, in the order of `workloads`; goals are only asked of cas3fs."""
    return [_line(results, workload, subject) for workload in workloads for subject in results.subjects(workload.name)]


def _line(results: Results, workload: Workload, subject: str) -> Line:
    figures = results.figures[workload.name, subject]
    median = statistics.median(figures)
    null = results.median(workload.name, NullFileSystem.name)
    return Line(
        workload=workload,
        subject=subject,
        median=median,
        least=min(figures),
        most=max(figures),
        of_null=median / null if null and workload.goal.least_of_null is not None else None,
        met=workload.goal.is_met(median, null) if subject.startswith("cas3fs") else None,
    )


def table(found: Iterable[Line]) -> Table:
    """The lines as a table."""
    drawn = Table("workload", "subject", box=None, header_style="bold", pad_edge=False)
    for heading in ("median", "least .. most"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("unit")
    drawn.add_column("of nullfs", justify="right")
    drawn.add_column("goal")
    drawn.add_column("")
    for line in found:
        drawn.add_row(
            line.workload.name,
            line.subject,
            _number(line.median),
            f"{_number(line.least)} .. {_number(line.most)}",
            line.workload.unit,
            "" if line.of_null is None else f"{line.of_null:.2f}",
            "" if line.met is None else str(line.workload.goal),
            {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[line.met],
        )
    return drawn


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def as_json(found: Iterable[Line], settings: dict[str, Any]) -> str:
    """The lines, and in which circumstances they came about, as one JSON object."""
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    return json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine,
            "settings": settings,
            "results": [_as_object(line) for line in found],
        },
        indent=2,
    )


def _as_object(line: Line) -> dict[str, Any]:
    return {
        "workload": line.workload.name,
        "subject": line.subject,
        "unit": line.workload.unit,
        "median": line.median,
        "least": line.least,
        "most": line.most,
        "of_null": line.of_null,
        "goal": str(line.workload.goal),
        "met": line.met,
    }
