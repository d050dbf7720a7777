# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines, and the reference figures of other systems."""

from benchmarks.lines import LINES, PLACES
from benchmarks.reference_figures import REFERENCE_FIGURES
from benchmarks.workloads import WORKLOADS


def test_every_line_belongs_to_a_workload() -> None:
    assert {line.workload for line in LINES} == {workload.name for workload in WORKLOADS} | {"memory"}


def test_goals_are_only_in_places_of_the_workload() -> None:
    places = {workload.name: set(workload.places) for workload in WORKLOADS} | {"memory": set(PLACES)}
    for line in LINES:
        assert set(line.goals) <= places[line.workload], line.name


def test_every_reference_figure_belongs_to_a_line() -> None:
    names = {line.name for line in LINES}
    assert {name for name, _ in REFERENCE_FIGURES} <= names
    assert {place for _, place in REFERENCE_FIGURES} <= set(PLACES)
