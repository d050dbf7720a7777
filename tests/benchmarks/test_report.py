# SPDX-License-Identifier: GPL-3.0-or-later
"""How figures are compared with their goals, and what a run consists of."""

import json

import pytest

from benchmarks.__main__ import main, plan
from benchmarks.report import Results, as_json, lines
from benchmarks.workloads import WORKLOADS, Goal

CREATE, MEMORY = (next(w for w in WORKLOADS if w.name == name) for name in ("create-4k", "memory"))


def results(cas3fs: list[float], null: list[float]) -> Results:
    found = Results()
    for subject, figures in (("cas3fs-file", cas3fs), ("nullfs", null)):
        for figure in figures:
            found.add(CREATE.name, subject, figure)
    return found


def test_the_median_is_compared_with_the_null_file_system_of_the_same_run() -> None:
    line, null = lines(results([10, 31, 900], [100, 100, 1]), [CREATE])
    assert (line.median, line.of_null, line.met) == (31, 0.31, True)
    assert null.met is None, "goals are asked of cas3fs alone"


def test_a_goal_below_the_null_file_system_is_missed() -> None:
    assert lines(results([29], [100]), [CREATE])[0].met is False


def test_without_the_null_file_system_nothing_is_claimed() -> None:
    assert lines(results([29], []), [CREATE])[0].met is None


@pytest.mark.parametrize(("figure", "met"), [(300, True), (300.1, False)])
def test_an_upper_limit_includes_itself(figure: float, met: bool) -> None:
    assert Goal(at_most=300).is_met(figure, None) is met


def test_the_json_tells_figures_goals_and_circumstances() -> None:
    told = json.loads(as_json(lines(results([29], [100]), [CREATE]), {"scale": 0.1}))
    assert told["results"][0]["met"] is False
    assert told["results"][0]["goal"] == ">= 0.3 of nullfs"
    assert told["settings"] == {"scale": 0.1}


def test_requests_are_counted_apart_from_what_is_timed() -> None:
    sessions = plan(["nullfs", "cas3fs-s3"], WORKLOADS)
    assert [session.title.partition(":")[0] for session in sessions] == ["nullfs", "cas3fs-s3", "cas3fs-s3"]
    assert sessions[-1].title == "cas3fs-s3: requests"


def test_memory_is_looked_at_after_all_that_is_timed() -> None:
    timed = [workload.name for workload in WORKLOADS if not workload.counted]
    assert timed[-1] == MEMORY.name


def test_an_unknown_workload_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["no-such"])
    assert caught.value.code == 2
    assert "no such workload: no-such" in capsys.readouterr().err
