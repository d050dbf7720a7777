# SPDX-License-Identifier: GPL-3.0-or-later
"""Names: what makes them, moves them, removes them, and lists them."""

import errno
import os
import stat
import threading
from collections.abc import Callable

import attrs
import pytest

from cas3fs.filesystem import FileSystem
from tests.filesystem.machine import LAZY, ROOT, USER, Machine
from tests.filesystem.usage import make_file, names_in, refused


def test_a_new_file_belongs_to_the_caller_and_has_the_requested_mode(fs: FileSystem) -> None:
    inode, _ = fs.create(1, b"f", 0o640, os.O_RDWR, USER)
    assert (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size) == (stat.S_IFREG | 0o640, 1000, 1000, 1, 0)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG])
def test_mknod_makes_every_type_that_is_no_directory_or_link(fs: FileSystem, kind: int) -> None:
    made = fs.mknod(1, b"n", kind | 0o600, os.makedev(8, 1), ROOT)
    assert fs.getattr(made.number).mode == kind | 0o600
    assert fs.getattr(made.number).rdev == os.makedev(8, 1)


def test_in_a_set_group_id_directory_files_take_its_group_and_directories_the_bit_too(fs: FileSystem) -> None:
    parent = fs.mkdir(1, b"d", 0o2775, ROOT)
    fs.setattr(parent.number, ROOT, gid=77, mode=0o2775)
    child = fs.mkdir(parent.number, b"sub", 0o755, USER)
    file = make_file(fs, parent.number, b"f")
    assert (child.gid, child.mode) == (77, stat.S_IFDIR | 0o2755)
    assert file.gid == 77


def test_what_exists_is_not_made_again(fs: FileSystem) -> None:
    make_file(fs, 1, b"f")
    refused(errno.EEXIST, fs.mkdir, 1, b"f", 0o755, ROOT)
    refused(errno.EEXIST, fs.create, 1, b"f", 0o644, os.O_RDWR, ROOT)
    refused(errno.EEXIST, fs.symlink, 1, b"f", b"t", ROOT)


def test_names_are_any_bytes_up_to_255(fs: FileSystem) -> None:
    odd = [bytes(range(1, 47)), bytes(range(48, 256)), b"\xff\xfe", b"n" * 255, "\u00e9\u4e2d".encode()]
    for name in odd:
        make_file(fs, 1, name)
    assert names_in(fs, 1) == odd
    refused(errno.ENAMETOOLONG, fs.lookup, 1, b"n" * 256)
    refused(errno.ENAMETOOLONG, fs.mkdir, 1, b"n" * 256, 0o755, ROOT)


