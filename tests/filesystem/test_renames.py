# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving names: rename(2), and what renameat2(2) adds."""

import errno
import stat
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError
from cas3fs.filesystem import FileSystem
from cas3fs.filesystem.operations.renames import RenameFlag
from tests.filesystem.machine import ROOT, USER, Machine
from tests.filesystem.usage import before_the_instant, index_of, make_file, names_in, refused, shown, take_checkpoint

NOREPLACE, EXCHANGE, WHITEOUT = RenameFlag.NOREPLACE, RenameFlag.EXCHANGE, RenameFlag.WHITEOUT


def test_rename_moves_a_name(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    fs.rename(1, b"f", made.number, b"g")
    assert fs.lookup(made.number, b"g").number == file.number
    refused(errno.ENOENT, fs.lookup, 1, b"f")


def test_rename_replaces_a_file_and_an_empty_directory(fs: FileSystem) -> None:
    old, new = make_file(fs, 1, b"old"), make_file(fs, 1, b"new")
    fs.rename(1, b"new", 1, b"old")
    assert fs.lookup(1, b"old").number == new.number
    assert fs.getattr(old.number).nlink == 0
    source = fs.mkdir(1, b"source", 0o755, ROOT)
    fs.mkdir(1, b"target", 0o755, ROOT)
    links = fs.getattr(1).nlink
    fs.rename(1, b"source", 1, b"target")
    assert fs.lookup(1, b"target").number == source.number
    assert fs.getattr(1).nlink == links - 1


def test_rename_refuses_what_posix_refuses(fs: FileSystem) -> None:
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    full = fs.mkdir(1, b"full", 0o755, ROOT)
    make_file(fs, full.number, b"x")
    make_file(fs, 1, b"f")
    refused(errno.ENOTEMPTY, fs.rename, 1, b"d", 1, b"full")
    refused(errno.ENOTDIR, fs.rename, 1, b"d", 1, b"f")
    refused(errno.EISDIR, fs.rename, 1, b"f", 1, b"d")
    refused(errno.ENOENT, fs.rename, 1, b"none", 1, b"f")
    below = fs.mkdir(made.number, b"below", 0o755, ROOT)
    refused(errno.EINVAL, fs.rename, 1, b"d", below.number, b"x")
    refused(errno.EINVAL, fs.rename, 1, b"d", made.number, b"x")


def test_rename_between_two_names_of_one_file_does_nothing(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    fs.link(file.number, 1, b"g")
    fs.rename(1, b"f", 1, b"g")
    assert names_in(fs, 1) == [b"f", b"g"]


def test_rename_changes_the_times_of_both_directories_and_the_ctime_of_what_moves(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    before = made.mtime_ns, file.ctime_ns, fs.getattr(1).mtime_ns
    fs.rename(1, b"f", made.number, b"f")
    assert fs.getattr(made.number).mtime_ns > before[0]
    assert fs.getattr(file.number).ctime_ns > before[1]
    assert fs.getattr(1).mtime_ns > before[2]


@pytest.mark.parametrize(
    "flags", [EXCHANGE | NOREPLACE, EXCHANGE | WHITEOUT, EXCHANGE | NOREPLACE | WHITEOUT, 8, 8 | NOREPLACE, 1 << 31]
)
def test_unknown_and_contradictory_flags_are_refused(fs: FileSystem, flags: int) -> None:
    make_file(fs, 1, b"a")
    make_file(fs, 1, b"b")
    refused(errno.EINVAL, fs.rename, 1, b"a", 1, b"b", flags)
    assert names_in(fs, 1) == [b"a", b"b"]


def test_noreplace_moves_to_a_free_name_only(fs: FileSystem) -> None:
    a, b = make_file(fs, 1, b"a"), make_file(fs, 1, b"b")
    refused(errno.EEXIST, fs.rename, 1, b"a", 1, b"b", NOREPLACE)
    refused(errno.EEXIST, fs.rename, 1, b"a", 1, b"a", NOREPLACE)
    refused(errno.ENOENT, fs.rename, 1, b"none", 1, b"b", NOREPLACE)
    fs.rename(1, b"a", 1, b"c", NOREPLACE)
    assert (fs.lookup(1, b"c").number, fs.lookup(1, b"b").number) == (a.number, b.number)
    assert names_in(fs, 1) == [b"c", b"b"]


class Exchanged:
    """``one/it`` and ``two/it`` after their exchange; each is a directory or a file."""

    def __init__(self, fs: FileSystem, *kinds: str) -> None:
        self.parents = [fs.mkdir(1, name, 0o755, ROOT).number for name in (b"one", b"two")]
        self.things = [
            (fs.mkdir(parent, b"it", 0o755, ROOT) if kind == "directory" else make_file(fs, parent, b"it")).number
            for parent, kind in zip(self.parents, kinds, strict=True)
        ]


@pytest.mark.promise("renames-have-flags")
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("kinds", [("file", "file"), ("directory", "file"), ("file", "directory"), ("directory",) * 2])
def test_exchange_swaps_names_links_and_parents(machine: Machine, kinds: tuple[str, str], committed: bool) -> None:
    fs = machine.mount()
    made = Exchanged(fs, *kinds)
    if committed:
        fs.commit()
        fs.drop_caches()
    one, two = made.parents
    fs.rename(one, b"it", two, b"it", EXCHANGE)
    for parent, thing, kind in zip(made.parents, reversed(made.things), reversed(kinds), strict=True):
        assert fs.lookup(parent, b"it").number == thing
        assert fs.getattr(parent).nlink == 2 + (kind == "directory")
        if kind == "directory":
            assert fs.lookup(thing, b"..").number == parent
    fs.commit()
    after = machine.copy_of_the_disk().mount()
    assert [after.lookup(parent, b"it").number for parent in made.parents] == made.things[::-1]
    assert [after.getattr(parent).nlink for parent in made.parents] == [
        2 + (kind == "directory") for kind in reversed(kinds)
    ]
    after.close()


def test_exchange_needs_both_names_and_makes_no_loop(fs: FileSystem) -> None:
    above = fs.mkdir(1, b"above", 0o755, ROOT).number
    below = fs.mkdir(above, b"below", 0o755, ROOT).number
    deep = fs.mkdir(below, b"deep", 0o755, ROOT).number
    make_file(fs, 1, b"f")
    refused(errno.ENOENT, fs.rename, 1, b"f", 1, b"none", EXCHANGE)
    refused(errno.ENOENT, fs.rename, 1, b"none", 1, b"f", EXCHANGE)
    refused(errno.EINVAL, fs.rename, 1, b"above", below, b"deep", EXCHANGE)
    refused(errno.EINVAL, fs.rename, below, b"deep", 1, b"above", EXCHANGE)
    refused(errno.EINVAL, fs.rename, above, b"below", 1, b"above", EXCHANGE)
    fs.rename(1, b"f", below, b"deep", EXCHANGE)
    assert fs.lookup(1, b"f").number == deep


def test_exchange_of_two_names_of_one_file_changes_nothing(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    fs.link(file.number, 1, b"g")
    before = fs.getattr(1).mtime_ns, fs.getattr(file.number).ctime_ns
    fs.rename(1, b"f", 1, b"g", EXCHANGE)
    assert (fs.getattr(1).mtime_ns, fs.getattr(file.number).ctime_ns) == before
    assert names_in(fs, 1) == [b"f", b"g"]


def test_exchange_keeps_both_entries_in_their_places(fs: FileSystem) -> None:
    for name in (b"a", b"b", b"c"):
        make_file(fs, 1, name)
    fs.rename(1, b"a", 1, b"c", EXCHANGE)
    assert names_in(fs, 1) == [b"a", b"b", b"c"]


@pytest.mark.promise("renames-have-flags")
def test_both_exchanged_files_are_shown_whole_in_a_checkpoint(machine: Machine, tmp_path: Path) -> None:
    """No snapshot shows a name with another content than it had before or after the exchange."""
    fs = machine.mount()
    make_file(fs, 1, b"f", b"old" * 1000)
    fs.store_all()

    def save_by_exchange() -> None:
        make_file(fs, 1, b"g", b"new" * 1000)
        fs.rename(1, b"g", 1, b"f", EXCHANGE)

    before_the_instant(fs, save_by_exchange)
    take_checkpoint(fs, tmp_path / "copy")
    assert shown(machine, tmp_path / "copy", b"f") == b"new" * 1000
    assert shown(machine, tmp_path / "copy", b"g") == b"old" * 1000


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_whiteout_stays_where_the_name_was(machine: Machine, taken: bool, elsewhere: bool) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"content")
    make_file(fs, 1, b"last")
    parent = fs.mkdir(1, b"d", 0o755, ROOT).number if elsewhere else 1
    if taken:
        make_file(fs, parent, b"g")
    fs.rename(1, b"f", parent, b"g", WHITEOUT, caller=USER)
    left = fs.lookup(1, b"f")
    assert (left.mode, left.rdev, left.nlink, left.uid, left.gid) == (stat.S_IFCHR, 0, 1, 1000, 1000)
    assert fs.lookup(parent, b"g").number == file.number
    assert names_in(fs, 1)[:2] == [b"f", b"last"]
    fs.commit()
    after = machine.copy_of_the_disk().mount()
    assert after.lookup(1, b"f").mode == stat.S_IFCHR
    assert after.lookup(parent, b"g").number == file.number
    after.close()


def test_a_whiteout_may_forbid_to_replace(fs: FileSystem) -> None:
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    make_file(fs, 1, b"g")
    refused(errno.EEXIST, fs.rename, 1, b"d", 1, b"g", WHITEOUT | NOREPLACE)
    fs.rename(1, b"d", 1, b"e", WHITEOUT | NOREPLACE)
    assert fs.lookup(1, b"e").number == made.number
    assert stat.S_ISCHR(fs.lookup(1, b"d").mode)
    assert fs.getattr(1).nlink == 3


@pytest.mark.promise("renames-have-flags")
def test_a_failed_statement_undoes_all_of_an_exchange(fs: FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make_file(fs, 1, b"a"), make_file(fs, 1, b"b")
    fs.commit()
    space = index_of(fs).namespace
    redirect, calls = space.redirect_entry, []

    def fails_the_second_time(parent: int, name: bytes, inode: int) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise IndexDatabaseError("the disk failed")
        redirect(parent, name, inode)

    monkeypatch.setattr(space, "redirect_entry", fails_the_second_time)
    with pytest.raises(IndexDatabaseError):
        fs.rename(1, b"a", 1, b"b", EXCHANGE)
    fs.drop_caches()
    assert (fs.lookup(1, b"a").number, fs.lookup(1, b"b").number) == (a.number, b.number)


def test_exchange_changes_the_times_of_both_directories_and_both_ctimes(fs: FileSystem) -> None:
    made = Exchanged(fs, "file", "directory")
    numbers = [*made.parents, *made.things]
    before = [(fs.getattr(number).mtime_ns, fs.getattr(number).ctime_ns) for number in numbers]
    fs.rename(made.parents[0], b"it", made.parents[1], b"it", EXCHANGE)
    after = [(fs.getattr(number).mtime_ns, fs.getattr(number).ctime_ns) for number in numbers]
    assert all(now[1] > then[1] for now, then in zip(after, before, strict=True))
    assert [now[0] > then[0] for now, then in zip(after, before, strict=True)] == [True, True, False, False]
