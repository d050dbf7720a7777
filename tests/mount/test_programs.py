# SPDX-License-Identifier: GPL-3.0-or-later
"""Common programs work inside a mount, and find the same data after a remount without caches."""

import mmap
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import CliMachine
from .test_trees import make_tree, tree_state

pytestmark = pytest.mark.frontend("kernel", "llfuse")


@pytest.fixture
def mounted(machine: CliMachine) -> Iterator[CliMachine]:
    machine.mkfs()
    machine.mount()
    yield machine
    machine.umount()


def remount(machine: CliMachine) -> None:
    machine.umount()
    machine.forget_everything()
    machine.mount()


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"{program} is not installed: ./dev test installs it", pytrace=False)
    return found


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = [need("git"), "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_git_clone_commit_and_fsck(mounted: CliMachine) -> None:
    origin = mounted.root / "origin"
    make_tree(origin)
    (origin / "fifo").unlink()
    git(origin, "init", "-q")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "one")
    clone = mounted.dir / "clone"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(origin), str(clone)], check=True)
    (clone / "new").write_text("new")
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "two")
    git(clone, "gc", "-q")
    remount(mounted)
    git(clone, "fsck", "--strict")
    assert git(clone, "status", "--short") == ""
    assert git(clone, "log", "--format=%s").split() == ["two", "one"]


def test_rsync_copies_everything_once(mounted: CliMachine) -> None:
    need("rsync")
    make_tree(mounted.root / "tree")
    command = ["rsync", "-aHAX", "--itemize-changes", f"{mounted.root}/tree/", f"{mounted.dir}/copy/"]
    subprocess.run(command, check=True, capture_output=True)
    remount(mounted)
    assert tree_state(mounted.dir / "copy") == tree_state(mounted.root / "tree")
    again = subprocess.run([*command[:3], "--checksum", *command[3:]], check=True, capture_output=True)
    assert again.stdout == b""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_keeps_every_transaction(mounted: CliMachine, journal: str) -> None:
    path = mounted.dir / "database"
    with sqlite3.connect(path) as database:
        assert database.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    database.close()

    def insert() -> None:
        connection = sqlite3.connect(path, timeout=60)
        for _ in range(20):
            with connection:
                connection.execute("INSERT INTO t (b) VALUES (?)", (os.urandom(5000),))
        connection.close()

    threads = [threading.Thread(target=insert) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    remount(mounted)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*) FROM t").fetchone() == (60,)
    database.close()


def test_writes_through_a_mapping_reach_the_file(mounted: CliMachine) -> None:
    with open(mounted.dir / "file", "w+b") as file:
        file.truncate(1 << 20)
        with mmap.mmap(file.fileno(), 1 << 20) as mapped:
            mapped[70_000:70_005] = b"hello"
            mapped.flush()
    remount(mounted)
    data = (mounted.dir / "file").read_bytes()
    assert data == bytes(70_000) + b"hello" + bytes((1 << 20) - 70_005)


def test_setxattr_obeys_create_and_replace(mounted: CliMachine) -> None:
    path = mounted.dir / "file"
    path.touch()
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    with pytest.raises(OSError, match="No data"):
        os.setxattr(path, "user.b", b"2", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"3", os.XATTR_REPLACE)
    remount(mounted)
    assert os.listxattr(path) == ["user.a"]
    assert os.getxattr(path, "user.a") == b"3"


def test_a_listing_is_complete_while_files_are_deleted(mounted: CliMachine) -> None:
    folder = mounted.dir / "folder"
    folder.mkdir()
    names = {f"file {number}" for number in range(3000)}
    for name in names:
        (folder / name).touch()
    seen = []
    with os.scandir(folder) as listing:
        for entry in listing:
            seen.append(entry.name)
            (folder / entry.name).unlink()
    assert sorted(seen) == sorted(names)
    assert list(folder.iterdir()) == []
    folder.rmdir()


def test_a_cached_absent_name_is_found_after_creation(mounted: CliMachine) -> None:
    path = mounted.dir / "file"
    assert not path.exists()
    path.touch()
    assert path.exists()
    path.rename(mounted.dir / "other")
    assert not path.exists()
    os.link(mounted.dir / "other", path)
    assert path.stat().st_nlink == 2


def test_a_removed_open_file_is_readable_to_its_end(mounted: CliMachine) -> None:
    data = os.urandom(2_000_000)
    (mounted.dir / "file").write_bytes(data)
    mounted.run("flush", mounted.dir)
    with open(mounted.dir / "file", "rb") as file:
        (mounted.dir / "file").unlink()
        assert file.read() == data


def test_concurrent_copies_are_complete(mounted: CliMachine) -> None:
    make_tree(mounted.root / "tree")
    copies = [subprocess.Popen(["cp", "-a", mounted.root / "tree", mounted.dir / str(number)]) for number in range(6)]
    assert [copy.wait(60) for copy in copies] == [0] * 6
    expected = tree_state(mounted.root / "tree")
    remount(mounted)
    for number in range(6):
        assert tree_state(mounted.dir / str(number)) == expected
