# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured: the figures of lines by subject, the figures of programs, failures, and the machine.

Results are written to JSON and read back, so that a table can combine several runs.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.lines import Line


class Measurement(NamedTuple):
    """A figure that a program measured, and its upper limit."""

    what: str
    figure: float
    unit: str
    goal: float | None = None


@dataclass(frozen=True)
class Bound:
    """A figure of a program (`internals.py`), and its upper or lower limit."""

    program: str
    what: str
    unit: str
    figure: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None without a limit."""
        if self.at_most is None and self.at_least is None:
            return None
        within = self.at_most is None or self.figure <= self.at_most
        return within and (self.at_least is None or self.figure >= self.at_least)

    @property
    def goal(self) -> str:
        """The limit in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"


def describe_machine() -> dict[str, Any]:
    """CPU, memory and software of this machine."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cpus": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "memory_gib": round(memory_gib),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


@dataclass
class Results:
    """The figures of a run: by line and subject, one per repetition."""

    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def add(self, line: str, subject: str, figure: float) -> None:
        """Add a figure."""
        self.figures.setdefault((line, subject), []).append(figure)

    def of(self, line: Line, subject: str) -> float | None:
        """The median of the repetitions, or the maximum of a peak; None if there is no figure."""
        figures = self.figures.get((line.name, subject))
        if not figures:
            return None
        return max(figures) if line.peak else statistics.median(figures)

    def as_json(self) -> str:
        """Everything, as one JSON object."""
        figures = [
            {"line": line, "subject": subject, "figures": figures} for (line, subject), figures in self.figures.items()
        ]
        saved = {"time": self.time, "machine": self.machine, "settings": self.settings, "figures": figures}
        return json.dumps(
            saved | {"bounds": [asdict(bound) for bound in self.bounds], "failures": self.failures}, indent=1
        )

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Self:
        """Combine the results of several files; machine and time are those of the newest one.

        The figures of all files are kept. A failure in an older file is dropped if a newer file has run that workload.
        """
        read = cls()
        for saved in sorted((json.loads(path.read_text()) for path in paths), key=lambda saved: str(saved["time"])):
            again = set(_runs(saved))
            read.failures = [failure for failure in read.failures if _run_of(failure) not in again]
            read.time, read.machine, read.settings = saved["time"], saved["machine"], saved["settings"]
            read.bounds += [Bound(**bound) for bound in saved["bounds"]]
            read.failures += saved["failures"]
            for one in saved["figures"]:
                read.figures.setdefault((one["line"], one["subject"]), []).extend(one["figures"])
        return read


def run_title(workload: str, subject: str) -> str:
    """The title of a run; the message of a failure begins with it and a colon."""
    return f"{workload} in {subject}"


def _runs(saved: dict[str, Any]) -> Iterator[str]:
    """The titles of the runs in a file that yielded figures or failed."""
    for one in saved["figures"]:
        yield run_title(one["line"].partition(".")[0], one["subject"])
    yield from map(_run_of, saved["failures"])


def _run_of(failure: str) -> str:
    return failure.partition(": ")[0]
