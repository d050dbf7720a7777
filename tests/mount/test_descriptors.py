# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount whose process may have few files open: more are staged than that, and nothing fails."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mount.conftest import Machine, new_bucket

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

MOST_OPEN, FILES = 256, 1000
SIZE = 257 * 1024
"""More than a layer may have in memory."""


@pytest.fixture
def machine(need_fuse: None, rclone_s3: "RcloneServer", workspace: Path) -> Iterator[Machine]:
    made = Machine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    made.mkfs()
    yield made
    rclone_s3.resume()
    made.clean_up()


@pytest.mark.promise("few-descriptors-for-many-files")
@pytest.mark.lasts(60)
def test_a_thousand_staged_files_under_a_limit_of_256_descriptors_wait_for_the_store_and_are_stored(
    machine: Machine, rclone_s3: "RcloneServer"
) -> None:
    machine.most_open = MOST_OPEN
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
    assert descriptors < MOST_OPEN
    machine.umount()
    machine.forget_everything()
    machine.mount()
    for number in range(0, FILES, 50):
        assert (machine.dir / f"{number}").read_bytes() == b"%d" % number * (SIZE // len(b"%d" % number) + 1)
    assert len(list(machine.dir.iterdir())) == FILES + 1
    machine.umount()
