# SPDX-License-Identifier: GPL-3.0-or-later
"""A real server that is killed, stopped and restarted while programs use the mount."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.crash.programs import Programs
from tests.mount.conftest import TIMEOUT_S, CliMachine, new_bucket

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

DEFAULT_ROUNDS, LONG_ROUNDS = 1, 30


@pytest.fixture
def machine(need_fuse: None, encryption: str, rclone_s3: "RcloneServer", workspace: Path) -> Iterator[CliMachine]:
    """A machine with a volume on the server."""
    made = CliMachine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    made.mkfs()
    yield made
    rclone_s3.resume()
    made.clean_up()


def await_operations(load: Programs, count: int) -> None:
    """Wait until the programs have done `count` more operations."""
    wanted, deadline_s = load.operations + count, time.monotonic() + TIMEOUT_S
    while load.operations < wanted:
        assert not load.failures, load.failures
        assert time.monotonic() < deadline_s, "the programs make no progress"
        time.sleep(0.01)


def outages(server: "RcloneServer") -> list[tuple[Callable[[], None], Callable[[], None]]]:
    """Ways in which an outage begins, each with how it ends."""
    return [(server.kill, server.start), (server.pause, server.resume), (server.restart, lambda: None)]


@pytest.mark.promise("work-goes-on-without-the-store")
@pytest.mark.lasts(120, long_s=1800)
def test_programs_continue_through_server_outages(machine: CliMachine, rclone_s3: "RcloneServer", long: bool) -> None:
    """Everything is stored when the server is back."""
    machine.mount("--snapshot-interval", "500ms", "--cache-size", "0")
    load = Programs(seed=1)
    load.prepare(machine.dir)
    load.start(machine.dir)
    for _ in range(LONG_ROUNDS if long else DEFAULT_ROUNDS):
        for begin, end in outages(rclone_s3):
            await_operations(load, 60)
            begin()
            await_operations(load, 100)
            end()
    await_operations(load, 30)
    load.stop()
    assert load.failures == []
    expected, now = load.expected, load.expected.now()
    assert expected.problems(machine.dir, now) == []
    machine.umount()
    machine.forget_everything()
    machine.mount()
    assert expected.problems(machine.dir, now) == []
    machine.umount()
    assert machine.report("fsck", machine.url, "--verify-data")["status"] == 0


@pytest.mark.promise("synced-data-survives-a-crash-in-an-outage")
def test_a_kill_during_an_outage_loses_no_synced_data(machine: CliMachine, rclone_s3: "RcloneServer") -> None:
    pid = machine.mount()
    load = Programs(seed=2)
    load.prepare(machine.dir)
    load.start(machine.dir)
    await_operations(load, 30)
    rclone_s3.kill()
    await_operations(load, 150)
    machine.kill(pid)
    load.stop()
    machine.run("umount", machine.dir)
    rclone_s3.start()
    assert machine.report("fsck", machine.url)["status"] == 0
    machine.mount()
    assert load.expected.problems(machine.dir, load.expected.synced()) == []
    machine.umount()
