# SPDX-License-Identifier: GPL-3.0-or-later
"""A file whose staged bytes the local disk has lost blocks no flush, snapshot or umount; it is named and retried."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import CliMachine

DATA = os.urandom(1 << 20)


@pytest.fixture
def second(machine: CliMachine, workspace: Path) -> Iterator[CliMachine]:
    """Another machine with access to the same volume."""
    made = CliMachine(workspace / "two", machine.url, {})
    yield made
    made.clean_up()


def lose_staged_bytes(machine: CliMachine) -> int:
    """Write a file and truncate its staged bytes; returns a descriptor that keeps it from being stored yet."""
    descriptor = os.open(machine.dir / "victim", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, DATA)
    os.fsync(descriptor)
    (staged,) = machine.state.glob("*/staging/*-*")
    os.truncate(staged, 4096)
    return descriptor


def shown(machine: CliMachine, snapshot: str, name: str) -> bytes:
    machine.run("snapshot", "extract", machine.url, snapshot, name, machine.root / "extracted")
    data = (machine.root / "extracted").read_bytes()
    (machine.root / "extracted").unlink()
    return data


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other", "a-flush-reaches-the-store")
def test_an_unstorable_file_is_named_and_blocks_nothing(machine: CliMachine, second: CliMachine) -> None:
    machine.mkfs()
    machine.mount()
    os.close(lose_staged_bytes(machine))
    (machine.dir / "other").write_bytes(b"important")
    assert "1 file is not in the store: /victim: " in machine.fail("flush", machine.dir)
    output = json.loads(machine.run("flush", machine.dir, "--json", status=1).stdout)
    assert [one["path"] for one in output["unstored"]] == ["/victim"]
    assert shown(machine, output["snapshot"], "other") == b"important"
    assert [one["path"] for one in machine.report("stats", machine.dir)["unstored"]] == ["/victim"]
    assert "/victim: " in machine.run("stats", machine.dir).stdout
    (machine.dir / "later").write_bytes(b"important, too")
    assert "1 file is not in the store: /victim: " in machine.fail("umount", machine.dir)
    assert not machine.dir.is_mount()
    newest = machine.report("snapshot", "list", machine.url)[-1]["id"]
    assert shown(machine, newest, "later") == b"important, too"
    second.fail("mount", second.url, second.dir)  # the volume is still held
    machine.mount()
    (machine.dir / "victim").write_bytes(b"written anew")
    machine.umount()
    second.mount()
    assert (second.dir / "victim").read_bytes() == b"written anew"
    second.umount()


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_remote_fsync_fails_only_for_the_unstorable_file(machine: CliMachine) -> None:
    machine.mkfs()
    machine.mount()
    os.close(lose_staged_bytes(machine))
    machine.fail("umount", machine.dir)
    machine.mount("--fsync", "remote")
    with open(machine.dir / "other", "wb") as file:
        file.write(b"important")
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(machine.dir / "victim", os.O_RDWR)
    with pytest.raises(OSError, match="Input/output"):
        os.fsync(descriptor)
    os.close(descriptor)
    (machine.dir / "victim").unlink()
    machine.umount()
