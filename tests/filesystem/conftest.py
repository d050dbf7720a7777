# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: a machine with a file system on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.filesystem import FileSystem
from tests.filesystem.gated import Gated
from tests.filesystem.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine")
    yield made
    made.close()


@pytest.fixture
def fs(machine: Machine) -> FileSystem:
    return machine.mount()


@pytest.fixture
def gated(machine: Machine) -> Iterator[Gated]:
    made = Gated(machine)
    yield made
    made.store.gate.set()
    made.store.failing = False
