# SPDX-License-Identifier: GPL-3.0-or-later
"""A state directory restored from a backup, and a copied volume beside the original."""

import os
import shutil
from pathlib import Path

import pytest

from .conftest import CliMachine


@pytest.mark.promise("an-old-state-folder-rolls-nothing-back")
def test_a_restored_state_directory_rolls_nothing_back(machine: CliMachine) -> None:
    machine.mkfs()
    machine.mount()
    (machine.dir / "a").write_text("1")
    machine.run("flush", machine.dir)
    (machine.dir / "b").write_text("in the backup, not stored yet")
    with open(machine.dir / "b", "rb+") as file:
        os.fsync(file.fileno())
    shutil.copytree(machine.state, machine.root / "backup", ignore=lambda folder, names: {"control.sock"} & {*names})
    (machine.dir / "thesis").write_text("years of work")
    machine.run("flush", machine.dir)
    machine.umount()
    shutil.rmtree(machine.state)
    shutil.copytree(machine.root / "backup", machine.state)
    output = machine.run("mount", machine.url, machine.dir).stderr
    assert "is an old copy" in output
    assert "cas3fs rescue" in output
    assert sorted(path.name for path in machine.dir.iterdir()) == ["a", "b", "thesis"]
    assert (machine.dir / "thesis").read_text() == "years of work"
    machine.umount()
    machine.run("fsck", machine.url, "--verify-data")
    aside = next(machine.state.glob("*/set-aside/*"))
    machine.run("rescue", aside, machine.root / "saved")
    assert [path.name for path in (machine.root / "saved").iterdir()] == ["b"]


@pytest.mark.promise("a-copied-volume-leaves-the-original-alone")
def test_a_forked_copy_is_mounted_beside_the_original(machine: CliMachine, workspace: Path) -> None:
    machine.mkfs()
    machine.mount()
    (machine.dir / "a").write_text("1")
    machine.run("flush", machine.dir)
    shutil.copytree(workspace / "v", workspace / "w")
    other = CliMachine(workspace / "two", (workspace / "w").as_uri(), {})
    other.state, other.cache = machine.state, machine.cache
    try:
        assert "cas3fs fork --take-over" in other.fail("fork", other.url)
        assert machine.fail("fork", machine.url).endswith("or is it the original?")
        uuid = other.report("fork", other.url, "--take-over")["uuid"]
        other.run("mount", other.url, other.dir)
        (machine.dir / "b").write_text("of the original")
        (other.dir / "c").write_text("of the copy")
        assert other.report("stats", other.url)["uuid"] == uuid != machine.report("stats", machine.url)["uuid"]
        for one in (other, machine):
            one.run("umount", one.dir)
            one.run("fsck", one.url, "--verify-data")
        machine.mount()
        assert sorted(path.name for path in machine.dir.iterdir()) == ["a", "b"]
        assert sorted(one["name"] or "" for one in machine.report("snapshot", "list", machine.url)) == ["", ""]
        machine.umount()
    finally:
        other.clean_up()
