# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are made without a name (O_TMPFILE), and what a handle of a file leads to without its name."""

import errno
import os
import stat
from pathlib import Path

import pytest

from cas3fs.filesystem import FileSystem
from tests.filesystem.machine import ROOT, USER, Machine
from tests.filesystem.usage import before_the_instant, content, make_file, names_in, refused, shown, take_checkpoint


def test_an_unnamed_file_is_usable_and_in_no_directory(fs: FileSystem) -> None:
    before = fs.getattr(1).mtime_ns
    inode, handle = fs.tmpfile(1, 0o640, os.O_RDWR, USER)
    assert (inode.mode, inode.uid, inode.gid, inode.nlink) == (stat.S_IFREG | 0o640, 1000, 1000, 0)
    fs.write(handle, 0, b"content")
    fs.commit()
    assert bytes(fs.read(handle, 0, 10)) == b"content"
    assert names_in(fs, 1) == []
    assert fs.getattr(1).mtime_ns == before
    fs.release(handle)
    fs.forget([(inode.number, 1)])
    refused(errno.ENOENT, fs.getattr, inode.number)
    fs.commit()
    assert fs.staging.size_bytes == 0


def test_an_unnamed_file_takes_the_group_of_a_set_group_id_directory(fs: FileSystem) -> None:
    parent = fs.mkdir(1, b"d", 0o2775, ROOT)
    fs.setattr(parent.number, ROOT, gid=77, mode=0o2775)
    assert fs.tmpfile(parent.number, 0o600, os.O_RDWR, USER)[0].gid == 77


def test_an_unnamed_file_needs_a_directory_that_is_there(fs: FileSystem) -> None:
    refused(errno.ENOTDIR, fs.tmpfile, make_file(fs, 1, b"f").number, 0o600, os.O_RDWR, ROOT)
    gone = fs.mkdir(1, b"d", 0o755, ROOT).number
    fs.rmdir(1, b"d")
    refused(errno.ENOENT, fs.tmpfile, gone, 0o600, os.O_RDWR, ROOT)
    fs.turn_read_only("for the test")
    refused(errno.EROFS, fs.tmpfile, 1, 0o600, os.O_RDWR, ROOT)


@pytest.mark.parametrize("stored", [False, True])
def test_a_link_names_an_unnamed_file_for_good(machine: Machine, stored: bool) -> None:
    fs = machine.mount()
    inode, handle = fs.tmpfile(1, 0o600, os.O_RDWR, ROOT)
    fs.write(handle, 0, b"content" * 1000)
    if stored:
        fs.store_all()
    fs.link(inode.number, 1, b"f")
    assert inode.nlink == 1
    fs.release(handle)
    fs.forget([(inode.number, 2)])
    fs.commit()
    other = machine.copy_of_the_disk()
    assert content(other.mount(), b"f") == b"content" * 1000
    other.close()


def test_a_file_whose_last_name_went_gets_no_other(fs: FileSystem) -> None:
    inode, handle = fs.tmpfile(1, 0o600, os.O_RDWR, ROOT)
    fs.link(inode.number, 1, b"f")
    fs.unlink(1, b"f")
    refused(errno.ENOENT, fs.link, inode.number, 1, b"g")
    fs.release(handle)
    private, handle = fs.tmpfile(1, 0o600, os.O_RDWR | os.O_EXCL, ROOT)
    refused(errno.ENOENT, fs.link, private.number, 1, b"g")
    fs.release(handle)
    assert names_in(fs, 1) == []


@pytest.mark.promise("unnamed-files-work")
def test_an_unnamed_file_is_gone_after_a_crash(machine: Machine) -> None:
    fs = machine.mount()
    inode, handle = fs.tmpfile(1, 0o600, os.O_RDWR, ROOT)
    fs.write(handle, 0, b"x" * 300_000)
    fs.commit()
    other = machine.copy_of_the_disk()
    after = other.mount()
    refused(errno.ENOENT, after.getattr, inode.number)
    assert after.pending().files == 0
    other.close()


@pytest.mark.promise("unnamed-files-work")
def test_a_snapshot_shows_a_newly_named_file_whole(machine: Machine, tmp_path: Path) -> None:
    fs = machine.mount()

    def publish() -> None:
        inode, handle = fs.tmpfile(1, 0o600, os.O_RDWR, ROOT)
        fs.write(handle, 0, b"whole" * 1000)
        fs.link(inode.number, 1, b"f")
        fs.release(handle)

    before_the_instant(fs, publish)
    take_checkpoint(fs, tmp_path / "copy")
    assert shown(machine, tmp_path / "copy", b"f") == b"whole" * 1000


def test_names_and_unnamed_files_have_different_numbers(fs: FileSystem) -> None:
    numbers = []
    for count in range(5):
        numbers += [make_file(fs, 1, b"%d" % count).number, fs.tmpfile(1, 0o600, os.O_RDWR, ROOT)[0].number]
        fs.rename(1, b"%d" % count, 1, b"moved%d" % count, 4)  # the whiteout has a number, too
        numbers.append(fs.lookup(1, b"%d" % count).number)
    assert len(set(numbers)) == len(numbers)
    fs.commit()
    assert {fs.getattr(number).number for number in numbers} == set(numbers)


def test_dot_leads_to_any_inode_that_is_there(fs: FileSystem) -> None:
    made = [
        fs.mkdir(1, b"d", 0o755, ROOT),
        make_file(fs, 1, b"f"),
        fs.symlink(1, b"l", b"t", ROOT),
        fs.mknod(1, b"p", stat.S_IFIFO | 0o600, 0, ROOT),
    ]
    fs.commit()
    fs.drop_caches()
    for inode in made:
        assert fs.lookup(inode.number, b".").number == inode.number
    fs.unlink(1, b"f")  # and the kernel has not forgotten it yet
    for number in (made[1].number, 999, 2**63, 2**64 - 1):
        refused(errno.ENOENT, fs.lookup, number, b".")
    refused(errno.ENOTDIR, fs.lookup, made[2].number, b"..")


def test_a_generation_stays_and_tells_reused_numbers_apart(machine: Machine) -> None:
    fs = machine.mount()
    kept = make_file(fs, 1, b"kept")
    generation = kept.generation
    assert 0 <= generation < 2**32
    assert fs.getattr(1).generation == 0  # the kernel takes that for the root
    fs.commit()
    lost = make_file(fs, 1, b"lost")
    other = machine.copy_of_the_disk()
    after = other.mount()
    assert after.lookup(1, b"kept").generation == generation
    again = make_file(after, 1, b"again")
    assert again.number == lost.number
    assert again.generation != lost.generation
    other.close()
