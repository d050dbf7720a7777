# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system in memory behind the handlers of `cas3fs.fuse.kernel`: the smallest one that is whole."""

import errno
import os
import stat
import threading
import time
from dataclasses import dataclass, field

from cas3fs.fuse.kernel.dispatch import Caller, Changes, Deferred, Handlers
from cas3fs.fuse.kernel.protocol import ROOT_INODE, OpenFlag
from cas3fs.fuse.kernel.replies import (
    Buffer,
    DirectoryPage,
    ExtendedAttributes,
    FileSystemStatistics,
    Opened,
)


@dataclass
class Node:
    number: int
    mode: int
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    nlink: int = 1
    generation: int = 0
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    lookups: int = 0
    atime_ns: int = field(default_factory=time.time_ns)
    mtime_ns: int = field(default_factory=time.time_ns)
    ctime_ns: int = field(default_factory=time.time_ns)
    birth_ns: int = field(default_factory=time.time_ns)

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def blocks(self) -> int:
        return -(-self.size // 512)


class MemoryFiles(Handlers):
    """`gate`: while it is cleared, reads and syncs of the file ``slow`` wait, in the pool."""

    def __init__(self) -> None:
        self.nodes = {ROOT_INODE: Node(ROOT_INODE, stat.S_IFDIR | 0o755, lookups=1)}
        self.gate = threading.Event()
        self.waiting = threading.Event()
        self.forgotten: list[tuple[int, int]] = []
        self._next = ROOT_INODE + 1

    def _child(self, parent: int, name: bytes) -> Node:
        number = self.nodes[parent].names.get(name)
        if number is None:
            raise OSError(errno.ENOENT, "no such name")
        return self.nodes[number]

    def _make(self, parent: int, name: bytes, mode: int, caller: Caller) -> Node:
        if name in self.nodes[parent].names:
            raise OSError(errno.EEXIST, "the name is there")
        node = Node(self._next, mode & ~caller.umask, caller.uid, caller.gid, lookups=1)
        self._next += 1
        self.nodes[node.number] = node
        self.nodes[parent].names[name] = node.number
        return node

    def lookup(self, parent: int, name: bytes) -> Node | None:
        if name == b"unforeseen":
            raise RuntimeError("unforeseen")
        try:
            node = self._child(parent, name)
        except OSError:
            return None
        node.lookups += 1
        return node

    def forget(self, inodes: list[tuple[int, int]]) -> None:
        self.forgotten += inodes
        for number, count in inodes:
            node = self.nodes[number]
            node.lookups -= count
            self._drop(node)

    def _drop(self, node: Node) -> None:
        if node.nlink == 0 and node.lookups == 0:
            del self.nodes[node.number]

    def getattr(self, inode: int, handle: int | None) -> Node:
        return self.nodes[inode]

    def statx(self, inode: int, handle: int | None) -> tuple[Node, ExtendedAttributes]:
        node = self.nodes[inode]
        return node, ExtendedAttributes(node.birth_ns)

    def setattr(self, inode: int, changes: Changes, caller: Caller) -> Node:
        node = self.nodes[inode]
        if changes.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | changes.mode
        if changes.uid is not None:
            node.uid = changes.uid
        if changes.gid is not None:
            node.gid = changes.gid
        if changes.size is not None:
            node.data = (node.data + bytes(max(0, changes.size - node.size)))[: changes.size]
        now = time.time_ns()
        if changes.mtime_ns is not None or changes.mtime_now:
            node.mtime_ns = now if changes.mtime_ns is None else changes.mtime_ns
        if changes.atime_ns is not None or changes.atime_now:
            node.atime_ns = now if changes.atime_ns is None else changes.atime_ns
        return node

    def readlink(self, inode: int) -> bytes:
        return bytes(self.nodes[inode].data)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Node:
        node = self._make(parent, name, stat.S_IFLNK | 0o777, caller)
        node.data[:] = target
        return node

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        node = self._make(parent, name, mode, caller)
        node.rdev = rdev
        return node

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Node:
        return self._make(parent, name, mode | stat.S_IFDIR, caller)

    def unlink(self, parent: int, name: bytes) -> None:
        node = self._child(parent, name)
        del self.nodes[parent].names[name]
        node.nlink -= 1
        self._drop(node)

    def rmdir(self, parent: int, name: bytes) -> None:
        if self._child(parent, name).names:
            raise OSError(errno.ENOTEMPTY, "not empty")
        self.unlink(parent, name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, caller: Caller) -> None:
        node = self._child(parent, name)
        if flags:
            raise OSError(errno.EINVAL, "no flags here")
        if new_name in self.nodes[new_parent].names:
            self.unlink(new_parent, new_name)
        del self.nodes[parent].names[name]
        self.nodes[new_parent].names[new_name] = node.number

    def link(self, inode: int, new_parent: int, new_name: bytes) -> Node:
        node = self.nodes[inode]
        self.nodes[new_parent].names[new_name] = inode
        node.nlink += 1
        node.lookups += 1
        return node

    def open(self, inode: int, flags: int, caller: Caller, *, kills_set_ids: bool) -> Opened:
        return Opened(inode, OpenFlag.KEEP_CACHE)

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        node = self._make(parent, name, mode | stat.S_IFREG, caller)
        return node, Opened(node.number)

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        node = Node(self._next, mode | stat.S_IFREG, caller.uid, caller.gid, nlink=0, lookups=1)
        self._next += 1
        self.nodes[node.number] = node
        return node, Opened(node.number)

    def read(self, handle: int, offset: int, size: int) -> Buffer | list[Buffer] | Deferred:
        node = self.nodes[handle]
        if self._is_slow(handle):
            return Deferred(lambda: self._read_slowly(node, offset, size), abandonable=True)
        return bytes(node.data[offset : offset + size])

    def _is_slow(self, handle: int) -> bool:
        return self.nodes[ROOT_INODE].names.get(b"slow") == handle

    def _wait(self) -> None:
        self.waiting.set()
        self.gate.wait()

    def _read_slowly(self, node: Node, offset: int, size: int) -> list[Buffer]:
        self._wait()
        middle = offset + size // 2
        return [bytes(node.data[offset:middle]), bytes(node.data[middle : offset + size])]

    def write(self, handle: int, offset: int, data: memoryview, kills_set_ids: bool) -> int:
        node = self.nodes[handle]
        if offset > node.size:
            node.data += bytes(offset - node.size)
        node.data[offset : offset + len(data)] = data
        return len(data)

    def flush(self, handle: int) -> None:
        pass

    def release(self, handle: int) -> None:
        pass

    def fsync(self, handle: int, data_only: bool) -> Deferred | None:
        if self._is_slow(handle):
            return Deferred(self._wait, abandonable=True)
        return Deferred(lambda: None)

    def opendir(self, inode: int, flags: int, caller: Caller) -> Opened:
        return Opened(inode)

    def readdir(self, handle: int, cookie: int, page: DirectoryPage) -> None:
        directory = self.nodes[handle]
        listing = [(b".", directory), (b"..", directory)]
        listing += [(name, self.nodes[number]) for name, number in directory.names.items()]
        for place, (name, node) in enumerate(listing[cookie:], cookie + 1):
            if name in (b".", b".."):
                fits = page.add_bare(name, node.number, node.mode, place)
            else:
                fits = page.add(name, node, place)
                node.lookups += fits and page.with_attributes
            if not fits:
                break

    def releasedir(self, handle: int) -> None:
        pass

    def fsyncdir(self, handle: int, data_only: bool) -> None:
        pass

    def statfs(self) -> FileSystemStatistics:
        return FileSystemStatistics(1000, 500, 400, 100, 50)

    def getxattr(self, inode: int, name: bytes) -> bytes:
        try:
            return self.nodes[inode].xattrs[name]
        except KeyError:
            raise OSError(errno.ENODATA, "no such attribute") from None

    def listxattr(self, inode: int) -> bytes:
        return b"".join(name + b"\0" for name in self.nodes[inode].xattrs)

    def setxattr(self, inode: int, name: bytes, value: bytes, flags: int, kills_set_gid: bool) -> None:
        self.nodes[inode].xattrs[name] = value

    def removexattr(self, inode: int, name: bytes) -> None:
        del self.nodes[inode].xattrs[name]

    def fallocate(self, handle: int, offset: int, length: int, mode: int) -> None:
        node = self.nodes[handle]
        node.data += bytes(max(0, offset + length - node.size))

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        node = self.nodes[handle]
        if offset >= node.size:
            raise OSError(errno.ENXIO, "beyond the end")
        return offset if whence == os.SEEK_DATA else node.size

    def copy_file_range(
        self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, *, flags: int
    ) -> int:
        content = self.nodes[handle].data[offset : offset + length]
        return self.write(to_handle, to_offset, memoryview(bytes(content)), kills_set_ids=False)

    def ioctl(
        self, inode: int, handle: int, command: int, data: bytes, out_size: int, *, argument: int, caller: Caller
    ) -> bytes:
        raise OSError(errno.ENOTTY, "no ioctl")
