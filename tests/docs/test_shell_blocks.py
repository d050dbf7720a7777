# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command that a page shows is run, in the order of the page, and prints what the page says.

Two programs are replaced: `apt-get` only checks that it is asked for packages that `./dev` knows, and `pip` installs a
copy of the checkout without its dependencies, which are taken from this environment.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .shell import commands_of, inside, is_like, results_of, script_of

if TYPE_CHECKING:
    from cas3fs.testing.servers import S3Server

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
WITH_COMMANDS = [page for page in PAGES if list(commands_of(page.read_text()))]
BUCKETS = ("my-bucket", "copy-of-my-bucket")
TIMEOUT_S = 300

APT_GET = """#!/bin/sh
shift
for package; do
    grep -qw -- "${package#python3-}" %s || { echo "./dev does not know the package $package"; exit 1; }
done
"""


@pytest.fixture
def server() -> Iterator["S3Server"]:
    """An S3 server with empty buckets."""
    from cas3fs.testing.servers import moto_s3

    with moto_s3() as server:
        for bucket in BUCKETS:
            server.make_bucket(bucket)
        yield server


@pytest.fixture
def sandbox_of_page(workspace: Path) -> Iterator[Path]:
    """A home directory, places for volumes, and stand-ins for programs of the system."""
    for folder in ("home", "mnt", "srv", "bin", "tmp"):
        (workspace / folder).mkdir()
    stand_in(workspace / "bin" / "sudo", '#!/bin/sh\nexec "$@"\n')
    stand_in(workspace / "bin" / "apt-get", APT_GET % (ROOT / "dev"))
    try:
        yield workspace
    finally:
        unmount_below(workspace)


def stand_in(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def unmount_below(folder: Path) -> None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1]
        if Path(target).is_relative_to(folder):
            umount = [sys.executable, "-m", "cas3fs", "umount", target]
            home = os.environ | {"HOME": str(folder / "home")}
            subprocess.run(umount, check=False, capture_output=True, env=without_places(home))
            subprocess.run(["fusermount3", "-u", "-z", target], check=False, capture_output=True)


def without_places(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what says where programs keep their files: then that is below the home directory."""
    return {name: value for name, value in environment.items() if not name.startswith("XDG_")}


def environment_in(sandbox: Path, server: "S3Server") -> dict[str, str]:
    """What the commands find: this environment's programs, a home, and an S3 server."""
    return {
        **without_places(os.environ),
        **server.environment,
        "HOME": str(sandbox / "home"),
        "TMPDIR": str(sandbox / "tmp"),
        "PATH": f"{sandbox / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as what the option means: no isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def copy_checkout(sandbox: Path) -> None:
    """What `pip install .` needs, in the folder in which the commands begin."""
    for name in ("pyproject.toml", "setup.py", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, sandbox / "home")
    for name in ("cas3fs", "migrations"):
        shutil.copytree(ROOT / name, sandbox / "home" / name, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.lasts(TIMEOUT_S, long_s=TIMEOUT_S)
@pytest.mark.usefixtures("need_fuse")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda path: path.name)
def test_the_commands_of_a_page_do_what_it_says(page: Path, sandbox_of_page: Path, server: "S3Server") -> None:
    commands = list(commands_of(page.read_text()))
    if any("pip install ." in command.words for command in commands):
        copy_checkout(sandbox_of_page)
    done = subprocess.run(
        ["bash", "-s"],
        input=script_of(commands, sandbox_of_page),
        env=environment_in(sandbox_of_page, server),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    printed = results_of(done.stdout)
    for number, command in enumerate(commands):
        assert number in printed, f"{command.words}\nwas not run to its end:\n{done.stdout[-3000:]}"
        text, status = printed[number]
        assert status == 0 or command.may_fail, f"{command.words}\nexits with {status}: {text}"
        shown = tuple(inside(line, sandbox_of_page) for line in command.shown)
        assert not shown or is_like(shown, text), f"{command.words}\nprints:\n{text}\nThe page shows:\n{shown}"


def test_a_page_that_shows_other_output_would_be_noticed() -> None:
    (command,) = commands_of(".. code-block:: console\n\n    $ echo a \\\n        b\n    a ... c\n")
    assert command.words == "echo a \\\n    b"
    assert is_like(command.shown, "a  b\nc\n")
    assert not is_like(command.shown, "a b\n")
    assert not command.may_fail
