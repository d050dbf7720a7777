# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system whose handlers do almost nothing: the upper limit with the kernel, `cas3fs.fuse.kernel` and Python.

Names and sizes are kept in dictionaries, written bytes are discarded, and reads return zeros. With ``--keep FILE`` the
names survive an unmount, so that the null file system can be remounted like the others.

    python -m benchmarks.nullfs MOUNTPOINT [--keep FILE]

serves in the foreground until it is unmounted. One thread does everything, so nothing takes a lock.
"""

import argparse
import errno
import os
import pickle
import stat
import time
from itertools import islice
from pathlib import Path

from cas3fs.fuse.kernel.channel import Channel, MountOptions
from cas3fs.fuse.kernel.dispatch import Caller, Changes, Handlers
from cas3fs.fuse.kernel.protocol import ROOT_INODE, OpenFlag
from cas3fs.fuse.kernel.replies import Buffer, DirectoryPage, FileSystemStatistics, Opened, ReplyFormat
from cas3fs.fuse.kernel.session import Session, SessionSettings

TIMEOUT_S = 3600.0  # the same as cas3fs
REQUEST_BYTES = 256 * 1024  # the same as cas3fs


class Node:
    """An inode: `names` is only used by directories, `target` by symbolic links."""

    generation = 0
    __slots__ = (
        *("atime_ns", "ctime_ns", "gid", "mode", "mtime_ns", "names", "nlink", "number", "rdev", "size", "target"),
        "uid",
    )

    def __init__(self, number: int, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        self.number, self.mode, self.uid, self.gid, self.rdev = number, mode, uid, gid, rdev
        self.nlink, self.size = 1, 0
        self.atime_ns = self.mtime_ns = self.ctime_ns = time.time_ns()
        self.names: dict[bytes, int] = {}
        self.target = b""

    @property
    def blocks(self) -> int:
        """Units of 512 bytes."""
        return (self.size + 511) // 512


class NullHandlers(Handlers):
    """The handlers."""

    def __init__(self, nodes: dict[int, Node] | None = None) -> None:
        self.nodes = nodes or {ROOT_INODE: Node(ROOT_INODE, stat.S_IFDIR | 0o755, os.getuid(), os.getgid())}
        self._next_number = max(self.nodes) + 1
        self._zeros = bytes(REQUEST_BYTES)

    def lookup(self, parent: int, name: bytes) -> Node | None:
        number = self.nodes[parent].names.get(name)
        return None if number is None else self.nodes[number]

    def getattr(self, inode: int, handle: int | None) -> Node:
        return self.nodes[inode]

    def setattr(self, inode: int, changes: Changes, caller: Caller) -> Node:
        node = self.nodes[inode]
        if changes.size is not None:
            node.size = changes.size
        if changes.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(changes.mode)
        return node

    def getxattr(self, inode: int, name: bytes) -> bytes:
        raise OSError(errno.ENODATA, "no attribute has a value")

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        node = self._add(parent, name, stat.S_IFREG | mode, caller)
        return node, Opened(node.number, OpenFlag.KEEP_CACHE)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Node:
        return self._add(parent, name, stat.S_IFDIR | mode, caller)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        return self._add(parent, name, mode, caller, rdev)

    def link(self, inode: int, new_parent: int, new_name: bytes) -> Node:
        node = self.nodes[inode]
        node.nlink += 1
        self.nodes[new_parent].names[new_name] = inode
        return node

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Node:
        node = self._add(parent, name, stat.S_IFLNK | 0o777, caller)
        node.target, node.size = target, len(target)
        return node

    def readlink(self, inode: int) -> bytes:
        return self.nodes[inode].target

    def unlink(self, parent: int, name: bytes) -> None:
        node = self.nodes[self.nodes[parent].names.pop(name)]
        node.nlink -= 1
        if not node.nlink:
            del self.nodes[node.number]

    def rmdir(self, parent: int, name: bytes) -> None:
        self.unlink(parent, name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, caller: Caller) -> None:
        self.nodes[new_parent].names[new_name] = self.nodes[parent].names.pop(name)

    def open(self, inode: int, flags: int, caller: Caller, *, kills_set_ids: bool) -> Opened:
        return Opened(inode, OpenFlag.KEEP_CACHE)

    def read(self, handle: int, offset: int, size: int) -> Buffer:
        return memoryview(self._zeros)[: max(0, min(size, self.nodes[handle].size - offset))]

    def write(self, handle: int, offset: int, data: memoryview, kills_set_ids: bool) -> int:
        node, length = self.nodes[handle], len(data)
        node.size = max(node.size, offset + length)
        return length

    def release(self, handle: int) -> None:
        """Nothing is kept."""

    def fsync(self, handle: int, data_only: bool) -> None:
        """Nothing is kept."""

    def opendir(self, inode: int, flags: int, caller: Caller) -> Opened:
        return Opened(inode)

    def readdir(self, handle: int, cookie: int, page: DirectoryPage) -> None:
        names, nodes = self.nodes[handle].names, self.nodes
        page.add_all(
            (position, name, nodes[number])
            for position, (name, number) in enumerate(islice(names.items(), cookie, None), cookie + 1)
        )

    def releasedir(self, handle: int) -> None:
        """Nothing is kept."""

    def forget(self, inodes: list[tuple[int, int]]) -> None:
        """Nothing is counted."""

    def statfs(self) -> FileSystemStatistics:
        return FileSystemStatistics(1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30)

    def _add(self, parent: int, name: bytes, mode: int, caller: Caller, rdev: int = 0) -> Node:
        number = self._next_number
        node = self.nodes[number] = Node(number, mode, caller.uid, caller.gid, rdev)
        self._next_number += 1
        self.nodes[parent].names[name] = number
        return node


def serve(mountpoint: Path, keep: Path | None) -> None:
    """Mount, and serve until unmounted."""
    kept = pickle.loads(keep.read_bytes()) if keep is not None and keep.exists() else None
    handlers = NullHandlers(kept)
    form = ReplyFormat(TIMEOUT_S, TIMEOUT_S, TIMEOUT_S, block_size=128 * 1024)
    channel = Channel.mount(mountpoint, MountOptions("nullfs", "nullfs", max_read=REQUEST_BYTES))
    session = Session(channel, handlers, SessionSettings(form, max_write=REQUEST_BYTES))
    try:
        session.serve()
    finally:
        session.stop()
        if keep is not None:
            keep.write_bytes(pickle.dumps(handlers.nodes))


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="nullfs", description="Mount a file system that keeps no data.")
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--keep", type=Path, help="a file that keeps the names until the next mount")
    arguments = parser.parse_args()
    serve(arguments.mountpoint, arguments.keep)


if __name__ == "__main__":
    main()
