# SPDX-License-Identifier: GPL-3.0-or-later
"""Random operations on a volume, compared with a model of what was acknowledged (module `volume_model`)."""

from pathlib import Path

import pytest

from cas3fs.objectstores.wrappers import RetryPolicy
from cas3fs.testing.faulty_store import faulty_stores
from cas3fs.testing.sqlite_faults import sqlite_faults
from tests.model.volume_model import VolumeModel

DEFAULT_SEEDS, LONG_SEEDS, STEPS = range(4), range(400), 60

pytestmark = [pytest.mark.lasts(120, long_s=600), pytest.mark.encryption("plain", "encrypted")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long form has more seeds."""
    metafunc.parametrize("seed", LONG_SEEDS if metafunc.config.getoption("--long") else DEFAULT_SEEDS)


@pytest.mark.promise("a-volume-lives-through-everything")
def test_random_operations_lose_no_acknowledged_data(
    encryption: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = RetryPolicy(deadline_s=0.3, base_delay_s=0.01, max_delay_s=0.05)
    monkeypatch.setattr("cas3fs.objectstores.urls.RetryPolicy", lambda: quick)
    with faulty_stores() as stores, sqlite_faults() as sqlite:
        model = VolumeModel(tmp_path, seed, stores, sqlite)
        try:
            for _ in range(STEPS):
                model.step()
            model.check()
        except BaseException as error:
            error.add_note("\n".join(model.log))
            raise
        finally:
            stores.faults.clear()
            model.volume.close()
