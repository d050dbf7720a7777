# SPDX-License-Identifier: GPL-3.0-or-later
"""Plots: time and memory by the number of files (`scale`), and rates by latency.

They need matplotlib: ``pip install 'cas3fs[plots]'``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Bound, Results

LATENCY_LINES = ("small.stored", "small.read-cold", "stream.read-cold")
LATENCIES_MS = {"dir": 0, "s3": 1, "far": 31}
"""The approximate latency of a request in each place."""
_Series = Mapping[str, Sequence[tuple[float, float]]]


def draw(folder: Path, results: Results) -> list[Path]:
    """Draw plots of the figures that exist; returns the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    times, memory = by_files(results.bounds)
    for name, series, unit in (("time-by-files", times, "microseconds per file"), ("memory-by-files", memory, "MiB")):
        if series:
            drawn.append(_draw(folder / f"{name}.png", series, "files", unit, logarithmic=True))
    latency = by_latency(results)
    if latency:
        drawn.append(
            _draw(
                folder / "rate-by-latency.png",
                latency,
                "milliseconds per request",
                "relative to the rate without latency",
            )
        )
    return drawn


def by_files(bounds: Sequence[Bound]) -> tuple[_Series, _Series]:
    """Microseconds per file of each step of `scale`, and memory of the mount, by the number of files."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for bound in bounds:
        files, _, step = bound.what.partition(" files: ")
        if bound.program == "scale" and step:
            chosen = {"us/file": times, "MiB": memory}.get(bound.unit)
            if chosen is not None:
                chosen[step].append((float(files.replace(",", "")), bound.figure))
    return times, memory


def by_latency(results: Results) -> _Series:
    """Rates of cas3fs by the latency of a request, relative to those in a directory."""
    series: dict[str, list[tuple[float, float]]] = {}
    for name in LATENCY_LINES:
        figures = {place: results.figures.get((name, f"cas3fs-{place}")) for place in LATENCIES_MS}
        near = figures["dir"]
        if near:
            found = [(LATENCIES_MS[place], rates[0] / near[0]) for place, rates in figures.items() if rates]
            series[name] = [(float(latency_ms), rate) for latency_ms, rate in found]
    return series


def _draw(path: Path, series: _Series, across: str, up: str, logarithmic: bool = False) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for name, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(fontsize="small")
    figure.savefig(path)
    return path
