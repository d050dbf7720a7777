# SPDX-License-Identifier: GPL-3.0-or-later
"""Listing directories from any cookie."""

import errno
import stat

import pytest

from cas3fs.filesystem import EntryWithInode, FileSystem
from tests.filesystem.machine import ROOT
from tests.filesystem.usage import make_file, refused


def test_readdir_gives_every_name_once_from_any_cookie(fs: FileSystem) -> None:
    wanted = [b"%04d" % number for number in range(2500)]
    for name in wanted:
        fs.mknod(1, name, stat.S_IFREG | 0o644, 0, ROOT)
    handle = fs.opendir(1)
    entries = list(fs.readdir(handle, 0))
    assert [name for name, _, _ in entries] == wanted
    for start in (0, 1, 999, 1000, 1001, 2499):
        again = [name for name, _, _ in fs.readdir(handle, entries[start][2])]
        assert again == wanted[start + 1 :]
    fs.releasedir(handle)


@pytest.mark.promise("a-listing-shows-each-name-once")
def test_readdir_neither_skips_nor_repeats_what_stays_while_others_come_and_go(fs: FileSystem) -> None:
    stays = [b"stay%04d" % number for number in range(1500)]
    for number, name in enumerate(stays):
        make_file(fs, 1, name)
        make_file(fs, 1, b"go%04d" % number)
    handle = fs.opendir(1)
    seen, cookie = [], 0
    while True:
        some = [entry for _, entry in zip(range(7), fs.readdir(handle, cookie), strict=False)]
        if not some:
            break
        seen += [name for name, _, _ in some if name.startswith(b"stay")]
        cookie = some[-1][2]
        number = len(seen)
        fs.unlink(1, b"go%04d" % (number % 1500)) if number < 1500 and number % 2 else None
        if number == 700:
            fs.rename(1, b"go1499", 1, stays[1400])  # over a name that is still to come
    assert seen == stays
    fs.releasedir(handle)


def test_readdir_starts_anew_from_the_beginning(fs: FileSystem) -> None:
    make_file(fs, 1, b"a")
    handle = fs.opendir(1)
    assert [name for name, _, _ in fs.readdir(handle, 0)] == [b"a"]
    make_file(fs, 1, b"b")
    assert [name for name, _, _ in fs.readdir(handle, 0)] == [b"a", b"b"]
    fs.releasedir(handle)


def test_names_can_be_asked_for_from_any_cookie_in_any_number(fs: FileSystem) -> None:
    made = [fs.mkdir(1, b"%d" % number, 0o755, ROOT).number for number in range(50)]
    handle = fs.opendir(1)
    cookies = [0, *(cookie for cookie, *_ in fs.list_names(handle, 0, 100))]
    for begin in (0, 1, 30, 49, 50):
        for limit in (1, 7, 100):
            found = fs.list_names(handle, cookies[begin], limit)
            assert [number for _, _, number, _ in found] == made[begin : begin + limit]
            assert all(stat.S_ISDIR(mode) for *_, mode in found)
    fs.releasedir(handle)


def test_only_entries_that_are_taken_count_as_looked_up(fs: FileSystem) -> None:
    made = [make_file(fs, 1, b"%d" % number).number for number in range(5)]
    fs.forget([(number, 1) for number in made])
    handle = fs.opendir(1)
    given: list[int] = []

    def take(entries: list[EntryWithInode]) -> int:
        given.extend(inode.number for _, _, inode in entries)
        return 3

    taken = fs.list_into(handle, 0, 4, take)
    assert given == made[:4]
    assert [inode.number for _, _, inode in taken] == made[:3]
    for number in range(5):
        fs.unlink(1, b"%d" % number)
    fs.commit()
    assert [fs.getattr(number).nlink for number in made[:3]] == [0, 0, 0]  # the kernel may still ask for them
    for number in made[3:]:
        refused(errno.ENOENT, fs.getattr, number)
    fs.releasedir(handle)


def test_a_listing_shows_what_was_just_made_and_not_what_was_just_removed(fs: FileSystem) -> None:
    make_file(fs, 1, b"old")
    fs.commit()
    handle = fs.opendir(1)
    fs.unlink(1, b"old")
    make_file(fs, 1, b"new")
    assert [name for _, name, *_ in fs.list_names(handle, 0, 10)] == [b"new"]
    fs.releasedir(handle)
