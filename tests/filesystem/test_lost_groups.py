# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite fails at any statement: nothing that was acknowledged is lost, and no operation happens by half."""

import errno
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.errors import FileSystemError, IndexDatabaseError, errno_of
from cas3fs.filesystem import FileSystem, FileSystemSettings
from cas3fs.filesystem.operations.renames import RenameFlag
from cas3fs.index.checks import IndexChecker
from cas3fs.testing.sqlite_faults import SqliteFault, SqliteFaults, sqlite_faults
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import content, index_of, make_file, names_in, refused, until

INDEX, STAGING = "/machine/index.sqlite", "/machine/staging.sqlite"
KINDS = [SqliteFault.FULL, SqliteFault.FULL_STATEMENT, SqliteFault.IOERR, SqliteFault.NOMEM]
SEEDS = range(6)
STEPS = 60
SQLITE_ERRORS = (IndexDatabaseError,)
NEVER = FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600, storers=0)
STORING = FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600, storers=1)


@pytest.fixture
def faults() -> Iterator[SqliteFaults]:
    with sqlite_faults() as made:
        yield made


@pytest.fixture
def machine(faults: SqliteFaults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr("cas3fs.index.sqlite.LOG_RESERVE_BYTES", 1 << 20)  # the disk is copied often
    made = Machine(tmp_path / "machine")
    yield made
    made.close()


@pytest.mark.promise("a-lost-transaction-is-noticed")
def test_a_lookup_that_loses_the_group_makes_the_mount_read_only_until_it_is_redone(
    machine: Machine, faults: SqliteFaults
) -> None:
    fs = machine.mount(NEVER)
    make_file(fs, 1, b"old", b"content")
    fs.commit()
    fs.rename(1, b"old", 1, b"renamed")
    with faults.on(SqliteFault.IOERR, times=None, file=INDEX):
        with pytest.raises(IndexDatabaseError):
            fs.lookup(1, b"absent")
        assert "disk I/O error" in fs.read_only_reason
        refused(errno.EROFS, make_file, fs, 1, b"newer")
        with pytest.raises(IndexDatabaseError):
            fs.commit()
        crashed = machine.copy_of_the_disk()
    fs.commit()
    assert not fs.read_only
    make_file(fs, 1, b"newer")
    assert names_in(fs, 1) == [b"renamed", b"newer"]
    assert names_in(crashed.mount(), 1) == [b"old"], "as of the last commit"
    crashed.close()


def test_a_mount_is_writable_again_by_itself_when_its_disk_is(machine: Machine, faults: SqliteFaults) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f")
    fs.symlink(1, b"link", b"target", ROOT)
    with faults.on(SqliteFault.FULL, times=None, file=INDEX), pytest.raises(IndexDatabaseError):
        fs.commit()
    assert fs.read_only
    until(lambda: not fs.read_only)
    assert names_in(fs, 1) == [b"f", b"link"]


@pytest.mark.promise("a-lost-transaction-is-noticed")
def test_a_symlink_that_the_full_database_cannot_take_fails_alone(machine: Machine) -> None:
    fs = machine.mount(NEVER)
    for number in range(5):
        make_file(fs, 1, b"before%d" % number)
    fs.commit()
    for number in range(5):
        fs.rename(1, b"before%d" % number, 1, b"moved%d" % number)
    connection = index_of(fs)._database.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")  # what a full disk does
    with pytest.raises(IndexDatabaseError) as caught:
        for number in range(300):
            fs.symlink(1, b"link%d" % number, b"t" * 4000, ROOT)
    assert errno_of(caught.value) == errno.ENOSPC
    made = number
    connection.execute("PRAGMA max_page_count=1000000")
    fs.commit()
    assert not fs.read_only
    names = [*(b"moved%d" % number for number in range(5)), *(b"link%d" % number for number in range(made))]
    assert names_in(fs, 1) == names
    crashed = machine.copy_of_the_disk()
    assert names_in(crashed.mount(), 1) == names
    crashed.close()


@pytest.mark.promise("a-lost-transaction-is-noticed")
@pytest.mark.parametrize("seed", SEEDS)
def test_random_errors_of_sqlite_lose_nothing_acknowledged_and_half_do_nothing(
    machine: Machine, faults: SqliteFaults, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cas3fs.filesystem.state.dentry_cache._CAPACITY", 0 if seed % 2 else 100_000)
    chance = random.Random(seed)
    user = User(machine.mount(NEVER), chance)
    states = [user.expected()]
    """What a crash may leave: what the last commit acknowledged, or what one that failed may have written."""
    for _ in range(STEPS):
        kind, file = chance.choice(KINDS), chance.choice([INDEX, INDEX, STAGING])
        with faults.on(kind, at=chance.randrange(1, 12), times=chance.choice([1, 1, 3]), file=file):
            user.act()
            if chance.random() < 0.3:
                states = [user.expected()] if user.commits() else [*states, user.expected()]
        if chance.random() < 0.05:
            assert tree_after_a_crash(machine) in states
        if chance.random() < 0.1:
            user.look()
            states = [user.expected()]
    user.look()
    assert user.commits()
    assert tree_of(user.fs) == user.expected()
    assert tree_after_a_crash(machine) == user.expected()


@pytest.mark.promise("a-lost-transaction-is-noticed")
@pytest.mark.parametrize("seed", SEEDS)
def test_files_stored_while_sqlite_fails_at_random_are_whole(machine: Machine, faults: SqliteFaults, seed: int) -> None:
    chance = random.Random(seed)
    user = User(machine.mount(STORING), chance, stores=True)
    for _ in range(STEPS):
        kind, file = chance.choice(KINDS), chance.choice([INDEX, INDEX, STAGING])
        with faults.on(kind, at=chance.randrange(1, 20), times=chance.choice([1, 1, 3]), file=file):
            user.act()
            if chance.random() < 0.2 and user.commits() and chance.random() < 0.3:
                assert tree_after_a_crash(machine) == user.expected()
    user.look()
    assert tree_after_a_crash(machine) == user.expected()
    user.fs.store_all()
    assert user.fs.pending().files == 0
    assert tree_after_a_crash(machine) == user.expected()


Tree = dict[bytes, bytes | str]


class User:
    """A program that makes files, links and folders in the root, and knows what there should be."""

    def __init__(self, fs: FileSystem, chance: random.Random, *, stores: bool = False) -> None:
        self.fs = fs
        self._stores = stores
        self._chance = chance
        self._files: Tree = {}
        self._number = 0

    def expected(self) -> Tree:
        return dict(self._files)

    def commits(self) -> bool:
        try:
            self.fs.commit()
        except SQLITE_ERRORS:
            return False
        return True

    def act(self) -> None:
        """One operation; its error is that nothing happened."""
        acts = [
            *(self._create, self._symlink, self._rename, self._replace, self._link, self._unlink, self._mark),
            *(self._exchange, self._leave_a_whiteout, self._name_later),
        ]
        if self._stores:
            acts += [self._rewrite, self._rewrite, self._store, self._store]
        act = self._chance.choice(acts)
        try:
            act()
        except SQLITE_ERRORS:
            pass
        except FileSystemError as error:
            assert error.errno == errno.EROFS, act
            assert self.fs.read_only

    def look(self) -> None:
        """What programs see is what there should be, as soon as it can be seen."""
        self.fs.commit()
        assert tree_of(self.fs) == self._files

    def _new(self) -> bytes:
        self._number += 1
        return b"n%d" % self._number

    def _old(self) -> bytes:
        return self._chance.choice([*self._files]) if self._files else self._new()

    def _create(self) -> None:
        name = self._new()
        handle = self.fs.create(1, name, 0o644, os.O_RDWR, ROOT)[1]
        self._files[name] = b""
        self.fs.write(handle, 0, name)
        self._files[name] = name
        self.fs.release(handle)

    def _symlink(self) -> None:
        name = self._new()
        self.fs.symlink(1, name, b"to-" + name, ROOT)
        self._files[name] = "to-" + name.decode()

    def _rename(self) -> None:
        old, new = self._old(), self._new()
        if old in self._files:
            self.fs.rename(1, old, 1, new)
            self._files[new] = self._files.pop(old)

    def _replace(self) -> None:
        old, new = self._old(), self._old()
        if old in self._files and new in self._files and old != new:
            same = self.fs.lookup(1, old).number == self.fs.lookup(1, new).number
            self.fs.rename(1, old, 1, new)
            if not same:
                self._files[new] = self._files.pop(old)

    def _exchange(self) -> None:
        old, new = self._old(), self._old()
        if old in self._files and new in self._files:
            self.fs.rename(1, old, 1, new, RenameFlag.EXCHANGE)
            self._files[old], self._files[new] = self._files[new], self._files[old]

    def _leave_a_whiteout(self) -> None:
        old, new = self._old(), self._new()
        if old in self._files:
            self.fs.rename(1, old, 1, new, RenameFlag.WHITEOUT)
            self._files[new], self._files[old] = self._files[old], "a whiteout"

    def _name_later(self) -> None:
        name = self._new()
        inode, handle = self.fs.tmpfile(1, 0o644, os.O_RDWR, ROOT)
        try:
            self.fs.write(handle, 0, name)
            self.fs.link(inode.number, 1, name)
            self._files[name] = name
        finally:
            self.fs.release(handle)

    def _link(self) -> None:
        old, new = self._old(), self._new()
        if old in self._files:
            self.fs.link(self.fs.lookup(1, old).number, 1, new)
            self._files[new] = self._files[old]

    def _unlink(self) -> None:
        old = self._old()
        if old in self._files:
            self.fs.unlink(1, old)
            del self._files[old]

    def _rewrite(self) -> None:
        old = self._old()
        if not isinstance(self._files.get(old), bytes):
            return
        number, data = self.fs.lookup(1, old).number, old * self._chance.randrange(1, 5000)
        names = [name for name in self._files if self.fs.lookup(1, name).number == number]
        handle = self.fs.open(number, os.O_WRONLY, ROOT)
        self.fs.write(handle, 0, data)
        for name in names:
            self._files[name] = data + bytes(self._files[name])[len(data) :]  # type: ignore[arg-type]
        self.fs.release(handle)

    def _store(self) -> None:
        self.fs.store_all()

    def _mark(self) -> None:
        old = self._old()
        if old in self._files:
            self.fs.setxattr(self.fs.lookup(1, old).number, b"user.mark", b"x")


def tree_of(fs: FileSystem) -> Tree:
    names = names_in(fs, 1)
    assert len(names) == len(set(names))
    return {name: _shown(fs, name) for name in names}


def _shown(fs: FileSystem, name: bytes) -> bytes | str:
    inode = fs.lookup(1, name)
    if stat.S_ISCHR(inode.mode):
        return "a whiteout"
    return fs.readlink(inode.number).decode() if inode.mode & 0o170000 == 0o120000 else content(fs, name)


def tree_after_a_crash(machine: Machine) -> Tree:
    crashed = machine.copy_of_the_disk()
    try:
        fs = crashed.mount(NEVER)
        tree = tree_of(fs)
        with IndexChecker(fs.index_path) as checker:
            for code in ("name-without-inode", "inode-without-name", "wrong-link-count"):
                assert checker.defects(code) == []
        return tree
    finally:
        crashed.close()
