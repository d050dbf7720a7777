# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs du`` by command: of real mounts, of volumes that are not mounted, and what it promises about deleting."""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from cas3fs.control import SOCKET_NAME, ControlClient

from .conftest import CliMachine

pytestmark = pytest.mark.encryption("plain", "encrypted")

SIZE = 200_000
RANDOM = random.Random(3)


def noise(size: int = SIZE) -> bytes:
    return RANDOM.randbytes(size)


def du(machine: CliMachine, *arguments: str | Path) -> dict[str, dict[str, Any]]:
    """The rows of ``du --json`` by path."""
    return {row["path"]: row for row in machine.report("du", *arguments)}


def figures(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "path"}


def clone(source: Path, destination: Path) -> None:
    with source.open("rb") as read, destination.open("wb") as written:
        while os.copy_file_range(read.fileno(), written.fileno(), SIZE):
            pass


@pytest.fixture
def filled(machine: CliMachine) -> CliMachine:
    """A mount without snapshots but those that a test takes; folder ``a`` shares data with ``b``."""
    machine.mkfs()
    machine.mount("--snapshot-interval", "0")
    a, b = machine.dir / "a", machine.dir / "b"
    (a / "sub").mkdir(parents=True)
    b.mkdir()
    (a / "own").write_bytes(noise())
    (a / "twice").write_bytes(noise())
    shutil.copyfile(a / "twice", a / "sub" / "twice again")
    (a / "cloned").write_bytes(noise())
    machine.run("flush", machine.dir)
    clone(a / "cloned", b / "clone")
    (a / "linked").write_bytes(noise())
    os.link(a / "linked", b / "link")
    (a / "one").write_bytes(noise())
    os.link(a / "one", a / "sub" / "other name")
    with (a / "sparse").open("wb") as file:
        file.truncate(10 * SIZE)
        file.seek(5 * SIZE)
        file.write(noise(1000))
    machine.run("flush", machine.dir)
    return machine


