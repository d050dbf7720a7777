# SPDX-License-Identifier: GPL-3.0-or-later
"""The choice of a front-end: llfuse need not be installed, and what cannot be mounted claims no volume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import StoreSettings, VolumeSettings

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules["llfuse"] = None
import cas3fs
for found in pkgutil.walk_packages(cas3fs.__path__, "cas3fs."):
    if not found.name.startswith(("cas3fs.fuse.llfuse_frontend", "cas3fs.__main__", "cas3fs.migrations")):
        importlib.import_module(found.name)
        print(found.name)
"""


def test_everything_but_its_front_end_loads_without_llfuse() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], check=True, capture_output=True, text=True)
    assert {"cas3fs.cli.mount", "cas3fs.commands.mount", "cas3fs.testing.volumes"} <= set(done.stdout.split())


@pytest.fixture
def volume(workspace: Path) -> str:
    for name in ("v", "m", "without"):
        (workspace / name).mkdir()
    (workspace / "without" / "llfuse.py").write_text("raise ImportError('no llfuse here')\n")
    create_volume(StoreSettings((workspace / "v").as_uri()), VolumeSettings())
    return (workspace / "v").as_uri()


def message_of_mount(workspace: Path, *options: str) -> str:
    """The only line that a mount prints, which must fail without a claim."""
    places = ("--state-dir", str(workspace / "s"), "--cache-dir", str(workspace / "c"))
    url = (workspace / "v").as_uri()
    done = subprocess.run(
        [sys.executable, "-m", "cas3fs", "mount", url, str(workspace / "m"), *places, *options],
        env=os.environ | {"PYTHONPATH": str(workspace / "without")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert not (workspace / "v" / "epochs").exists()
    (line,) = done.stderr.splitlines()
    return line


def test_llfuse_is_named_if_it_is_asked_for_and_not_installed(volume: str, workspace: Path) -> None:
    line = message_of_mount(workspace, "--frontend", "llfuse")
    assert line == ("cas3fs: llfuse cannot be loaded (no llfuse here); install cas3fs[llfuse], or leave --frontend out")


@pytest.mark.parametrize(
    "options, told",
    [
        ("noatime,nonsense", "unknown mount option 'nonsense'"),
        ("max_read=much", "unknown mount option 'max_read=much'"),
        ("fsname=me", "the mount option fsname cannot be given, as cas3fs sets it"),
        ("subtype=me", "the mount option subtype cannot be given, as cas3fs sets it"),
        ("uid=me", "the mount option uid takes a number, not 'me'"),
        ("timeout=inf", "the mount option timeout is too large: inf"),
        ("gid=4294967295", "the mount option gid is too large: 4294967295"),
    ],
)
def test_an_unusable_option_is_named_before_a_claim(volume: str, workspace: Path, options: str, told: str) -> None:
    assert told in message_of_mount(workspace, "-o", options)
