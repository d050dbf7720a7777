# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured: the figures of lines by subject, bounds that other programs hold, failures, and the machine.

Results go to JSON and come back from it, so that a table can be made of several runs.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.lines import Line


@dataclass(frozen=True)
class Bound:
    """A figure of a program of its own (`bounds.py`), and what it should be at most or at least."""

    program: str
    what: str
    unit: str
    figure: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is; None without a bound."""
        if self.at_most is None and self.at_least is None:
            return None
        within = self.at_most is None or self.figure <= self.at_most
        return within and (self.at_least is None or self.figure >= self.at_least)

    @property
    def goal(self) -> str:
        """The bound in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"


def describe_machine() -> dict[str, Any]:
    """What this machine is."""
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
    """The figures of a run: of every line and subject, one a repetition."""

    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def add(self, line: str, subject: str, figure: float) -> None:
        """Enters one figure."""
        self.figures.setdefault((line, subject), []).append(figure)

    def of(self, line: Line, subject: str) -> float | None:
        """The median over the repetitions, or the greatest of a peak; None if there is none."""
        figures = self.figures.get((line.name, subject))
        if not figures:
            return None
        return max(figures) if line.peak else statistics.median(figures)

    def as_json(self) -> str:
        """Everything, as one JSON object."""
        figures = [
            {"line": line, "subject": subject, "figures": figures} for (line, subject), figures in self.figures.items()
        ]
        told = {"time": self.time, "machine": self.machine, "settings": self.settings, "figures": figures}
        return json.dumps(
            told | {"bounds": [asdict(bound) for bound in self.bounds], "failures": self.failures}, indent=1
        )

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Self:
        """The results of several files, as one; machine and time are the newest one's.

        Figures add up. What failed in an older one is told no more where a newer one has tried it again.
        """
        read = cls()
        for told in sorted((json.loads(path.read_text()) for path in paths), key=lambda told: str(told["time"])):
            again = set(_sessions(told))
            read.failures = [failure for failure in read.failures if _session_of(failure) not in again]
            read.time, read.machine, read.settings = told["time"], told["machine"], told["settings"]
            read.bounds += [Bound(**bound) for bound in told["bounds"]]
            read.failures += told["failures"]
            for one in told["figures"]:
                read.figures.setdefault((one["line"], one["subject"]), []).extend(one["figures"])
        return read


def session_title(workload: str, subject: str) -> str:
    """What a workload in a subject is called; a failure begins with it and a colon."""
    return f"{workload} in {subject}"


def _sessions(told: dict[str, Any]) -> Iterator[str]:
    """The titles of those that yielded something or failed, in a file's results."""
    for one in told["figures"]:
        yield session_title(one["line"].partition(".")[0], one["subject"])
    yield from map(_session_of, told["failures"])


def _session_of(failure: str) -> str:
    return failure.partition(": ")[0]