def test_it_counts_what_a_tree_has_alone_and_what_it_shares(filled: CliMachine) -> None:
    a, b = filled.dir / "a", filled.dir / "b"
    found = du(filled, a, b, filled.dir)
    whole, other = found[str(a)], found[str(b)]
    assert (whole["files"], whole["folders"]) == (7, 2)
    assert whole["logical_bytes"] == 6 * SIZE + 10 * SIZE
    assert whole["allocated_bytes"] - 6 * SIZE in range(1000, SIZE)
    # random data is not compressed: 5 different files, and a little for each block and the sparse file
    assert whole["stored_bytes"] - 5 * SIZE in range(1000, SIZE // 10)
    assert whole["unique_bytes"] - 3 * SIZE in range(1000, SIZE // 10)
    assert other["stored_bytes"] >= other["logical_bytes"] == 2 * SIZE
    assert (other["unique_bytes"], other["held_bytes"]) == (0, 0)
    everything = found[str(filled.dir)]
    assert everything["stored_bytes"] == everything["unique_bytes"] == whole["stored_bytes"]
    assert everything["held_bytes"] == everything["unique_bytes"]
    stats = filled.report("stats", filled.dir)
    assert stats["stored_bytes"] == everything["stored_bytes"]
    assert stats["logical_bytes"] == everything["logical_bytes"]


def test_the_unique_bytes_are_what_deleting_the_tree_frees(filled: CliMachine) -> None:
    unique = du(filled, filled.dir / "a")[str(filled.dir / "a")]["unique_bytes"]
    before = filled.report("stats", filled.dir)["stored_bytes"]
    shutil.rmtree(filled.dir / "a")
    filled.run("flush", filled.dir)
    filled.run("gc", filled.dir, "--grace", "0s")
    assert before - filled.report("stats", filled.dir)["stored_bytes"] == unique


def test_snapshots_hold_what_they_were_taken_with_and_nothing_later(filled: CliMachine) -> None:
    (filled.dir / "later").write_bytes(noise())
    filled.run("snapshot", "create", filled.dir)
    (filled.dir / "latest").write_bytes(noise())
    with (filled.dir / "latest").open("ab") as file:
        os.fsync(file.fileno())
    wait_until_stored(filled)
    found = du(filled, filled.dir / "later", filled.dir / "latest")
    later, latest = found[str(filled.dir / "later")], found[str(filled.dir / "latest")]
    assert later["held_bytes"] == later["unique_bytes"] >= SIZE
    assert (latest["held_bytes"], latest["unique_bytes"] >= SIZE) == (0, True)


def wait_until_stored(machine: CliMachine) -> None:
    """Returns when nothing is staged; a snapshot is not taken for that."""
    with ControlClient(next(machine.state.glob("*/mount.json")).with_name(SOCKET_NAME)) as client:
        client.call("store")


@pytest.mark.parametrize("anew", [False, True], ids=["by the local index", "on another machine"])
def test_a_volume_that_is_not_mounted_has_the_same_figures(filled: CliMachine, anew: bool) -> None:
    mounted = du(filled, "--depth", "2", filled.dir)
    filled.umount()
    if anew:
        filled.forget_everything()
    offline = du(filled, "--depth", "2", filled.url)
    assert {name.removeprefix(f"{filled.url}:") for name in offline} == {filled.url, "/a", "/a/sub", "/b"}
    assert list(map(figures, mounted.values())) == list(map(figures, offline.values()))
    (below,) = du(filled, f"{filled.url}:/a/sub").values()
    assert figures(below) | {"depth": 2} == figures(offline[f"{filled.url}:/a/sub"])


def test_what_is_not_stored_yet_counts_as_stat_shows_it(machine: CliMachine) -> None:
    machine.mkfs()
    machine.mount("--snapshot-interval", "0")
    (machine.dir / "folder").mkdir()
    path = machine.dir / "folder" / "open"
    with path.open("wb") as file:
        file.truncate(5 * SIZE)
        file.write(noise())
        file.flush()
        (row,) = du(machine, machine.dir / "folder").values()
        status = path.stat()
        assert row["logical_bytes"] == status.st_size == 5 * SIZE
        assert row["allocated_bytes"] == SIZE
        assert status.st_blocks == -(-SIZE // 512)
        assert (row["unstored_files"], row["unstored_bytes"], row["stored_bytes"]) == (1, SIZE, 0)
        shown = machine.run("du", machine.dir / "folder").stdout
        assert f"Not stored yet, so neither in stored nor in unique: 195.3 KiB in 1 file of {path.parent}" in shown


def test_rows_come_in_the_order_that_is_asked_for(filled: CliMachine) -> None:
    (filled.dir / "b" / "more").write_bytes(noise())

    def paths(*arguments: str) -> list[str]:
        found = du(filled, filled.dir, "--depth", "5", *arguments)
        return [str(Path(path).relative_to(filled.dir)) for path in found]

    assert paths() == [".", "a", "b", "a/sub"]
    assert paths("--sort", "path") == [".", "a", "a/sub", "b"]
    assert paths("--sort", "unique") == [".", "a", "a/sub", "b"]
    lines = filled.run("du", "--depth", "1", filled.dir).stdout.splitlines()
    assert lines[0].split() == ["size", "allocated", "stored", "unique", "in", "snapshots", "path"]
    assert [line.split()[-1] for line in lines[1:4]] == [str(filled.dir / name) for name in ("", "a", "b")]


def test_a_symbolic_link_counts_itself(filled: CliMachine) -> None:
    (filled.dir / "link").symlink_to("a")
    (row,) = du(filled, filled.dir / "link").values()
    assert (row["files"], row["folders"], row["logical_bytes"]) == (1, 0, 1)


def test_names_that_are_not_text_are_shown(machine: CliMachine) -> None:
    machine.mkfs()
    machine.mount()
    (machine.dir / os.fsdecode(b"\xff\n")).mkdir()
    found = du(machine, machine.dir, "--depth", "1")
    assert f"{machine.dir}/\udcff\n" in found
    shown = machine.run("du", machine.dir, "--depth", "1").stdout.splitlines()
    assert rf"{machine.dir}/\udcff\n" in [line.split()[-1] for line in shown[:3]]


def test_what_is_no_path_of_a_volume_is_refused_in_one_line(filled: CliMachine) -> None:
    assert "No such file" in filled.fail("du", filled.dir / "none")
    assert "is not in a mount of cas3fs" in filled.fail("du", filled.root)
    assert "the volume has no /none" in filled.fail("du", f"{filled.url}:/none", status=2)
    assert "Missing argument" in filled.run("du", status=2).stderr


def test_a_mount_whose_process_is_gone_is_named(machine: CliMachine) -> None:
    machine.mkfs()
    machine.kill(machine.mount())
    assert "is gone; `cas3fs umount` cleans it up" in machine.fail("du", machine.dir / "a")


@pytest.mark.encryption("plain")
def test_it_works_on_each_kind_of_store(any_machine: CliMachine) -> None:
    machine = any_machine
    machine.mkfs()
    machine.mount()
    (machine.dir / "folder").mkdir()
    (machine.dir / "folder" / "file").write_bytes(noise())
    machine.run("flush", machine.dir)
    (mounted,) = du(machine, machine.dir / "folder").values()
    assert list(map(figures, du(machine, f"{machine.url}:/folder").values())) == [figures(mounted)]
    machine.umount()
    assert list(map(figures, du(machine, f"{machine.url}:/folder").values())) == [figures(mounted)]
    assert mounted["unique_bytes"] >= SIZE
