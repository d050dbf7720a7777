# SPDX-License-Identifier: GPL-3.0-or-later
"""Much of everything is measured, at a tiny size."""

from pathlib import Path

import pytest

from benchmarks import crowd
from benchmarks.bounds import CROWD_GOALS


@pytest.mark.promise("scale-is-measured")
def test_each_goal_is_one_of_a_figure_that_is_measured(tmp_path: Path) -> None:
    for name in ("packs", "epochs", "staged"):
        (tmp_path / name).mkdir()
    crowd.fill_packs(tmp_path / "packs", 300)
    found = {
        "packs": crowd.measure_packs(tmp_path / "packs"),
        "epochs": crowd.measure_epochs(tmp_path / "epochs", 150),
        "staged files": crowd.measure_staged(tmp_path / "staged", 2 * crowd.SAMPLE),
    }
    told = {(what, one.what) for what, figures in found.items() for one in figures}
    assert {(name.partition(" ")[2], what) for name, what in CROWD_GOALS} <= told
    assert all(one.figure >= 0 for figures in found.values() for one in figures)
