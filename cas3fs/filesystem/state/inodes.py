# SPDX-License-Identifier: GPL-3.0-or-later
"""Inodes in memory, which are newer than their rows; each commit writes them back to the index.

`InodeTable` keeps, guarded by the file system's lock:

- a bounded cache of `Inode` objects; those that are dirty, open or staged stay, others may be dropped at any time;
- the *dirty* ones, whose row in the index is older than the object;
- the kernel's *lookup counts*, apart from the objects, since the kernel may know a million inodes.

An inode without a name lives on while it is open or known to the kernel; then it is marked for deletion, and the next
commit deletes its row. A mount finds and deletes those that a crash has left without a name.
"""

import errno
import stat
from collections.abc import Iterable, Iterator, Set

from cas3fs.errors import FileSystemError, IndexRowRefused
from cas3fs.filesystem.limits import INTEGER_MAX
from cas3fs.filesystem.state.layers import Layer
from cas3fs.index import Index

ROOT = 1


class Inode:
    """A file, directory, symbolic link, fifo, socket or device; times in nanoseconds, sizes in bytes.

    While one of its `layers` is unstored, size, mtime and ctime are also those of the top layer, and the row in the
    index keeps those of the last time that it was stored.
    """

    __slots__ = (
        "atime_ns",
        "being_stored",
        "changed_at_s",
        "chunk_bytes",
        "crtime_ns",
        "ctime_ns",
        "flags",
        "gid",
        "handles",
        "layers",
        "linkable",
        "mode",
        "mtime_ns",
        "nlink",
        "number",
        "rdev",
        "replaced_another",
        "retry_at_s",
        "size",
        "stored_seq",
        "uid",
        "writers",
    )

    def __init__(  # noqa: PLR0917 - a row of the index, in the order of its columns
        self,
        number: int,
        mode: int,
        uid: int,
        gid: int,
        nlink: int,
        rdev: int,
        flags: int,
        size: int,
        atime_ns: int,
        mtime_ns: int,
        ctime_ns: int,
        crtime_ns: int,
        stored_seq: int,
        chunk_bytes: int,
    ) -> None:
        self.number = number
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = nlink
        self.rdev = rdev
        self.flags = flags
        """As chattr sets them."""
        self.size = size
        self.atime_ns = atime_ns
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.crtime_ns = crtime_ns
        self.stored_seq = stored_seq
        self.chunk_bytes = chunk_bytes
        """How many bytes its chunks in the index hold: those of its content that is stored."""
        self.layers: list[Layer] = []
        self.handles = 0
        self.writers = 0
        self.linkable = False
        """It was made without a name, and may be given one."""
        self.being_stored = False
        """A storing job has it."""
        self.replaced_another = False
        """It has taken another's name, or was given its first one when it was complete, and the index may not have its
        content yet: no snapshot shows the name without it."""
        self.retry_at_s = 0.0
        """When storing it may be tried again, after a failure of its own."""
        self.changed_at_s = 0.0
        """When its data last changed, by the monotonic clock."""

    @property
    def generation(self) -> int:
        """32 bits that distinguish it from an earlier inode of the same number; 0 for the root.

        A number is used again where an inode was never committed before a crash, or where an older snapshot was
        restored. Whoever kept a handle of the lost inode must not be given the new one.
        """
        return 0 if self.number == ROOT else (self.crtime_ns ^ self.crtime_ns >> 32) & 0xFFFFFFFF

    @property
    def blocks(self) -> int:
        """Units of 512 bytes that are allocated to it: `allocated_bytes`, rounded up."""
        return -(-self.allocated_bytes // 512)

    @property
    def allocated_bytes(self) -> int:
        """The bytes that are allocated to it, never more than its size.

        Holes have none. It may be too many while staged bytes lie over stored ones in a file with holes.
        """
        size_bytes = self.size
        if stat.S_ISREG(self.mode):
            allocated = self.chunk_bytes
            for layer in self.layers:
                if not layer.stored:
                    allocated = layer.allocated_over(allocated)
            size_bytes = min(size_bytes, allocated)
        return size_bytes

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def read_layers(self) -> list[Layer]:
        """The layers that reads see, bottom to top: those that lie over the index."""
        layers = self.layers
        return [layer for layer in layers if not layer.hidden] if layers and layers[0].hidden else layers

    @property
    def unstored_bytes(self) -> int:
        """How many bytes its unstored layers hold."""
        if len(self.layers) == 1:  # by far the most frequent case
            layer = self.layers[0]
            return 0 if layer.stored else layer.bytes.size_bytes
        return sum(layer.bytes.size_bytes for layer in self.layers if not layer.stored)

    @property
    def is_unstored(self) -> bool:
        """Whether a layer is not in the index yet; they are stored from the lowest up."""
        return bool(self.layers) and not self.layers[-1].stored


class InodeTable:
    """The inodes in memory.  Every method needs the file system's lock."""

    def __init__(self, index: Index, unflushed: Set[int], capacity: int) -> None:
        """Begins empty.

        Args:
            index: has the inodes that are not cached.
            unflushed: the numbers of those that the index does not have yet (module `dentry_cache`).
            capacity: how many stay in the cache, beside those in use.
        """
        self._index = index
        self._unflushed = unflushed
        self._capacity = self._evict_at = capacity
        self.cached: dict[int, Inode] = {}
        self.dirty: dict[int, Inode] = {}
        self.lookups: dict[int, int] = {}
        self.to_delete: set[int] = set()
        self.refused: dict[int, str] = {}
        """Inodes whose row the index refused at the last commit, and why; it keeps the row that it had."""

    def get(self, number: int) -> Inode:
        """The inode of that number.

        Raises:
            FileSystemError: ENOENT, there is none: the kernel's number is stale, or the inode was deleted.
        """
        inode = self.cached.get(number) or self.find(number)
        if inode is None:
            raise FileSystemError(errno.ENOENT)
        return inode

    def find(self, number: int) -> Inode | None:
        """As `get`, but None where there is none."""
        inode = self.cached.get(number)
        if inode is not None or number in self.to_delete or not 0 < number <= INTEGER_MAX:
            return inode
        row = self._index.namespace.inode(number)
        return None if row is None else self.admit(row)

    def directory(self, number: int) -> Inode:
        """As `get`, for one that must be a directory with a place in the tree.

        Raises:
            FileSystemError: ENOENT or ENOTDIR.
        """
        inode = self.get(number)
        if not inode.is_directory:
            raise FileSystemError(errno.ENOTDIR)
        if inode.nlink == 0:
            raise FileSystemError(errno.ENOENT)
        return inode

    def admit(self, row: tuple[int, ...]) -> Inode:
        """The cached inode of a row, which is newer than the row, or else a new one made from it."""
        inode = self.cached.get(row[0])
        if inode is None:
            if len(self.cached) >= self._evict_at:
                self._evict()
            inode = self.cached[row[0]] = Inode(*row)
        return inode

    def _evict(self) -> None:
        """Drops a quarter of the cache, oldest first, except those in use."""
        for number in self._unused()[: self._capacity // 4]:
            del self.cached[number]
        # where most of them are staged, few can go, and looking through all again for each that comes would take long
        self._evict_at = max(self._capacity, len(self.cached) + self._capacity // 4)

    def _unused(self) -> list[int]:
        """The numbers of cached inodes that the index has as they are, and that nothing holds."""
        return [
            number
            for number, inode in self.cached.items()
            if not inode.handles
            and not inode.layers
            and inode.nlink
            and number not in self.dirty
            and number not in self._unflushed
        ]

    def drop_unused(self) -> None:
        """Drops all of the cache but those in use."""
        for number in self._unused():
            del self.cached[number]

    def mark_dirty(self, inode: Inode) -> None:
        """Has its row written by the next commit; until then it stays in the cache."""
        self.dirty[inode.number] = self.cached[inode.number] = inode

    def add_lookup(self, number: int) -> None:
        """Counts one more reference of the kernel to this inode."""
        self.lookups[number] = self.lookups.get(number, 0) + 1

    def drop_lookups(self, pairs: Iterable[tuple[int, int]]) -> Iterator[Inode]:
        """Gives lookup counts back: (inode, count) each; yields the inodes without any that have no name either."""
        for number, count in pairs:
            left = self.lookups.get(number, 0) - count
            if left > 0:
                self.lookups[number] = left
                continue
            self.lookups.pop(number, None)
            inode = self.cached.get(number)
            if inode is not None and inode.nlink == 0:
                yield inode

    def mark_for_deletion(self, inode: Inode) -> None:
        """Has the next commit delete an inode that nothing names or holds any more."""
        self.cached.pop(inode.number, None)
        self.dirty.pop(inode.number, None)
        self.to_delete.add(inode.number)

    def write_back(self) -> None:
        """Updates the rows of dirty inodes, but for those `refused`, and deletes marked ones, inside the group.

        Raises:
            IndexDatabaseError: as the index says; what was to be written stays to be written.
        """
        self._index.namespace.remove_inodes(self.to_delete)
        before, self.refused = self.refused, {}
        try:
            with self._index.operation():
                self._save([inode for inode in self.dirty.values() if inode.number not in before])
        except IndexRowRefused:
            before = dict.fromkeys(self.dirty, "")
        for number in before:
            if number in self.dirty:
                self._save_alone(self.dirty[number])

    def _save(self, inodes: Iterable[Inode]) -> None:
        full: list[Inode] = []
        staged: list[Inode] = []
        for inode in inodes:
            (staged if inode.is_unstored else full).append(inode)
        self._index.namespace.save_inodes(map(_full_row, full))
        self._index.namespace.save_attributes(map(_attributes_row, staged))

    def _save_alone(self, inode: Inode) -> None:
        try:
            with self._index.operation():
                self._save([inode])
        except IndexRowRefused as error:
            self.refused[inode.number] = str(error)

    def write_back_committed(self) -> None:
        """Notes that the commit after `write_back` has succeeded; the next one tries again what was refused."""
        self.dirty = {number: self.dirty[number] for number in self.refused}
        self.to_delete.clear()


def _full_row(inode: Inode) -> tuple[int, ...]:
    return (
        inode.number,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.rdev,
        inode.flags,
        inode.size,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
    )


def _attributes_row(inode: Inode) -> tuple[int, ...]:
    return (inode.number, inode.mode, inode.uid, inode.gid, inode.nlink, inode.flags, inode.atime_ns)
