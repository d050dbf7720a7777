# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes for the tests of gc and fsck."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.maintenance.damaged_volume import DamagedVolume, make_volume
from tests.maintenance.memory_volume import MemoryVolume


@pytest.fixture
def volume(encryption: str, tmp_path: Path) -> Iterator[MemoryVolume]:
    made = MemoryVolume(tmp_path / "volume")
    yield made
    made.close()


@pytest.fixture
def damaged(encryption: str, tmp_path: Path) -> Iterator[DamagedVolume]:
    made = make_volume(tmp_path / "volume")
    yield made
    made.close()
