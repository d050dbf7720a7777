# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume to maintain."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.maintenance.rig import Rig
from tests.maintenance.ward import Ward, make


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "rig")
    yield made
    made.close()


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = make(tmp_path / "ward")
    yield made
    made.close()
