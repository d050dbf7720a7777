# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a file or a tree out of the index of a snapshot, as rows that another index can be given.

Numbers are those of the snapshot; blocks are named by their hashes. All of it is in memory, so the number of rows is
limited.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
from sqlalchemy import select

from cas3fs.errors import SnapshotError
from cas3fs.index.blocks import PackRow, all_lost
from cas3fs.index.chunks import ChunkTable
from cas3fs.index.namespace import InodeRow, Namespace
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement
from cas3fs.index.tables import ROOT_INODE, packs
from cas3fs.values import BlockHash, BlockLocation

LARGEST_TREE: Final = 200_000
"""So many names and chunks together; entering them takes a few seconds, in which no operation runs."""
_PAGE_ROWS: Final = 2000
_MOST: Final = 2**63 - 1

_PACK: Final = Statement(
    lambda name: select(packs.c.name, packs.c.size, packs.c.born, packs.c.died).where(packs.c.name == name)
)
_LOST: Final = Statement(all_lost)

TreeChunk = tuple[int, int, int, int, BlockHash]
"""A chunk: (inode, offset, length, skip, hash of the block)."""


@attrs.define
class TreeRows:
    """A tree; the first inode is its top."""

    inodes: list[InodeRow] = attrs.field(factory=list)
    entries: list[tuple[int, bytes, int]] = attrs.field(factory=list)
    """Names within the tree: (parent, name, inode)."""
    symlinks: list[tuple[int, bytes]] = attrs.field(factory=list)
    xattrs: list[tuple[int, bytes, bytes]] = attrs.field(factory=list)
    chunks: list[TreeChunk] = attrs.field(factory=list)
    blocks: dict[BlockHash, BlockLocation] = attrs.field(factory=dict)
    """Where the snapshot has the blocks of the chunks."""
    lost: set[BlockHash] = attrs.field(factory=set)
    """Those of them that it knows to be lost."""
    packs: dict[str, PackRow] = attrs.field(factory=dict)
    """The packs that hold them, by name."""

    @property
    def size(self) -> int:
        """How many names and chunks there are."""
        return len(self.inodes) + len(self.entries) + len(self.chunks)

    @property
    def logical_bytes(self) -> int:
        """Sum of the sizes of the regular files."""
        return sum(one.size for one in self.inodes if stat.S_ISREG(one.mode))


def read_tree(index: Path, names: Sequence[bytes], limit: int = LARGEST_TREE) -> TreeRows | None:
    """The file or tree at the path of these names; None where there is none.

    Raises:
        SnapshotError: it has more than `limit` names and chunks.
        BlockMissing: the index has lost a block of it.
        IndexDatabaseError: the index cannot be read.
    """
    database = Database(index, "read")
    try:
        return _TreeReader(database, limit).read(names)
    finally:
        database.close()


class _TreeReader:
    """Reads one tree."""

    def __init__(self, database: Database, limit: int) -> None:
        self._space, self._chunks = Namespace(database), ChunkTable(database)
        self._pack, self._lost = _PACK.on(database), _LOST.on(database)
        self._limit = limit
        self._tree = TreeRows()
        self._known: set[int] = set()

    def read(self, names: Sequence[bytes]) -> TreeRows | None:
        row = self._space.inode(ROOT_INODE)
        for name in names:
            row = None if row is None else self._space.lookup(row[0], name)
        if row is None:
            return None
        directories = self._add([InodeRow(*row)])
        while directories:
            directories = [below for one in directories for below in self._read_directory(one)]
        tree = self._tree
        for pack in {one.pack for one in tree.blocks.values()}:
            tree.packs[pack] = PackRow(*self._pack.one(pack))
        tree.lost = {row[0] for row in self._lost.all()} & set(tree.blocks)
        return tree

    def _read_directory(self, number: int) -> list[int]:
        """Adds what the directory has; the directories among it."""
        found: list[int] = []
        after = 0
        while rows := self._space.entries_with_inodes(number, after, _PAGE_ROWS):
            self._tree.entries += [(number, row[1], row[2]) for row in rows]
            found += self._add([InodeRow(*row[2:]) for row in rows])
            after = rows[-1][0]
        return found

    def _add(self, rows: Sequence[InodeRow]) -> list[int]:
        """Adds inodes that were not met before; the directories among them."""
        by_number = {one.number: one for one in rows if one.number not in self._known}  # a file may have several names
        new = list(by_number.values())
        self._known.update(by_number)
        self._tree.inodes += new
        for one in new:
            self._add_contents(one)
            if self._tree.size > self._limit:
                raise SnapshotError(
                    f"the tree has more than {self._limit:,} names and pieces of files, which is the most that is "
                    "restored at once: restore its folders one by one, or use `cas3fs snapshot extract`"
                )
        return [one.number for one in new if stat.S_ISDIR(one.mode)]

    def _add_contents(self, row: InodeRow) -> None:
        tree, number = self._tree, row.number
        for name in self._space.list_xattrs(number):
            value = self._space.get_xattr(number, name)
            if value is not None:
                tree.xattrs.append((number, name, value))
        if stat.S_ISLNK(row.mode):
            target = self._space.symlink(number)
            tree.symlinks.append((number, target or b""))
        if not stat.S_ISREG(row.mode):
            return
        for span in self._chunks.spans(number, 0, _MOST, self._limit + 1):
            tree.chunks.append((number, span.offset, span.length, span.skip, span.block.hash))
            tree.blocks[span.block.hash] = span.block