def test_a_name_below_a_file_is_no_directory(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f")
    refused(errno.ENOTDIR, fs.lookup, file.number, b"x")
    refused(errno.ENOTDIR, fs.mkdir, file.number, b"x", 0o755, ROOT)


def test_dots_lead_to_the_directory_and_the_one_above(fs: FileSystem) -> None:
    outer = fs.mkdir(1, b"outer", 0o755, ROOT)
    inner = fs.mkdir(outer.number, b"inner", 0o755, ROOT)
    assert fs.lookup(inner.number, b".").number == inner.number
    assert fs.lookup(inner.number, b"..").number == outer.number
    assert fs.lookup(1, b"..").number == 1


def test_a_directory_counts_its_subdirectories_as_links(fs: FileSystem) -> None:
    parent = fs.mkdir(1, b"d", 0o755, ROOT)
    fs.mkdir(parent.number, b"a", 0o755, ROOT)
    fs.mkdir(parent.number, b"b", 0o755, ROOT)
    assert fs.getattr(parent.number).nlink == 4
    fs.rmdir(parent.number, b"a")
    fs.rename(parent.number, b"b", 1, b"b")
    assert fs.getattr(parent.number).nlink == 2
    assert fs.getattr(1).nlink == 4


def test_links_share_one_inode_that_is_removed_with_the_last_name(fs: FileSystem) -> None:
    file = make_file(fs, 1, b"f", b"data")
    fs.link(file.number, 1, b"g")
    assert fs.lookup(1, b"g").number == file.number
    assert fs.getattr(file.number).nlink == 2
    fs.unlink(1, b"f")
    assert fs.getattr(file.number).nlink == 1
    fs.unlink(1, b"g")
    fs.forget([(file.number, 100)])
    refused(errno.ENOENT, fs.getattr, file.number)


def test_directories_take_no_further_names(fs: FileSystem) -> None:
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    refused(errno.EPERM, fs.link, made.number, 1, b"e")


def test_unlink_and_rmdir_each_refuse_what_is_the_others(fs: FileSystem) -> None:
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    make_file(fs, 1, b"f")
    make_file(fs, made.number, b"in")
    refused(errno.EISDIR, fs.unlink, 1, b"d")
    refused(errno.ENOTDIR, fs.rmdir, 1, b"f")
    refused(errno.ENOTEMPTY, fs.rmdir, 1, b"d")
    refused(errno.ENOENT, fs.unlink, 1, b"none")


def test_an_unlinked_file_lives_while_it_is_open(fs: FileSystem) -> None:
    inode, handle = fs.create(1, b"f", 0o600, os.O_RDWR, ROOT)
    fs.unlink(1, b"f")
    fs.forget([(inode.number, 1)])
    fs.write(handle, 0, b"still here")
    fs.commit()
    assert fs.getattr(inode.number).nlink == 0
    assert bytes(fs.read(handle, 0, 100)) == b"still here"
    fs.release(handle)
    refused(errno.ENOENT, fs.getattr, inode.number)
    fs.commit()
    assert fs.staging.size_bytes == 0


@pytest.mark.promise("lookup-counts-are-raised-under-the-lock")
def test_a_file_that_was_unlinked_while_open_is_gone_after_a_crash(machine: Machine) -> None:
    fs = machine.mount()
    inode, handle = fs.create(1, b"f", 0o600, os.O_RDWR, ROOT)
    fs.write(handle, 0, b"x" * 300_000)
    fs.unlink(1, b"f")
    fs.commit()
    other = machine.copy_of_the_disk()
    after = other.mount()
    refused(errno.ENOENT, after.getattr, inode.number)
    assert after.pending().files == 0
    assert [path.name for path in after.staging.folder.iterdir() if path.name != "reserve"] == []
    other.close()


@pytest.mark.parametrize("committed_between", [False, True])
def test_a_name_that_was_removed_can_be_made_again_and_again(machine: Machine, committed_between: bool) -> None:
    fs = machine.mount()
    directory = fs.mkdir(1, b"d", 0o755, ROOT).number
    old = make_file(fs, directory, b"f")
    kept = make_file(fs, directory, b"kept")
    fs.commit()
    fs.unlink(directory, b"f")
    refused(errno.ENOENT, fs.lookup, directory, b"f")
    made = make_file(fs, directory, b"f")
    if committed_between:
        fs.commit()
    fs.unlink(directory, b"f")
    refused(errno.ENOENT, fs.unlink, directory, b"f")
    newest = make_file(fs, directory, b"f")
    assert len({old.number, made.number, newest.number}) == 3
    assert names_in(fs, directory) == [b"kept", b"f"]
    fs.commit()
    other = machine.copy_of_the_disk()
    after = other.mount()
    assert [after.lookup(directory, name).number for name in (b"kept", b"f")] == [kept.number, newest.number]
    other.close()


def test_a_removed_name_takes_a_file_that_is_moved_there(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f")
    source = make_file(fs, 1, b"g")
    fs.commit()
    fs.unlink(1, b"f")
    fs.rename(1, b"g", 1, b"f")
    fs.link(source.number, 1, b"g")
    fs.unlink(1, b"f")
    fs.commit()
    other = machine.copy_of_the_disk()
    after = other.mount()
    assert names_in(after, 1) == [b"g"]
    assert after.lookup(1, b"g").nlink == 1
    other.close()


def test_an_uncommitted_removal_never_happened_after_a_crash(machine: Machine) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"content")
    fs.commit()
    fs.unlink(1, b"f")
    other = machine.copy_of_the_disk()
    assert other.mount().lookup(1, b"f").number == file.number
    other.close()


def test_nothing_is_made_in_a_removed_directory(fs: FileSystem) -> None:
    made = fs.mkdir(1, b"d", 0o755, ROOT)
    fs.rmdir(1, b"d")
    refused(errno.ENOENT, fs.mkdir, made.number, b"x", 0o755, ROOT)
    refused(errno.ENOENT, fs.create, made.number, b"x", 0o644, os.O_RDWR, ROOT)


def test_symlinks_keep_their_target_and_its_length_as_size(fs: FileSystem) -> None:
    made = fs.symlink(1, b"l", b"../any\xffwhere", ROOT)
    assert fs.readlink(made.number) == b"../any\xffwhere"
    assert fs.getattr(made.number).size == 12
    refused(errno.EINVAL, fs.readlink, make_file(fs, 1, b"f").number)
    refused(errno.ENAMETOOLONG, fs.symlink, 1, b"m", b"x" * 4096, ROOT)


@pytest.mark.promise("names-are-from-one-instant")
def test_the_tree_is_the_same_after_a_crash_that_follows_a_commit(machine: Machine) -> None:
    fs = machine.mount()
    made = fs.mkdir(1, b"d", 0o751, USER)
    file = make_file(fs, made.number, b"f")
    fs.link(file.number, 1, b"hard")
    fs.symlink(1, b"soft", b"d/f", USER)
    fs.commit()
    make_file(fs, 1, b"too late")
    other = machine.copy_of_the_disk()
    after = other.mount()
    assert names_in(after, 1) == [b"d", b"hard", b"soft"]
    assert after.lookup(1, b"hard").number == after.lookup(made.number, b"f").number
    assert after.getattr(made.number).mode == stat.S_IFDIR | 0o751
    assert after.getattr(file.number).nlink == 2
    other.close()


class InterruptedLock:
    """A lock; once it is released, something else happens, if anything is to."""

    def __init__(self) -> None:
        self._inner = threading.Lock()
        self.interruption: Callable[[], None] | None = None
        self.acquire = self._inner.acquire

    def release(self) -> None:
        self._inner.release()
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            interruption()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.promise("lookup-counts-are-raised-under-the-lock")
def test_an_inode_that_was_looked_up_exists_until_the_kernel_forgets_it(machine: Machine) -> None:
    lock = InterruptedLock()
    fs = machine.mount(lock=lock)
    fs.forget([(make_file(fs, 1, b"f").number, 1)])
    lock.interruption = lambda: fs.unlink(1, b"f")
    found = fs.lookup(1, b"f")
    assert fs.getattr(found.number).nlink == 0
    fs.forget([(found.number, 1)])
    refused(errno.ENOENT, fs.getattr, found.number)


def test_an_inode_evicted_while_it_is_linked_keeps_its_new_link_count(machine: Machine) -> None:
    fs = machine.mount(attrs.evolve(LAZY, cached_inodes=4))
    others = [make_file(fs, 1, b"f%d" % number).number for number in range(4)]
    folder = fs.mkdir(1, b"folder", 0o755, ROOT).number
    fs.drop_caches()
    for number in others:
        fs.getattr(number)
    fs.link(others[0], folder, b"a")  # the folder takes the place of the inode that was read first
    fs.link(others[0], folder, b"b")
    assert fs.getattr(others[0]).nlink == 3
    fs.unlink(folder, b"a")
    fs.unlink(folder, b"b")
    fs.forget([(others[0], 100)])
    assert names_in(fs, 1) == [b"f0", b"f1", b"f2", b"f3", b"folder"]
