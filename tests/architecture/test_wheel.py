# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel contains the whole package, including the migrations."""

import email
import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return a wheel that is built from a copy of the tree, because building leaves folders behind."""
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
    (built,) = (folder / "out").glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def shipped(wheel: zipfile.ZipFile) -> set[str]:
    """Return the names in the wheel."""
    return set(wheel.namelist())


def test_the_wheel_has_every_module(shipped: set[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cas3fs").rglob("*.py")}
    assert modules - shipped == set()


def test_the_wheel_has_the_migrations_inside_the_package(shipped: set[str]) -> None:
    migrations = {f"cas3fs/{path.relative_to(ROOT)}" for path in (ROOT / "migrations").rglob("*.py")}
    assert migrations - shipped == set()
    assert "cas3fs/migrations/env.py" in shipped


def test_the_wheel_is_marked_as_typed(shipped: set[str]) -> None:
    assert "cas3fs/py.typed" in shipped


def test_only_extras_require_what_has_to_be_compiled(wheel: zipfile.ZipFile) -> None:
    """llfuse has no wheels, and without it nothing of cas3fs needs a compiler or the headers of libfuse."""
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist", [])
    of_llfuse = [line for line in required if line.startswith("llfuse")]
    assert any("extra == 'llfuse'" in line.replace('"', "'") for line in of_llfuse)
    assert all("extra ==" in line for line in of_llfuse)


def test_the_migrations_are_a_folder_of_the_installed_package() -> None:
    assert (Path(str(importlib.resources.files("cas3fs.migrations"))) / "versions").is_dir()
