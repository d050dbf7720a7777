# SPDX-License-Identifier: GPL-3.0-or-later
"""Work behind the command: the parent learns how it began, and of nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = "free space on the disk of the state directory, or of temporary files, and try again"
SCRIPT = """
import sys, os
from cas3fs.cli.background import run_in_background
from cas3fs.errors import Cas3fsError, EpochHeld

def work(ready):
    {work}
    return 0

try:
    print("status", run_in_background(work), flush=True)
except Cas3fsError as error:
    print(type(error).__name__, error)
"""


def run(work: str) -> str:
    """What the parent of `work` prints; it has a second to itself where it serves."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(work=work)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_parent_returns_when_the_child_serves_while_that_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    work = f"ready(); open({str(tmp_path / 'fifo')!r}, 'w').write(os.getcwd())"
    assert run(work) == "status 0"
    assert (tmp_path / "fifo").read_text() == "/"


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ("raise EpochHeld('held by another')", "EpochHeld held by another"),
        ("raise KeyError('defect')", "Cas3fsError KeyError: 'defect'"),
        ("raise OSError(28, 'No space left on device')", f"Cas3fsError No space left on device; {FULL}"),
        ("raise OSError(5, 'Input/output error', '/a')", "Cas3fsError /a: Input/output error"),
        ("os._exit(3)", "MountError the process of the mount ended before the mount could be used"),
        ("sys.exit(3)", "Cas3fsError SystemExit: 3"),
    ],
)
def test_what_kept_the_child_from_serving_is_raised_in_the_parent(work: str, told: str) -> None:
    assert run(work) == told


def test_what_goes_wrong_after_that_is_nothing_to_the_parent() -> None:
    assert run("ready(); raise KeyError('later')") == "status 0"
