# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel contains the whole package, including the migrations."""

import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names in a wheel that is built from a copy of the tree, because building leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("cas3fs", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "out",
        ".",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "out").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_every_module(shipped: set[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cas3fs").rglob("*.py")}
    assert modules - shipped == set()


def test_the_wheel_has_the_migrations_inside_the_package(shipped: set[str]) -> None:
    migrations = {f"cas3fs/{path.relative_to(ROOT)}" for path in (ROOT / "migrations").rglob("*.py")}
    assert migrations - shipped == set()
    assert "cas3fs/migrations/env.py" in shipped


def test_the_wheel_is_marked_as_typed(shipped: set[str]) -> None:
    assert "cas3fs/py.typed" in shipped


def test_the_migrations_are_a_folder_of_the_installed_package() -> None:
    assert (Path(str(importlib.resources.files("cas3fs.migrations"))) / "versions").is_dir()
