# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount with a low limit of open files: more files than that are staged, and nothing fails."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mount.conftest import CliMachine, new_bucket

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

MAX_OPEN_FILES, FILES = 256, 1000
SIZE = 257 * 1024
"""More than a layer keeps in memory."""


@pytest.fixture
def machine(need_fuse: None, encryption: str, rclone_s3: "RcloneServer", workspace: Path) -> Iterator[CliMachine]:
    made = CliMachine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    made.mkfs()
    yield made
    rclone_s3.resume()
    made.clean_up()


@pytest.mark.promise("few-descriptors-for-many-files")
@pytest.mark.lasts(60)
def test_staging_1000_files_with_256_descriptors(machine: CliMachine, rclone_s3: "RcloneServer") -> None:
    machine.max_open_files = MAX_OPEN_FILES
    pid = machine.mount()
    rclone_s3.pause()
    try:
        for number in range(FILES):
            with open(machine.dir / f"{number}", "wb", buffering=0) as file:
                file.write(b"%d" % number * (SIZE // len(b"%d" % number) + 1))
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        with open(machine.dir / "synced", "wb", buffering=0) as file:
            file.write(b"x")
            os.fsync(file.fileno())
        assert os.statvfs(machine.dir).f_bfree
        staged = machine.report("stats", machine.dir)["pending"]["files"]
    finally:
        rclone_s3.resume()
    assert staged > FILES / 2
    assert descriptors < MAX_OPEN_FILES
    machine.umount()
    machine.forget_everything()
    machine.mount()
    for number in range(0, FILES, 50):
        assert (machine.dir / f"{number}").read_bytes() == b"%d" % number * (SIZE // len(b"%d" % number) + 1)
    assert len(list(machine.dir.iterdir())) == FILES + 1
    machine.umount()
