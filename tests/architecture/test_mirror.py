# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests mirror the package: the tests of `cas3fs/blocks/` are in `tests/blocks/`."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SHARED = {"architecture", "benchmarks", "contracts", "crash", "docs", "hostile", "model", "mount", "posix"}


def subpackages() -> set[str]:
    """Return the names of the subpackages, and of the modules directly in the package."""
    folders = {path.parent.name for path in (ROOT / "cas3fs").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "cas3fs").glob("*.py")}
    return folders | modules - {"__init__", "__main__"}


@pytest.mark.parametrize("name", sorted(subpackages()))
def test_a_subpackage_has_tests(name: str) -> None:
    assert (TESTS / f"test_{name}.py").exists() or list((TESTS / name).rglob("test_*.py"))


def test_a_folder_of_tests_belongs_to_a_subpackage_or_is_shared() -> None:
    folders = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")}
    assert folders <= subpackages() | SHARED
