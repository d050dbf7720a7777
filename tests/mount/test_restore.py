# SPDX-License-Identifier: GPL-3.0-or-later
"""On a real mount, what is in a snapshot is found, compared and brought back by command; programs see it at once."""

import json
import os
from pathlib import Path

import pytest

from .conftest import CliMachine

pytestmark = [pytest.mark.encryption("plain", "encrypted"), pytest.mark.frontend("kernel", "llfuse")]


def tree(machine: CliMachine) -> Path:
    """A mounted volume with a small tree, and a snapshot of it called before."""
    machine.mkfs()
    machine.mount("--snapshot-interval", "0")
    folder = machine.dir / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "file").write_text("one")
    (folder / "deep" / "same").hardlink_to(folder / "file")
    (folder / "link").symlink_to("file")
    (folder / "file").chmod(0o640)
    os.utime(folder / "file", (5, 7))
    machine.run("snapshot", "create", machine.dir, "--name", "before")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def remove(folder: Path) -> None:
    for path in (folder / "deep" / "same", folder / "file", folder / "link"):
        path.unlink()
    (folder / "deep").rmdir()
    folder.rmdir()


def test_a_deleted_tree_is_there_again_as_soon_as_the_command_returns(machine: CliMachine) -> None:
    folder = tree(machine)
    remove(folder)
    machine.run("gc", machine.dir, "--grace", "0s")
    assert not folder.exists()  # the kernel knows that there is no such name,
    assert names(machine.dir) == []  # and what the directory has
    assert "as in snapshot" in machine.run("restore", folder).stdout
    assert names(machine.dir) == ["folder"]
    assert names(folder) == ["deep", "file", "link"]
    assert (folder / "file").read_text() == (folder / "deep" / "same").read_text() == "one"
    status = (folder / "file").stat()
    assert (status.st_nlink, status.st_mode & 0o777, status.st_mtime) == (2, 0o640, 7)
    assert (folder / "link").readlink() == Path("file")
    machine.umount()
    machine.run("fsck", "--verify-data", machine.url)


def test_what_is_there_is_not_replaced_unless_asked_for_and_then_kept(machine: CliMachine) -> None:
    folder = tree(machine)
    with open(folder / "file", "r+") as held:
        held.write("two")
        held.flush()
        assert "exists" in machine.fail("restore", folder / "file", "--snapshot", "before", status=2)
        told = machine.run("restore", folder / "file", "--snapshot", "before", "--overwrite").stdout
        assert "kept as file.replaced" in told
        held.seek(0)
        assert held.read() == "two"
    assert ((folder / "file").read_text(), (folder / "file.replaced").read_text()) == ("one", "two")
    machine.run("restore", folder, "--snapshot", "before", "--to", machine.dir / "copy")
    assert (machine.dir / "copy" / "file").read_text() == "one"
    assert names(machine.dir) == ["copy", "folder"]


def test_a_file_whose_folder_is_gone_says_what_to_do(machine: CliMachine) -> None:
    folder = tree(machine)
    remove(folder)
    assert "no folder folder: restore that" in machine.fail("restore", folder / "file", status=2)
    assert "is not in a mount of cas3fs" in machine.fail("restore", machine.root / "elsewhere")
    assert "use `cas3fs snapshot extract`" in machine.fail("restore", folder, "--to", machine.root / "x", status=2)


def test_history_find_ls_and_diff_tell_the_same_mounted_and_not(machine: CliMachine) -> None:
    folder = tree(machine)
    (folder / "file").write_text("three")
    (folder / "new").write_text("")
    machine.run("snapshot", "create", machine.dir, "--name", "after")
    commands = (
        ("history", machine.dir / "folder" / "file"),
        ("snapshot", "find", machine.dir, "*e"),
        ("snapshot", "ls", machine.dir, "before", "folder"),
        ("snapshot", "diff", machine.dir, "before", "after", "folder"),
    )
    mounted = [machine.run(*one, "--json", status=int("diff" in one)).stdout for one in commands]
    machine.umount()
    offline = [machine.run(*_of_url(machine, *one), "--json", status=int("diff" in one)).stdout for one in commands]
    assert offline == mounted
    versions, found, entries, changes = map(json.loads, mounted)
    assert [one["size"] for one in versions] == [5, 3]
    assert [one["path"] for one in found] == ["folder/deep/same", "folder/file"]
    assert [one["name"] for one in entries] == ["deep", "file", "link"]
    assert [(one["change"], one["path"]) for one in changes] == [
        ("changed", "folder/deep/same"),
        ("changed", "folder/file"),
        ("added", "folder/new"),
    ]


def _of_url(machine: CliMachine, *arguments: str | Path) -> list[str | Path]:
    """The same command for the volume that is not mounted."""
    if arguments[0] == "history":
        return ["history", machine.url, "folder/file"]
    return [machine.url if one == machine.dir else one for one in arguments]


def test_diff_ends_as_diff_does_and_compares_what_is_there_now(machine: CliMachine) -> None:
    folder = tree(machine)
    assert machine.run("snapshot", "diff", machine.dir, "before", "now").stdout == ""
    (folder / "file").rename(folder / "moved")
    told = machine.run("snapshot", "diff", machine.dir, "before", "now", status=1).stdout
    assert told == "R folder/file -> folder/moved\n"
    (folder / "later").touch()
    told = machine.run("snapshot", "diff", machine.dir, "latest", "now", status=1).stdout
    assert told == "+ folder/later  0 B\n"
    assert "has no snapshot 'none'" in machine.fail("snapshot", "diff", machine.dir, "none", status=2)
    machine.umount()
    assert "there is no `now`" in machine.fail("snapshot", "diff", machine.url, "before", "now", status=2)


def test_selectors_work_where_a_snapshot_is_named(machine: CliMachine, tmp_path: Path) -> None:
    folder = tree(machine)
    remove(folder)
    machine.run("snapshot", "create", machine.dir)
    assert json.loads(machine.run("snapshot", "show", machine.dir, "before", "--json").stdout)["name"] == "before"
    machine.run("snapshot", "extract", machine.dir, "1-1", "folder/file", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "one"
    assert "newest" in machine.fail("snapshot", "delete", machine.dir, "latest")
    assert "cannot be named" in machine.fail("snapshot", "create", machine.dir, "--name", "latest", status=2)
    assert "as old as '@1w'" in machine.fail("snapshot", "delete", machine.dir, "@1w")
    (past := machine.root / "past").mkdir()
    machine.run("mount", machine.url, past, "--snapshot", "before")
    assert (past / "folder" / "file").read_text() == "one"
    machine.run("umount", past)
    assert "deleted 00000001-0000000001" in machine.run("snapshot", "delete", machine.dir, "before").stdout
