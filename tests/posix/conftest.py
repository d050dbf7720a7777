# SPDX-License-Identifier: GPL-3.0-or-later
"""One mount of each front-end for all tests of this folder; each test has its own directory in it.

What llfuse can do, too, is tested through both front-ends: ``pytestmark = pytest.mark.frontend("kernel", "llfuse")`` in
the module. A test without that marker runs through the kernel front-end alone (see tests/conftest.py).
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount, TemporaryVolume

USER, GROUP = 1000, 2000
"""The ids that `AsUser` uses; they need no names."""


@pytest.fixture(scope="session")
def shared_mount(frontend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporaryMount]:
    volume = TemporaryVolume.make(tmp_path_factory.mktemp("posix"))
    mount = TemporaryMount(volume, volume.folder / "m")
    mount.up("-o", "dev,suid", "--frontend", frontend)
    try:
        yield mount
    finally:
        mount.down()


@pytest.fixture
def mount(need_fuse: None, frontend: str, request: pytest.FixtureRequest) -> TemporaryMount:
    shared: TemporaryMount = request.getfixturevalue("shared_mount")
    return shared


@pytest.fixture
def folder(mount: TemporaryMount, request: pytest.FixtureRequest) -> Path:
    """An empty directory on the mount, writable by every user."""
    made = mount / request.node.name.replace("/", "_")[:200]
    made.mkdir()
    made.chmod(0o777)
    return made


AsUser = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def as_user(folder: Path) -> AsUser:
    """Runs a shell command in the folder as an ordinary user, who is in `GROUP` only if requested."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")

    def run(command: str, *, user: int = USER, groups: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=folder,  # entered before the process gives up root's rights
            user=user,
            group=user,
            extra_groups=list(groups),
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )

    return run
