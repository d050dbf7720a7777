# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines, and the figures of others that stand beside them."""

from benchmarks.known import KNOWN
from benchmarks.lines import LINES, PLACES
from benchmarks.workloads import WORKLOADS


def test_every_line_is_of_a_workload() -> None:
    assert {line.workload for line in LINES} == {workload.name for workload in WORKLOADS} | {"memory"}


def test_goals_are_asked_where_the_workload_is_measured() -> None:
    places = {workload.name: set(workload.places) for workload in WORKLOADS} | {"memory": set(PLACES)}
    for line in LINES:
        assert set(line.goals) <= places[line.workload], line.name


def test_what_is_known_of_others_is_known_of_a_line() -> None:
    names = {line.name for line in LINES}
    assert {name for name, _ in KNOWN} <= names
    assert {place for _, place in KNOWN} <= set(PLACES)
