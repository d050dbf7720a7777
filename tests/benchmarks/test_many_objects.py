# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes with very many objects are measured, at a tiny size."""

from pathlib import Path

import pytest

from benchmarks import many_objects
from benchmarks.internals import CROWD_GOALS


@pytest.mark.promise("scale-is-measured")
def test_every_limit_is_of_a_measured_figure(tmp_path: Path) -> None:
    for name in ("packs", "epochs", "staged"):
        (tmp_path / name).mkdir()
    many_objects.fill_packs(tmp_path / "packs", 300)
    found = {
        "packs": many_objects.measure_packs(tmp_path / "packs"),
        "epochs": many_objects.measure_epochs(tmp_path / "epochs", 150),
        "staged files": many_objects.measure_staged(tmp_path / "staged", 2 * many_objects.SAMPLE),
    }
    measured = {(what, one.what) for what, figures in found.items() for one in figures}
    assert {(name.partition(" ")[2], what) for name, what in CROWD_GOALS} <= measured
    assert all(one.figure >= 0 for figures in found.values() for one in figures)
