# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system whose handlers do almost nothing: the upper limit with the kernel, llfuse and Python.

Names and sizes are kept in dictionaries, written bytes are discarded, and reads return zeros. With ``--keep FILE`` the
names survive an unmount, so that the null file system can be remounted like the others.

    python -m benchmarks.nullfs MOUNTPOINT [--workers N] [--keep FILE]

serves in the foreground until it is unmounted. Every handler holds one lock, llfuse's own.
"""

import argparse
import errno
import os
import pickle
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llfuse

DEFAULT_WORKERS = 4
TIMEOUT_S = 3600  # the same as cas3fs


@dataclass
class Node:
    """An inode: `names` is only used by directories, `target` by symbolic links, `device` by special files."""

    number: int
    mode: int
    size: int = 0
    links: int = 1
    device: int = 0
    names: dict[bytes, int] = field(default_factory=dict)
    target: bytes = b""


class NullOperations(llfuse.Operations):  # type: ignore[misc]  # llfuse has no types
    """The handlers."""

    def __init__(self, nodes: dict[int, Node] | None = None) -> None:
        super().__init__()
        self.nodes = nodes or {llfuse.ROOT_INODE: Node(llfuse.ROOT_INODE, stat.S_IFDIR | 0o755)}
        self._time_ns = time.time_ns()
        self._next_number = max(self.nodes) + 1
        self._owner = (os.getuid(), os.getgid())

    def lookup(self, parent: int, name: bytes, ctx: Any) -> llfuse.EntryAttributes:
        number = self.nodes[parent].names.get(name)
        if number is None:
            raise llfuse.FUSEError(errno.ENOENT)
        return self._attributes(self.nodes[number])

    def getattr(self, inode: int, ctx: Any) -> llfuse.EntryAttributes:
        return self._attributes(self.nodes[inode])

    def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> llfuse.EntryAttributes:
        node = self.nodes[inode]
        if fields.update_size:
            node.size = attr.st_size
        if fields.update_mode:
            node.mode = attr.st_mode
        return self._attributes(node)

    def getxattr(self, inode: int, name: bytes, ctx: Any = None) -> bytes:
        raise llfuse.FUSEError(llfuse.ENOATTR)

    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> tuple[int, llfuse.EntryAttributes]:
        node = self._add(parent, name, mode)
        return node.number, self._attributes(node)

    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> llfuse.EntryAttributes:
        return self._attributes(self._add(parent, name, mode | stat.S_IFDIR))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> llfuse.EntryAttributes:
        node = self._add(parent, name, mode)
        node.device = rdev
        return self._attributes(node)

    def link(self, inode: int, new_parent: int, new_name: bytes, ctx: Any) -> llfuse.EntryAttributes:
        node = self.nodes[inode]
        node.links += 1
        self.nodes[new_parent].names[new_name] = inode
        return self._attributes(node)

    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> llfuse.EntryAttributes:
        node = self._add(parent, name, stat.S_IFLNK | 0o777)
        node.target, node.size = target, len(target)
        return self._attributes(node)

    def readlink(self, inode: int, ctx: Any) -> bytes:
        return self.nodes[inode].target

    def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        node = self.nodes[self.nodes[parent].names.pop(name)]
        node.links -= 1
        if not node.links:
            del self.nodes[node.number]

    def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        self.unlink(parent, name, ctx)

    def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, ctx: Any) -> None:
        self.nodes[new_parent].names[new_name] = self.nodes[old_parent].names.pop(old_name)

    def open(self, inode: int, flags: int, ctx: Any) -> int:
        return inode

    def read(self, fh: int, offset: int, length: int) -> bytes:
        return bytes(max(0, min(length, self.nodes[fh].size - offset)))

    def write(self, fh: int, offset: int, data: bytes) -> int:
        node = self.nodes[fh]
        node.size = max(node.size, offset + len(data))
        return len(data)

    def flush(self, fh: int) -> None:
        """Nothing is kept."""

    def release(self, fh: int) -> None:
        """Nothing is kept."""

    def fsync(self, fh: int, datasync: bool) -> None:
        """Nothing is kept."""

    def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    def readdir(self, fh: int, offset: int) -> Iterator[tuple[bytes, llfuse.EntryAttributes, int]]:
        for position, (name, number) in enumerate(list(self.nodes[fh].names.items())[offset:], offset + 1):
            yield name, self._attributes(self.nodes[number]), position

    def releasedir(self, fh: int) -> None:
        """Nothing is kept."""

    def forget(self, inode_list: Any) -> None:
        """Nothing is counted."""

    def statfs(self, ctx: Any) -> llfuse.StatvfsData:
        figures = llfuse.StatvfsData()
        figures.f_bsize = figures.f_frsize = 4096
        figures.f_blocks = figures.f_bfree = figures.f_bavail = 1 << 30
        figures.f_files = figures.f_ffree = figures.f_favail = 1 << 30
        return figures

    def _add(self, parent: int, name: bytes, mode: int) -> Node:
        node = Node(self._next_number, mode)
        self._next_number += 1
        self.nodes[node.number] = node
        self.nodes[parent].names[name] = node.number
        return node

    def _attributes(self, node: Node) -> llfuse.EntryAttributes:
        attributes = llfuse.EntryAttributes()
        attributes.st_ino = node.number
        attributes.generation = 0
        attributes.entry_timeout = attributes.attr_timeout = TIMEOUT_S
        attributes.st_mode = node.mode
        attributes.st_nlink = node.links
        attributes.st_uid, attributes.st_gid = self._owner
        attributes.st_rdev = node.device
        attributes.st_size = node.size
        attributes.st_blksize = 4096
        attributes.st_blocks = (node.size + 511) // 512
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = self._time_ns
        return attributes


def serve(mountpoint: Path, workers: int, keep: Path | None) -> None:
    """Mount, and serve until unmounted."""
    kept = pickle.loads(keep.read_bytes()) if keep is not None and keep.exists() else None
    operations = NullOperations(kept)
    llfuse.init(operations, str(mountpoint), {*llfuse.default_options, "fsname=nullfs", "subtype=nullfs"})
    try:
        llfuse.main(workers=workers)
    finally:
        llfuse.close()
        if keep is not None:
            keep.write_bytes(pickle.dumps(operations.nodes))


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="nullfs", description="Mount a file system that keeps no data.")
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="threads that serve requests")
    parser.add_argument("--keep", type=Path, help="a file that keeps the names until the next mount")
    arguments = parser.parse_args()
    serve(arguments.mountpoint, arguments.workers, arguments.keep)


if __name__ == "__main__":
    main()
