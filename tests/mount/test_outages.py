# SPDX-License-Identifier: GPL-3.0-or-later
"""A real server that is killed, stopped and started again while programs work on the mount."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.crash.load import Load
from tests.mount.conftest import TIMEOUT_S, Machine, new_bucket

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

USUAL_ROUNDS, LONG_ROUNDS = 1, 30


@pytest.fixture
def machine(need_fuse: None, rclone_s3: "RcloneServer", workspace: Path) -> Iterator[Machine]:
    """A machine with a volume on the server."""
    made = Machine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    made.mkfs()
    yield made
    rclone_s3.resume()
    made.clean_up()


def work_on(load: Load, count: int) -> None:
    """Programs get so much more done."""
    wanted, deadline_s = load.operations + count, time.monotonic() + TIMEOUT_S
    while load.operations < wanted:
        assert not load.failures, load.failures
        assert time.monotonic() < deadline_s, "the programs get nothing done"
        time.sleep(0.01)


def troubles(server: "RcloneServer") -> list[tuple[Callable[[], None], Callable[[], None]]]:
    """How trouble begins, and how it ends."""
    return [(server.kill, server.start), (server.pause, server.resume), (server.restart, lambda: None)]


@pytest.mark.promise("work-goes-on-without-the-store")
@pytest.mark.lasts(120, long_s=1800)
def test_programs_work_on_while_the_server_dies_and_comes_back_and_all_is_stored_then(
    machine: Machine, rclone_s3: "RcloneServer", long: bool
) -> None:
    machine.mount("--snapshot-interval", "500ms", "--cache-size", "0")
    load = Load(seed=1)
    load.begin(machine.dir)
    load.start(machine.dir)
    for _ in range(LONG_ROUNDS if long else USUAL_ROUNDS):
        for begin, end in troubles(rclone_s3):
            work_on(load, 60)
            begin()
            work_on(load, 100)
            end()
    work_on(load, 30)
    load.stop()
    assert load.failures == []
    account, now = load.account, load.account.now()
    assert account.problems(machine.dir, now) == []
    machine.umount()
    machine.forget_everything()
    machine.mount()
    assert account.problems(machine.dir, now) == []
    machine.umount()
    assert machine.report("fsck", machine.url, "--verify-data")["status"] == 0


@pytest.mark.promise("synced-data-survives-a-crash-in-an-outage")
def test_a_mount_killed_while_the_server_is_away_loses_nothing_that_was_synced(
    machine: Machine, rclone_s3: "RcloneServer"
) -> None:
    pid = machine.mount()
    load = Load(seed=2)
    load.begin(machine.dir)
    load.start(machine.dir)
    work_on(load, 30)
    rclone_s3.kill()
    work_on(load, 150)
    machine.kill(pid)
    load.stop()
    machine.run("umount", machine.dir)
    rclone_s3.start()
    assert machine.report("fsck", machine.url)["status"] == 0
    machine.mount()
    assert load.account.problems(machine.dir, load.account.synced()) == []
    machine.umount()
