# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of names in an index that nothing writes, such as that of a snapshot: looked up, listed, and searched.

A *path* is bytes without a slash at its ends; that of the root is empty. What is cached is bounded; a directory of any
size is read in pages.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from sqlalchemy import FromClause, select

from cas3fs.index.namespace import InodeRow, Namespace
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import BoundStatement, Statement
from cas3fs.index.tables import ROOT_INODE, dentries, inodes

_PAGE_ROWS: Final = 2000
_CACHED_DIRECTORIES: Final = 100_000
_DEEPEST: Final = 4096
"""No path of a file system that works has so many parts; in a damaged one directories may hold each other."""


def name_of_directory(table: FromClause) -> Statement:
    """The statement with which `DirectoryPaths` climbs: the (parent, name) of a directory in that table of entries."""
    return Statement(lambda inode: select(table.c.parent, table.c.name).where(table.c.inode == inode).limit(1))


class DirectoryPaths:
    """Finds the paths of entries; those of directories are remembered.

    Args:
        name_of: made by `name_of_directory`.
    """

    def __init__(self, name_of: BoundStatement) -> None:
        self._name_of = name_of
        self._known: dict[int, bytes] = {ROOT_INODE: b""}

    def path(self, parent: int, name: bytes) -> bytes | None:
        """The path of an entry; None if it hangs in no tree, which only a damaged index has."""
        directory = self._directory(parent)
        return None if directory is None else _join(directory, name)

    def _directory(self, number: int) -> bytes | None:
        climbed: list[tuple[int, bytes]] = []
        while (known := self._known.get(number)) is None:
            row = self._name_of.one(number)
            if row is None or len(climbed) > _DEEPEST:
                return None
            climbed.append((number, row[1]))
            number = row[0]
        if len(self._known) + len(climbed) > _CACHED_DIRECTORIES:
            self._known = {ROOT_INODE: b""}
        for directory, name in reversed(climbed):
            known = self._known[directory] = _join(known, name)
        return known


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


class FileContent(NamedTuple):
    """What distinguishes two versions of a file; a file that was written again with the same bytes may have been cut in
    another way, and is then another version."""

    kind: int
    """The type bits of the mode."""
    size: int
    mtime_ns: int
    chunk_count: int
    chunk_sum: int
    target: bytes | None
    """Of a symbolic link."""


class SnapshotTree:
    """Reads the tree of an index, on a connection of its own, for one thread.

    Every method raises `IndexDatabaseError` and its kinds, and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        self._namespace = Namespace(self._database)

    def find(self, names: Sequence[bytes]) -> InodeRow | None:
        """The inode at the path of these names, or None; symbolic links on the way are not followed."""
        row = self._namespace.inode(ROOT_INODE)
        for name in names:
            if row is None:
                return None
            row = self._namespace.lookup(row[0], name)
        return None if row is None else InodeRow(*row)

    def entries(self, directory: int) -> Iterator[tuple[bytes, InodeRow]]:
        """The entries of a directory, in the order in which they were made."""
        after = 0
        while rows := self._namespace.entries_with_inodes(directory, after, _PAGE_ROWS):
            for _, name, *row in rows:
                yield name, InodeRow(*row)
            after = rows[-1][0]

    def target(self, inode: int) -> bytes | None:
        """The target of a symbolic link, or None."""
        return self._namespace.symlink(inode)

    _content = Statement(lambda inode: select(inodes.c.chunk_count, inodes.c.chunk_sum).where(inodes.c.id == inode))

    def content(self, row: InodeRow) -> FileContent:
        """The content of a file."""
        count, total = self._content.one(row.number)
        return FileContent(row.mode & 0o170000, row.size, row.mtime_ns, count, total, self.target(row.number))

    _names = Statement(
        lambda after, limit: (
            select(dentries.c.id, dentries.c.parent, dentries.c.name, dentries.c.inode)
            .where(dentries.c.id > after)
            .order_by(dentries.c.id)
            .limit(limit)
        )
    )
    _name_of = name_of_directory(dentries)

    def search(
        self, matches_name: Callable[[bytes], bool], matches_path: Callable[[bytes], bool]
    ) -> Iterator[tuple[bytes, InodeRow]]:
        """Every entry whose name and path match, in no order; the path is asked for only where the name matches."""
        paths = DirectoryPaths(self._name_of)
        after = 0
        while rows := self._names.all(after, _PAGE_ROWS):
            for _, parent, name, inode in rows:
                if matches_name(name):
                    path, row = paths.path(parent, name), self._namespace.inode(inode)
                    if path is not None and row is not None and matches_path(path):
                        yield path, InodeRow(*row)
            after = rows[-1][0]

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
