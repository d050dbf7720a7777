# SPDX-License-Identifier: GPL-3.0-or-later
"""Two file systems with one interface: a local directory (`LocalDirectory`), and a `FileSystem` (`Cas3fsTree`).

Both resolve paths name by name, without following symbolic links. The result of an operation, or the name of its errno,
is compared, so both return it in the same form.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from cas3fs.errors import FileSystemError
from cas3fs.filesystem import ROOT, FileSystem, Inode, Owner
from tests.model.tree_state import InodeState, InodeTimes, Location, TreeState, is_open_file, kind_of, open_file
from tests.posix.calls import fallocate, renameat2

CALLER = Owner(os.geteuid(), os.getegid())


class TreeOperations(Protocol):
    """The operations; each raises OSError or FileSystemError."""

    def create(self, path: Location, mode: int) -> None: ...
    def mkdir(self, path: Location, mode: int) -> None: ...
    def mknod(self, path: Location, mode: int, rdev: int) -> None: ...
    def symlink(self, path: Location, target: bytes) -> None: ...
    def link(self, path: Location, new: Location) -> None: ...
    def unlink(self, path: Location) -> None: ...
    def rmdir(self, path: Location) -> None: ...
    def rename(self, path: Location, new: Location, flags: int) -> None: ...
    def tmpfile(self, path: Location, flags: int, mode: int, slot: str) -> None: ...
    def link_open(self, slot: str, new: Location) -> None: ...
    def readlink(self, path: Location) -> bytes: ...
    def chmod(self, path: Location, mode: int) -> None: ...
    def chown(self, path: Location, uid: int, gid: int) -> None: ...
    def utimes(self, path: Location, atime_ns: int, mtime_ns: int) -> None: ...
    def truncate(self, path: Location, size: int) -> None: ...
    def setxattr(self, path: Location, name: str, value: bytes, flags: int) -> None: ...
    def getxattr(self, path: Location, name: str) -> bytes: ...
    def removexattr(self, path: Location, name: str) -> None: ...
    def open(self, path: Location, flags: int, slot: str) -> None: ...
    def read(self, slot: str, offset: int, size: int) -> bytes: ...
    def write(self, slot: str, offset: int, data: bytes) -> int: ...
    def allocate(self, slot: str, mode: int, offset: int, length: int) -> None: ...
    def copy(self, slot: str, offset: int, to: str, to_offset: int, length: int) -> int: ...
    def close(self, slot: str) -> None: ...
    def read_tree(self) -> TreeState: ...


def outcome(action: Callable[..., object], *args: object) -> object:
    """The result of an operation, or the name of its errno."""
    try:
        return action(*args)
    except (OSError, FileSystemError) as error:
        return errno.errorcode[error.errno or 0]


class LocalDirectory:
    """A directory of the local file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o755, exist_ok=True)
        self.files: dict[str, int] = {}

    @contextmanager
    def _parent(self, path: Location) -> Iterator[tuple[int, bytes]]:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY
        folder = os.open(self.root, flags)
        try:
            for name in path[:-1]:
                below = os.open(name, flags, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder, path[-1] if path else b"."
        finally:
            os.close(folder)

    @contextmanager
    def _as_path(self, path: Location) -> Iterator[bytes]:
        """A path for calls that accept no directory descriptor."""
        with self._parent(path) as (folder, name):
            yield b"/proc/self/fd/%d/%s" % (folder, name)

    def create(self, path: Location, mode: int) -> None:
        with self._parent(path) as (folder, name):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode, dir_fd=folder))

    def mkdir(self, path: Location, mode: int) -> None:
        with self._parent(path) as (folder, name):
            os.mkdir(name, mode, dir_fd=folder)

    def mknod(self, path: Location, mode: int, rdev: int) -> None:
        with self._parent(path) as (folder, name):
            os.mknod(name, mode, rdev, dir_fd=folder)

    def symlink(self, path: Location, target: bytes) -> None:
        with self._parent(path) as (folder, name):
            os.symlink(target, name, dir_fd=folder)

    def link(self, path: Location, new: Location) -> None:
        with self._parent(path) as (folder, name):
            os.stat(name, dir_fd=folder, follow_symlinks=False)  # the first of two possible errors
            with self._parent(new) as (new_folder, new_name):
                os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder, follow_symlinks=False)

    def unlink(self, path: Location) -> None:
        with self._parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def rmdir(self, path: Location) -> None:
        with self._parent(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def rename(self, path: Location, new: Location, flags: int) -> None:
        with self._parent(path) as (folder, name), self._parent(new) as (new_folder, new_name):
            renameat2(name, new_name, flags, src_dir_fd=folder, dst_dir_fd=new_folder)

    def tmpfile(self, path: Location, flags: int, mode: int, slot: str) -> None:
        with self._parent(path) as (folder, name):
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "a link")
            self.files[slot] = os.open(name, flags | os.O_TMPFILE | os.O_RDWR | os.O_NOATIME, mode, dir_fd=folder)

    def link_open(self, slot: str, new: Location) -> None:
        with self._parent(new) as (folder, name):
            os.link(f"/proc/self/fd/{self.files[slot]}", name, dst_dir_fd=folder)

    def readlink(self, path: Location) -> bytes:
        with self._parent(path) as (folder, name):
            return os.readlink(name, dir_fd=folder)

    def chmod(self, path: Location, mode: int) -> None:
        with self._parent(path) as (folder, name):
            if not stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.chmod(name, mode, dir_fd=folder)

    def chown(self, path: Location, uid: int, gid: int) -> None:
        with self._parent(path) as (folder, name):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)

    def utimes(self, path: Location, atime_ns: int, mtime_ns: int) -> None:
        with self._parent(path) as (folder, name):
            os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)

    def truncate(self, path: Location, size: int) -> None:
        with self._as_path(path) as name:
            if not stat.S_ISLNK(os.lstat(name).st_mode):
                os.truncate(name, size)

    def setxattr(self, path: Location, name: str, value: bytes, flags: int) -> None:
        with self._as_path(path) as file:
            os.setxattr(file, name, value, flags, follow_symlinks=False)

    def getxattr(self, path: Location, name: str) -> bytes:
        with self._as_path(path) as file:
            return os.getxattr(file, name, follow_symlinks=False)

    def removexattr(self, path: Location, name: str) -> None:
        with self._as_path(path) as file:
            os.removexattr(file, name, follow_symlinks=False)

    def open(self, path: Location, flags: int, slot: str) -> None:
        with self._parent(path) as (folder, name):
            if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                self.files[slot] = os.open(name, flags | os.O_NOATIME | os.O_NOFOLLOW, dir_fd=folder)

    def read(self, slot: str, offset: int, size: int) -> bytes:
        return os.pread(self.files[slot], size, offset)

    def write(self, slot: str, offset: int, data: bytes) -> int:
        return os.pwrite(self.files[slot], data, offset)

    def allocate(self, slot: str, mode: int, offset: int, length: int) -> None:
        fallocate(self.files[slot], mode, offset, length)

    def copy(self, slot: str, offset: int, to: str, to_offset: int, length: int) -> int:
        return os.copy_file_range(self.files[slot], self.files[to], length, offset, to_offset)

    def close(self, slot: str) -> None:
        os.close(self.files.pop(slot))

    def close_all(self) -> None:
        for slot in list(self.files):
            self.close(slot)

    # -- reading and restoring the tree

    def read_tree(self) -> TreeState:
        found = TreeState({}, {}, {})
        self._read_below((), found)
        for slot, file in self.files.items():
            self._enter(found, open_file(slot), b"/proc/self/fd/%d" % file, os.fstat(file))
        return found

    def _read_below(self, path: Location, found: TreeState) -> None:
        name = os.fsencode(self.root.joinpath(*map(os.fsdecode, path)))
        about = os.lstat(name)
        self._enter(found, path, name, about)
        if stat.S_ISDIR(about.st_mode):
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
            try:
                below = [os.fsencode(entry) for entry in os.listdir(folder)]
            finally:
                os.close(folder)
            for entry in below:
                self._read_below((*path, entry), found)

    def _enter(self, found: TreeState, location: Location, name: bytes, about: os.stat_result) -> None:
        follow = is_open_file(location)
        xattrs = {
            key: os.getxattr(name, key, follow_symlinks=follow) for key in os.listxattr(name, follow_symlinks=follow)
        }
        found.inodes[location] = _inode_state(about.st_mode, about, self._content(name, about), xattrs)
        found.identity[location] = about.st_ino
        found.times[about.st_ino] = InodeTimes(about.st_atime_ns, about.st_mtime_ns, about.st_ctime_ns)

    def _content(self, name: bytes, about: os.stat_result) -> bytes:
        if stat.S_ISLNK(about.st_mode):
            return os.readlink(name)
        if not stat.S_ISREG(about.st_mode):
            return b""
        file = os.open(name, os.O_RDONLY | os.O_NOATIME)
        try:
            return os.pread(file, about.st_size + 1, 0)
        finally:
            os.close(file)

    def set_times(self, location: Location, times: InodeTimes) -> None:
        """Set the times of a path or of an open file."""
        if is_open_file(location):
            os.utime(self.files[location[1].decode()], ns=(times.atime, times.mtime))
        else:
            self.utimes(location, times.atime, times.mtime)

    def rebuild(self, tree: TreeState) -> None:
        """Recreate a tree, including times except ctime; open files must be closed."""
        shutil.rmtree(self.root)
        self.root.mkdir()
        made: dict[object, Location] = {}
        for path in sorted(tree.inodes, key=len):
            first = made.setdefault(tree.identity[path], path)
            if first == path:
                self._rebuild_one(path, tree.inodes[path])
            else:
                self.link(first, path)
        for path in sorted(tree.inodes, key=len, reverse=True):
            times = tree.times_of(path)
            self.utimes(path, times.atime, times.mtime)

    def _rebuild_one(self, path: Location, state: InodeState) -> None:
        mode = int(state.mode, 8)
        if state.kind == "symlink":
            self.symlink(path, state.content)
        elif state.kind == "directory":
            with suppress(FileExistsError):  # the root exists
                self.mkdir(path, 0o700)
        elif state.kind == "file":
            self.create(path, 0o600)
            self.open(path, os.O_RDWR, "")
            self.write("", 0, state.content)
            self.close("")
        else:
            self.mknod(path, KINDS[state.kind] | 0o600, state.rdev)
        self.chown(path, state.uid, state.gid)
        self.chmod(path, mode)
        for name, value in state.xattrs.items():
            self.setxattr(path, name, value, 0)


