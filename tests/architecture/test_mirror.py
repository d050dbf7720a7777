# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests mirror the package, so that the tests of a thing are found where one looks for them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
ACROSS_ROOMS = {"architecture", "benchmarks", "contracts", "crash", "docs", "hostile", "model", "mount", "posix"}


def rooms() -> set[str]:
    """The names of all that lies directly in the package: rooms (folders) and lone modules."""
    folders = {path.parent.name for path in (ROOT / "cas3fs").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "cas3fs").glob("*.py")}
    return folders | modules - {"__init__", "__main__"}


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_has_its_tests(room: str) -> None:
    assert (TESTS / f"test_{room}.py").exists() or list((TESTS / room).rglob("test_*.py"))


def test_a_folder_of_tests_belongs_to_a_room() -> None:
    folders = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")}
    assert folders <= rooms() | ACROSS_ROOMS
