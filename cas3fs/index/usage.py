# SPDX-License-Identifier: GPL-3.0-or-later
"""What trees of files take: how large they are, which blocks they name, and which of those nothing else names.

Everything is found by set statements over temporary tables, on a connection that only reads: in one transaction, which
ends before the results are used, so that the index's log can be emptied. As in a scan (`cas3fs.index.scans`), SQLite
puts the temporary tables into a file that no other process sees.

Words
    root     a file or folder that somebody asked for
    node     what gets figures of its own: a root, or a folder at most so many levels below one
    own      of a node: itself and what lies below it, without what lies in a node below it
    members  of a node: itself and everything below it
    kept     of a node: those members that also have a name elsewhere, so that deleting the node keeps them
    unique   of a node: the blocks that only its members name, without those that are kept

A hard link counts once in each node that has it, and so does a block. So the figures of a folder are not the sums of
those of its parts.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Executable,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    case,
    func,
    insert,
    select,
)
from sqlalchemy.schema import CreateTable

from cas3fs.index.holder import ConnectionHolder
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import OrderedJoin, Statement, ddl
from cas3fs.index.tables import ROOT_INODE, blocks, chunks, dentries, inodes, packs
from cas3fs.values import StagedSize

TEMPORARY: Final = MetaData(schema="temp")
_CACHE_KIB: Final = 16 * 1024
_HALF_BITS: Final = 32


def _table(name: str, key: Sequence[str], *others: Column[Any]) -> Table:
    """A table of integers in the order of its key, with further columns."""
    keys = (Column(one, Integer, primary_key=True, autoincrement=False) for one in key)
    return Table(f"usage_{name}", TEMPORARY, *keys, *others, sqlite_with_rowid=False)


_nodes = Table(
    "usage_nodes",
    TEMPORARY,
    Column("id", Integer, primary_key=True),
    *(Column(name, Integer) for name in ("parent", "depth", "inode")),
    Column("name", LargeBinary),
)
_ancestors = _table("ancestors", ("node", "ancestor"))
_own = _table("own", ("node", "inode"))
_members = _table("members", ("node", "inode"))
_kept = _table("kept", ("node", "inode"))
_used = _table("used", ("node", "block"), Column("freed", Integer))
_named = _table("named", ("block",), Column("uses", Integer))
_staged = _table("staged", ("inode",), *(Column(name, Integer) for name in ("size", "allocated", "unstored")))

_IS_FOLDER: Final = inodes.c.mode.bitwise_and(stat.S_IFMT(0o177777)) == stat.S_IFDIR


class Usage(NamedTuple):
    """What one node takes; sizes in bytes."""

    root: int
    """Which of the roots it is, or lies below."""
    depth: int
    path: bytes
    """Below that root; empty for the root."""
    files: int
    """All but folders; one with several names counts once."""
    folders: int
    logical_bytes: int
    """The sum of the sizes of all files, holes included."""
    allocated_bytes: int
    """The same without holes."""
    unstored_files: int
    unstored_bytes: int
    """Of the allocated ones, those that are not stored yet."""
    stored_bytes: int
    """The encoded bytes of the blocks that it names."""
    unique_bytes: int
    """Of those, what nothing else names."""
    held_bytes: int
    """Of the unique ones, those in packs that a snapshot needs."""


class _Sizes(NamedTuple):
    files: int = 0
    folders: int = 0
    logical_bytes: int = 0
    allocated_bytes: int = 0
    unstored_files: int = 0
    unstored_bytes: int = 0


def _in_folders(folders: Any, folder: ColumnElement[int]) -> OrderedJoin:
    """What is named in each of these folders: for each row of `folders` the names in the inode `folder`."""
    names = OrderedJoin(folders, dentries, dentries.c.parent == folder)
    return OrderedJoin(names, inodes, inodes.c.id == dentries.c.inode)


def _everything_below(depth: Any) -> Executable:
    """SQL: the nodes of that depth and everything below them become rows of `_own`."""
    start = select(_nodes.c.id.label("node"), _nodes.c.inode.label("inode")).where(_nodes.c.depth == depth)
    walk = start.cte("walk", recursive=True)
    # UNION drops what was there before, so this ends even where a damaged index has a folder within itself
    step = select(walk.c.node, dentries.c.inode).select_from(
        OrderedJoin(walk, dentries, dentries.c.parent == walk.c.inode)
    )
    walk = walk.union(step)
    return insert(_own).from_select(
        ["node", "inode"], select(walk.c.node, walk.c.inode).order_by(walk.c.node, walk.c.inode)
    )


def _all_ancestors() -> Executable:
    """SQL: each node, and every node above it, as rows of `_ancestors`."""
    walk = select(_nodes.c.id.label("node"), _nodes.c.id.label("ancestor")).cte("walk", recursive=True)
    step = (
        select(walk.c.node, _nodes.c.parent)
        .select_from(OrderedJoin(walk, _nodes, _nodes.c.id == walk.c.ancestor))
        .where(_nodes.c.parent.is_not(None))
    )
    walk = walk.union_all(step)
    return insert(_ancestors).from_select(
        ["node", "ancestor"], select(walk.c.node, walk.c.ancestor).order_by(walk.c.node, walk.c.ancestor)
    )


def _kept_members() -> Executable:
    """SQL: the members of which not all names lie in folders of the node become rows of `_kept`. So does a root that is
    a file, if it has any other name."""
    folder = _members.alias("folder")
    inside = (
        select(func.count())
        .select_from(
            OrderedJoin(dentries, folder, (folder.c.inode == dentries.c.parent) & (folder.c.node == _members.c.node))
        )
        .where(dentries.c.inode == _members.c.inode)
        .scalar_subquery()
    )
    return insert(_kept).from_select(
        ["node", "inode"],
        select(_members.c.node, _members.c.inode)
        .select_from(OrderedJoin(_members, inodes, inodes.c.id == _members.c.inode))
        .where(inodes.c.nlink > 1, ~_IS_FOLDER, inodes.c.nlink > inside),
    )


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))


def _size() -> ColumnElement[int]:
    return func.coalesce(_staged.c.size, inodes.c.size)


def _stored_size() -> ColumnElement[int]:
    """Of what is stored of a file, the bytes without holes; of anything else its size."""
    is_file = inodes.c.mode.bitwise_and(stat.S_IFMT(0o177777)) == stat.S_IFREG
    return case((is_file, inodes.c.chunk_bytes), else_=inodes.c.size)


def _bytes_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, blocks.c.stored_length), else_=0))


def _is_unique() -> ColumnElement[bool]:
    return _used.c.freed == _named.c.uses


class UsageReader(ConnectionHolder):
    """Measures trees of an index, as it was when this was made; for one thread, and not to be kept open for long.

    Every method raises `IndexDatabaseError` and its kinds.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        try:
            self._database.keep_temporary_tables_in_files(_CACHE_KIB)
            self._database.pin()
        except BaseException:
            self._database.close()
            raise

    _child = Statement(
        lambda parent, name: select(dentries.c.inode).where(dentries.c.parent == parent, dentries.c.name == name)
    )

    def find(self, path: str) -> int | None:
        """The number of the inode at a path from the root of the volume; None where there is none. Symbolic links are
        not followed, and ``..`` is no name."""
        number = ROOT_INODE
        for name in path.split("/"):
            if name not in ("", "."):
                row = self._child.one(number, os.fsencode(name))
                if row is None:
                    return None
                number = row[0]
        return number

    _has = Statement(lambda inode: select(inodes.c.id).where(inodes.c.id == inode))

    def has(self, inode: int) -> bool:
        """Whether there is such an inode."""
        return self._has.one(inode) is not None

    def measure(
        self, roots: Sequence[int], depth: int, staged: Iterable[StagedSize], newest_snapshot: int
    ) -> list[Usage]:
        """What each of these inodes takes, and each folder at most `depth` levels below it; once for each reader.

        Args:
            roots: numbers of inodes.
            depth: 0 for the roots alone.
            staged: the files with bytes that are not stored yet.
            newest_snapshot: the ordinal of the newest snapshot that is retained; 0 without any.
        """
        for table in TEMPORARY.sorted_tables:
            self._database.execute(ddl(CreateTable(table)))
        self._add_staged.fill(staged)
        deepest = self._find_nodes(roots, depth)
        self._find_members(deepest)
        sizes = self._find_sizes()
        self._find_blocks()
        stored = {node: sums for node, *sums in self._stored.all(newest_snapshot)}
        self._database.unpin()
        return [
            Usage(root, level, path, *sizes.get(node, _Sizes()), *stored.get(node, (0, 0, 0)))
            for node, root, level, path in self._paths()
        ]

    # -- the trees

    _add_staged = Statement(
        lambda inode, size, allocated, unstored: insert(_staged).values(
            inode=inode, size=size, allocated=allocated, unstored=unstored
        )
    )
    _add_root = Statement(lambda node, inode: insert(_nodes).values(id=node, depth=0, inode=inode))
    _add_level = Statement(
        lambda depth: insert(_nodes).from_select(
            ["parent", "depth", "inode", "name"],
            select(_nodes.c.id, _nodes.c.depth + 1, dentries.c.inode, dentries.c.name)
            .select_from(_in_folders(_nodes, _nodes.c.inode))
            .where(_nodes.c.depth == depth, _IS_FOLDER)
            .order_by(_nodes.c.id, dentries.c.name),
        )
    )
    _deepest = Statement(lambda: select(func.max(_nodes.c.depth)))

    def _find_nodes(self, roots: Sequence[int], depth: int) -> int:
        """Fills the table of nodes; returns the depth of the deepest, or `depth` where folders may lie below that."""
        self._add_root.fill((place + 1, inode) for place, inode in enumerate(roots))
        for level in range(depth):
            self._add_level.all(level)
            if self._deepest.one()[0] == level:
                break
        return depth

    _add_self = Statement(
        lambda depth: insert(_own).from_select(
            ["node", "inode"], select(_nodes.c.id, _nodes.c.inode).where(_nodes.c.depth < depth).order_by(_nodes.c.id)
        )
    )
    _add_files = Statement(
        lambda depth: insert(_own).from_select(
            ["node", "inode"],
            select(_nodes.c.id, dentries.c.inode)
            .distinct()
            .select_from(_in_folders(_nodes, _nodes.c.inode))
            .where(_nodes.c.depth < depth, ~_IS_FOLDER)
            .order_by(_nodes.c.id, dentries.c.inode),
        )
    )
    _add_below = Statement(_everything_below)
    _add_ancestors = Statement(_all_ancestors)
    _add_members = Statement(
        lambda: insert(_members).from_select(
            ["node", "inode"],
            select(_ancestors.c.ancestor, _own.c.inode)
            .distinct()
            .select_from(OrderedJoin(_ancestors, _own, _own.c.node == _ancestors.c.node))
            .order_by(_ancestors.c.ancestor, _own.c.inode),
        )
    )
    _add_kept = Statement(_kept_members)

    def _find_members(self, depth: int) -> None:
        """Fills the tables of what lies below the nodes; those of `depth` have no nodes below them."""
        self._add_self.all(depth)
        self._add_files.all(depth)
        self._add_below.all(depth)
        self._add_ancestors.all()
        self._add_members.all()
        self._add_kept.all()

    _sizes = Statement(
        lambda: (
            select(
                _members.c.node,
                _count(~_IS_FOLDER),
                _count(_IS_FOLDER),
                # in two parts: two sparse files may be larger together than a number can be
                func.sum(_size().bitwise_rshift(_HALF_BITS)),
                func.sum(_size().bitwise_and(2**_HALF_BITS - 1)),
                func.sum(func.coalesce(_staged.c.allocated, _stored_size())),
                func.count(_staged.c.inode),
                func.coalesce(func.sum(_staged.c.unstored), 0),
            )
            .select_from(
                OrderedJoin(_members, inodes, inodes.c.id == _members.c.inode).outerjoin(
                    _staged, _staged.c.inode == _members.c.inode
                )
            )
            .group_by(_members.c.node)
        )
    )

    def _find_sizes(self) -> dict[int, _Sizes]:
        """How large each node is."""
        return {
            node: _Sizes(files, folders, (high << _HALF_BITS) + low, *others)
            for node, files, folders, high, low, *others in self._sizes.all()
        }

    # -- their blocks

    _add_used = Statement(
        lambda: insert(_used).from_select(
            ["node", "block", "freed"],
            select(_members.c.node, chunks.c.block, _count(_kept.c.inode.is_(None)))
            .select_from(
                OrderedJoin(_members, chunks, chunks.c.inode == _members.c.inode).outerjoin(
                    _kept, (_kept.c.node == _members.c.node) & (_kept.c.inode == _members.c.inode)
                )
            )
            .group_by(_members.c.node, chunks.c.block)
            .order_by(_members.c.node, chunks.c.block),
        )
    )
    _add_named = Statement(
        lambda: insert(_named).from_select(
            ["block", "uses"],
            select(chunks.c.block, func.count())
            .where(chunks.c.block.in_(select(_used.c.block)))
            .group_by(chunks.c.block)
            .order_by(chunks.c.block),
        )
    )

    def _find_blocks(self) -> None:
        """Fills the tables of blocks: those of each node, and how often the whole index names each."""
        self._add_used.all()
        self._add_named.all()

    _stored = Statement(
        lambda newest: (
            select(
                _used.c.node,
                func.sum(blocks.c.stored_length),
                _bytes_where(_is_unique()),
                _bytes_where(  # a pack with a block of the index has not died, so it is enough that it is as old
                    _is_unique() & (packs.c.born <= newest)
                ),
            )
            .select_from(
                OrderedJoin(
                    OrderedJoin(
                        OrderedJoin(_used, blocks, blocks.c.id == _used.c.block),
                        _named,
                        _named.c.block == _used.c.block,
                    ),
                    packs,
                    packs.c.id == blocks.c.pack,
                )
            )
            .group_by(_used.c.node)
        )
    )

    # -- the results

    _all_nodes = Statement(
        lambda: select(_nodes.c.id, _nodes.c.parent, _nodes.c.depth, _nodes.c.name).order_by(_nodes.c.id)
    )

    def _paths(self) -> list[tuple[int, int, int, bytes]]:
        """Each node, its root, its depth, and its path below that; parents come before their children."""
        found: dict[int, tuple[int, int, int, bytes]] = {}
        for node, parent, depth, name in self._all_nodes.all():
            if parent is None:
                found[node] = (node, node - 1, depth, b"")
            else:
                _, root, _, above = found[parent]
                found[node] = (node, root, depth, above + b"/" + name if above else name)
        return list(found.values())