KINDS = {
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
    "file": stat.S_IFREG,
}


class Cas3fsTree:
    """A `FileSystem`; lookups are forgotten after each operation, as by a kernel that is short of memory."""

    def __init__(self, fs: FileSystem) -> None:
        self.fs = fs
        self.files: dict[str, tuple[int, int]] = {}

    @contextmanager
    def _parent(self, path: Location) -> Iterator[tuple[int, bytes]]:
        lookups = []
        number = ROOT
        try:
            for name in path[:-1]:
                number = self.fs.lookup(number, name).number
                lookups.append((number, 1))
            yield number, path[-1]
        finally:
            self.fs.forget(lookups)

    @contextmanager
    def _inode(self, path: Location) -> Iterator[Inode]:
        if not path:
            yield self.fs.getattr(ROOT)
            return
        with self._parent(path) as (folder, name):
            inode = self.fs.lookup(folder, name)
            try:
                yield inode
            finally:
                self._forget(inode)

    def _forget(self, inode: Inode) -> None:
        self.fs.forget([(inode.number, 1)])

    def create(self, path: Location, mode: int) -> None:
        with self._parent(path) as (folder, name):
            inode, handle = self.fs.create(folder, name, mode, os.O_RDWR, CALLER)
            self.fs.release(handle)
            self._forget(inode)

    def mkdir(self, path: Location, mode: int) -> None:
        with self._parent(path) as (folder, name):
            self._forget(self.fs.mkdir(folder, name, mode & 0o1777, CALLER))  # as the kernel does

    def mknod(self, path: Location, mode: int, rdev: int) -> None:
        with self._parent(path) as (folder, name):
            self._forget(self.fs.mknod(folder, name, mode, rdev, CALLER))

    def symlink(self, path: Location, target: bytes) -> None:
        with self._parent(path) as (folder, name):
            self._forget(self.fs.symlink(folder, name, target, CALLER))

    def link(self, path: Location, new: Location) -> None:
        with self._inode(path) as inode, self._parent(new) as (folder, name):
            self._forget(self.fs.link(inode.number, folder, name))

    def unlink(self, path: Location) -> None:
        with self._parent(path) as (folder, name):
            self.fs.unlink(folder, name)

    def rmdir(self, path: Location) -> None:
        with self._parent(path) as (folder, name):
            self.fs.rmdir(folder, name)

    def rename(self, path: Location, new: Location, flags: int) -> None:
        with self._parent(path) as (folder, name), self._parent(new) as (new_folder, new_name):
            self.fs.rename(folder, name, new_folder, new_name, flags, caller=CALLER)

    def tmpfile(self, path: Location, flags: int, mode: int, slot: str) -> None:
        with self._inode(path) as inode:
            made, handle = self.fs.tmpfile(inode.number, mode, flags | os.O_RDWR, CALLER)
        self.files[slot] = handle, made.number
        self._forget(made)

    def link_open(self, slot: str, new: Location) -> None:
        with self._parent(new) as (folder, name):
            self._forget(self.fs.link(self.files[slot][1], folder, name))

    def readlink(self, path: Location) -> bytes:
        with self._inode(path) as inode:
            return self.fs.readlink(inode.number)

    def chmod(self, path: Location, mode: int) -> None:
        with self._inode(path) as inode:
            if not stat.S_ISLNK(inode.mode):
                self.fs.setattr(inode.number, CALLER, mode=mode)

    def chown(self, path: Location, uid: int, gid: int) -> None:
        with self._inode(path) as inode:
            self.fs.setattr(inode.number, CALLER, uid=uid, gid=gid)

    def utimes(self, path: Location, atime_ns: int, mtime_ns: int) -> None:
        with self._inode(path) as inode:
            self.fs.setattr(inode.number, CALLER, atime_ns=atime_ns, mtime_ns=mtime_ns)

    def truncate(self, path: Location, size: int) -> None:
        with self._inode(path) as inode:
            if not stat.S_ISLNK(inode.mode):
                self.fs.setattr(inode.number, CALLER, size=size)

    def setxattr(self, path: Location, name: str, value: bytes, flags: int) -> None:
        with self._inode(path) as inode:
            self.fs.setxattr(inode.number, name.encode(), value, flags)

    def getxattr(self, path: Location, name: str) -> bytes:
        with self._inode(path) as inode:
            return self.fs.getxattr(inode.number, name.encode())

    def removexattr(self, path: Location, name: str) -> None:
        with self._inode(path) as inode:
            self.fs.removexattr(inode.number, name.encode())

    def open(self, path: Location, flags: int, slot: str) -> None:
        with self._inode(path) as inode:
            if stat.S_ISREG(inode.mode):
                self.files[slot] = self.fs.open(inode.number, flags, CALLER), inode.number

    def read(self, slot: str, offset: int, size: int) -> bytes:
        return bytes(self.fs.read(self.files[slot][0], offset, size))

    def write(self, slot: str, offset: int, data: bytes) -> int:
        return self.fs.write(self.files[slot][0], offset, data)

    def allocate(self, slot: str, mode: int, offset: int, length: int) -> None:
        self.fs.allocate(self.files[slot][0], offset, length, mode)

    def copy(self, slot: str, offset: int, to: str, to_offset: int, length: int) -> int:
        wanted = (self.files[slot][0], offset, self.files[to][0], to_offset, length)
        copied = self.fs.copy_range_now(*wanted)
        return self.fs.copy_range(*wanted) if copied is None else copied

    def close(self, slot: str) -> None:
        self.fs.release(self.files.pop(slot)[0])

    def close_all(self) -> None:
        for slot in list(self.files):
            self.close(slot)

    # -- reading the tree

    def read_tree(self) -> TreeState:
        found = TreeState({}, {}, {})
        self._read_below((), self.fs.getattr(ROOT), found)
        for slot, (_, number) in self.files.items():
            self._enter(found, open_file(slot), self.fs.getattr(number))
        return found

    def _read_below(self, path: Location, inode: Inode, found: TreeState) -> None:
        self._enter(found, path, inode)
        if not inode.is_directory:
            return
        listing = self.fs.opendir(inode.number)
        entries = list(self.fs.readdir(listing, 0))
        self.fs.releasedir(listing)
        assert len({name for name, _, _ in entries}) == len(entries), entries
        assert inode.nlink == 2 + sum(one.is_directory for _, one, _ in entries), path
        for name, one, _ in entries:
            assert self.fs.lookup(inode.number, name) is one
            self._read_below((*path, name), one, found)
            self._forget(one)

    def _enter(self, found: TreeState, location: Location, inode: Inode) -> None:
        xattrs = {key.decode(): self.fs.getxattr(inode.number, key) for key in self.fs.listxattr(inode.number)}
        found.inodes[location] = _inode_state(inode.mode, inode, self._content(inode), xattrs)
        found.identity[location] = inode.number
        found.times[inode.number] = InodeTimes(inode.atime_ns, inode.mtime_ns, inode.ctime_ns)

    def _content(self, inode: Inode) -> bytes:
        if stat.S_ISLNK(inode.mode):
            return self.fs.readlink(inode.number)
        if not stat.S_ISREG(inode.mode):
            return b""
        handle = self.fs.open(inode.number, os.O_RDONLY, CALLER)
        try:
            return bytes(self.fs.read(handle, 0, inode.size + 1))
        finally:
            self.fs.release(handle)


def _inode_state(mode: int, about: os.stat_result | Inode, content: bytes, xattrs: dict[str, bytes]) -> InodeState:
    uid, gid, links, rdev, size = (
        (about.uid, about.gid, about.nlink, about.rdev, about.size)
        if isinstance(about, Inode)
        else (about.st_uid, about.st_gid, about.st_nlink, about.st_rdev, about.st_size)
    )
    is_directory = stat.S_ISDIR(mode)
    return InodeState(
        kind_of(mode),
        f"{stat.S_IMODE(mode):04o}",
        uid,
        gid,
        None if is_directory else links,
        rdev,
        None if is_directory else size,
        content,
        xattrs,
    )
