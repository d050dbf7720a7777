# SPDX-License-Identifier: GPL-3.0-or-later
"""gc and fsck as a user runs them, with and without a mount."""

import os

import pytest

from tests.mount.conftest import CliMachine

pytestmark = [pytest.mark.frontend("kernel", "llfuse"), pytest.mark.encryption("plain", "encrypted")]


def test_gc_and_fsck_with_and_without_a_mount(machine: CliMachine) -> None:
    machine.mkfs("--allow-unfenced", "--pack-size", "1MiB", "--block-size", "64KiB")
    machine.mount()
    (machine.dir / "kept").write_bytes(kept := os.urandom(3_000_000))
    (machine.dir / "gone").write_bytes(os.urandom(3_000_000))
    machine.run("flush", machine.dir)
    (machine.dir / "gone").unlink()
    plan = machine.report("gc", machine.dir, "--dry-run")
    assert plan["dead_blocks"] > 0
    output = machine.run("gc", machine.dir, "--dry-run").stdout
    assert f"unreferenced blocks: {plan['dead_blocks']}," in output and "; $0.0" in output
    result = machine.report("gc", machine.dir, "--grace", "0s")
    assert result["dropped_blocks"] == plan["dead_blocks"]
    output = machine.report("fsck", machine.dir, "--verify-data")
    assert (output["status"], output["findings"], output["verified"]["is_complete"]) == (0, [], True)
    output = machine.run("fsck", machine.dir).stdout.splitlines()
    assert output[0].startswith("checked: the local index; in the store") and output[-1] == "clean"
    output = machine.run("stats", machine.dir).stdout
    assert all(title in output for title in ("last gc ", "last fsck ", "last data check "))
    assert "--verify-data" in machine.fail("fsck", machine.dir, "--max-duration", "1h", status=2)
    assert "unmount it" in machine.fail("fsck", machine.dir, "--repair", status=8)
    assert set(machine.report("stats", machine.dir)["maintenance"]) == {"gc", "fsck", "verify"}
    assert (machine.dir / "kept").read_bytes() == kept
    machine.umount()
    assert machine.report("fsck", machine.url)["status"] == 0
    machine.run("gc", machine.url)
    assert machine.fail("fsck", "file:///nowhere", status=8)
    machine.mount()
    assert (machine.dir / "kept").read_bytes() == kept
    machine.umount()
