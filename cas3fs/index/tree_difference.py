# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between the trees of two indexes of one volume, an older and a newer one.

Numbers of inodes are never used again, so an inode that both have is the same file. An entry is *lost* if the newer
index has no entry of that parent, name and inode, and *gained* if the older one has none. Then

- an inode that lost one name and gained one was renamed; what lies below a renamed directory is not reported for that;
- a lost and a gained entry with the same path are one file that was replaced, and it changed if the two differ;
- any other lost entry was removed, any other gained entry was added;
- an entry that both have changed if its inode did: its content (size, chunks, target, type), or its attributes (mode,
  owner, flags, extended attributes; the time of change of a file's content, but not that of a directory).

Set statements find the lost, the gained and the changed ones; only for those a path is made. The result is sorted by
path in a temporary file, so that memory is bounded however many there are.
"""

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Executable,
    FromClause,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    union,
)
from sqlalchemy.schema import CreateTable

from cas3fs.index.sqlite import Database
from cas3fs.index.statement import BoundStatement, Row, Statement, ddl
from cas3fs.index.tables import ROOT_INODE, dentries, inodes, symlinks, xattrs
from cas3fs.index.trees import DirectoryPaths, name_of_directory

Kind = Literal["added", "removed", "changed", "renamed"]

_OLDER: Final = "older"
_PAGE_ROWS: Final = 2000
_CACHE_KIB: Final = 16384
_LOST, _GAINED, _RENAMED, _CHANGED = range(4)
_ENTRY: Final = ("parent", "name", "inode")

_in_older = MetaData(schema=_OLDER)
# under names of their own, as SQLAlchemy confuses tables of one name in two databases
_o_inodes, _o_dentries, _o_xattrs, _o_symlinks = (
    table.to_metadata(_in_older, schema=_OLDER).alias(f"older_{table.name}")
    for table in (inodes, dentries, xattrs, symlinks)
)

TEMPORARY: Final = MetaData(schema="temp")
"""The temporary tables of a comparison."""


def _entries(name: str) -> Table:
    return Table(
        name,
        TEMPORARY,
        Column("parent", Integer, primary_key=True, autoincrement=False),
        Column("name", LargeBinary, primary_key=True),
        Column("inode", Integer, nullable=False),
        sqlite_with_rowid=False,
    )


_lost, _gained = _entries("lost_entries"), _entries("gained_entries")
_renamed = Table("renamed_inodes", TEMPORARY, Column("inode", Integer, primary_key=True))
_changed = Table("changed_inodes", TEMPORARY, Column("inode", Integer, primary_key=True))
_rows = Table(
    "differing",
    TEMPORARY,
    Column("path", LargeBinary, primary_key=True),
    Column("kind", Integer, primary_key=True, autoincrement=False),
    Column("old_path", LargeBinary),
    Column("old", Integer),
    Column("new", Integer),
    sqlite_with_rowid=False,
)


class TreeState(NamedTuple):
    """What one of the indexes has of a file."""

    inode: int
    mode: int
    uid: int
    gid: int
    rdev: int
    flags: int
    size: int
    mtime_ns: int
    chunk_count: int
    chunk_sum: int
    chunk_bytes: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def content(self) -> tuple[int, ...]:
        """What two files with the same content have in common, but for the target of a symbolic link."""
        kind = stat.S_IFMT(self.mode)
        if self.is_directory:
            return (kind,)
        return (kind, self.rdev, self.size, self.chunk_count, self.chunk_sum, self.chunk_bytes)

    @property
    def attributes(self) -> tuple[int, ...]:
        """The same for attributes, but for extended ones."""
        time = 0 if self.is_directory else self.mtime_ns
        return (stat.S_IMODE(self.mode), self.uid, self.gid, self.flags, time)


class TreeChange(NamedTuple):
    """One difference; paths as in `cas3fs.index.trees`."""

    kind: Kind
    path: bytes
    """Where it is in the newer tree, or was in the older one, if it was removed."""
    old_path: bytes | None
    """Of what was renamed: where it was."""
    old: TreeState | None
    new: TreeState | None
    content: bool
    """Whether the content differs; of what was changed or renamed."""
    attributes: bool
    """The same of attributes."""


def _equal(one: FromClause, other: FromClause, *names: str) -> ColumnElement[bool]:
    return and_(*(one.c[name] == other.c[name] for name in names))


def _fill_lacking(into: Table, table: FromClause, other: FromClause) -> Statement:
    """Entries of a table that the other has not. Nearly all have the same number in both, which is found by one step;
    for the few others the names are compared."""
    return Statement(
        lambda: insert(into).from_select(
            list(_ENTRY),
            select(*(table.c[name] for name in _ENTRY)).where(
                ~exists().where(_equal(other, table, "id", *_ENTRY)), ~exists().where(_equal(other, table, *_ENTRY))
            ),
        )
    )


def _with_one(table: Table) -> Any:
    return select(table.c.inode).group_by(table.c.inode).having(func.count() == 1)


def _differing_inodes() -> Executable:
    """SQL: the numbers of inodes that both have and that differ."""
    both = inodes.join(_o_inodes, _o_inodes.c.id == inodes.c.id)
    of_files = ("mtime_ns", "size", "chunk_count", "chunk_sum", "chunk_bytes")
    is_file = inodes.c.mode.bitwise_and(0o170000) != stat.S_IFDIR
    differ = or_(
        *(inodes.c[name] != _o_inodes.c[name] for name in ("mode", "uid", "gid", "rdev", "flags")),
        and_(is_file, or_(*(inodes.c[name] != _o_inodes.c[name] for name in of_files))),
    )
    names = ("inode", "name", "value")
    attributes, older = (select(*(one.c[name] for name in names)) for one in (xattrs, _o_xattrs))
    with_xattrs = (select(one.subquery().c.inode) for one in (attributes.except_(older), older.except_(attributes)))
    found = union(select(inodes.c.id).select_from(both).where(differ), *with_xattrs)
    return insert(_changed).from_select(["inode"], found)


_FILL: Final = (
    _fill_lacking(_lost, _o_dentries, dentries),
    _fill_lacking(_gained, dentries, _o_dentries),
    Statement(lambda: insert(_renamed).from_select(["inode"], _with_one(_lost).intersect(_with_one(_gained)))),
    Statement(_differing_inodes),
)


def _page_of(table: Table) -> Statement:
    """Entries of a temporary table, and the other side of what was renamed."""
    other = _gained if table is _lost else _lost
    moved = table.outerjoin(_renamed, _renamed.c.inode == table.c.inode)
    columns = [table.c.parent, table.c.name, table.c.inode, _renamed.c.inode]
    if table is _gained:
        moved = moved.outerjoin(other, and_(other.c.inode == _renamed.c.inode))
        columns += [other.c.parent, other.c.name]
    return Statement(
        lambda parent, name, limit: (
            select(*columns)
            .select_from(moved)
            .where(tuple_(table.c.parent, table.c.name) > tuple_(parent, name))
            .order_by(table.c.parent, table.c.name)
            .limit(limit)
        )
    )


_PAGE_OF_LOST, _PAGE_OF_GAINED = _page_of(_lost), _page_of(_gained)
_PAGE_OF_CHANGED: Final = Statement(
    lambda parent, name, limit: (
        select(dentries.c.parent, dentries.c.name, dentries.c.inode)
        .where(
            dentries.c.inode.in_(select(_changed.c.inode)),
            tuple_(dentries.c.parent, dentries.c.name) > tuple_(parent, name),
            ~exists().where(_gained.c.parent == dentries.c.parent, _gained.c.name == dentries.c.name),
        )
        .order_by(dentries.c.parent, dentries.c.name)
        .limit(limit)
    )
)
_IS_CHANGED: Final = Statement(lambda inode: select(_changed.c.inode).where(_changed.c.inode == inode))
_ADD: Final = Statement(
    lambda path, kind, old_path, old, new: insert(_rows).values(
        path=path, kind=kind, old_path=old_path, old=old, new=new
    )
)
_NAME_OF: Final = name_of_directory(_o_dentries), name_of_directory(dentries)


def _state_columns(table: FromClause) -> list[Any]:
    return [table.c["id" if name == "inode" else name] for name in TreeState._fields]


_RESULT: Final = Statement(
    lambda path, kind, limit: (
        select(_rows.c.path, _rows.c.kind, _rows.c.old_path, *_state_columns(_o_inodes), *_state_columns(inodes))
        .select_from(
            _rows.outerjoin(_o_inodes, _o_inodes.c.id == _rows.c.old).outerjoin(inodes, inodes.c.id == _rows.c.new)
        )
        .where(tuple_(_rows.c.path, _rows.c.kind) > tuple_(path, kind))
        .order_by(_rows.c.path, _rows.c.kind)
        .limit(limit)
    )
)


def _xattrs_of(table: FromClause) -> Statement:
    return Statement(
        lambda inode: select(table.c.name, table.c.value).where(table.c.inode == inode).order_by(table.c.name)
    )


def _target_of(table: FromClause) -> Statement:
    return Statement(lambda inode: select(table.c.target).where(table.c.inode == inode))


_XATTRS: Final = _xattrs_of(_o_xattrs), _xattrs_of(xattrs)
_TARGETS: Final = _target_of(_o_symlinks), _target_of(symlinks)
_ANY_XATTR: Final = Statement(
    lambda: union(
        select(_o_xattrs.c.inode).limit(1).subquery().select(), select(xattrs.c.inode).limit(1).subquery().select()
    )
)


class _Comparison:
    """Two indexes, opened beside each other."""

    def __init__(self, database: Database, below: bytes) -> None:
        self._database, self._below = database, below
        self._old_paths, self._new_paths = (DirectoryPaths(one.on(database)) for one in _NAME_OF)
        self._xattrs, self._targets = ([one.on(database) for one in pair] for pair in (_XATTRS, _TARGETS))
        self._has_xattrs = bool(_ANY_XATTR.on(database).all())

    def find(self) -> None:
        """Fills the table of what differs."""
        for table in TEMPORARY.sorted_tables:
            self._database.execute(ddl(CreateTable(table)))
        for one in _FILL:
            one.on(self._database).all()
        add = _ADD.on(self._database)
        if not self._below and _IS_CHANGED.on(self._database).one(ROOT_INODE):
            add.fill([(b"", _CHANGED, None, ROOT_INODE, ROOT_INODE)])
        for page, convert in (
            (_PAGE_OF_LOST, self._lost),
            (_PAGE_OF_GAINED, self._gained),
            (_PAGE_OF_CHANGED, self._changed),
        ):
            for rows in self._pages(page):
                found = (convert(*row) for row in rows)
                add.fill([one for one in found if one is not None and self._is_wanted(one[0], one[2])])

    def _pages(self, page: Statement) -> Iterator[list[Row]]:
        bound = page.on(self._database)
        after: tuple[int, bytes] = (-1, b"")
        while rows := bound.all(*after, _PAGE_ROWS):
            yield rows
            after = (rows[-1][0], rows[-1][1])

    def _lost(self, parent: int, name: bytes, inode: int, renamed: int | None) -> Row | None:
        path = None if renamed is not None else self._old_paths.path(parent, name)
        return None if path is None else (path, _LOST, None, inode, None)

    def _gained(self, parent: int, name: bytes, inode: int, *other: Any) -> Row | None:
        path = self._new_paths.path(parent, name)
        if path is None:
            return None
        renamed, old_parent, old_name = other
        if renamed is None:
            return path, _GAINED, None, None, inode
        return path, _RENAMED, self._old_paths.path(old_parent, old_name), inode, inode

    def _changed(self, parent: int, name: bytes, inode: int) -> Row | None:
        path = self._new_paths.path(parent, name)
        return None if path is None else (path, _CHANGED, None, inode, inode)

    def _is_wanted(self, *paths: bytes | None) -> bool:
        below = self._below
        return not below or any(one is not None and (one == below or one.startswith(below + b"/")) for one in paths)

    def changes(self) -> Iterator[TreeChange]:
        """What was found, by path."""
        lost: tuple[bytes, TreeState] | None = None
        for path, kind, old_path, old, new in self._results():
            if lost is not None and (kind != _GAINED or lost[0] != path):
                yield TreeChange("removed", lost[0], None, lost[1], None, content=False, attributes=False)
                lost = None
            if kind == _LOST and old is not None:
                lost = path, old
            elif kind == _GAINED and new is not None and lost is None:
                yield TreeChange("added", path, None, None, new, content=False, attributes=False)
            elif new is not None:
                before = old if lost is None else lost[1]
                lost = None
                if before is not None and (change := self._compared(path, old_path, before, new)) is not None:
                    yield change
        if lost is not None:
            yield TreeChange("removed", lost[0], None, lost[1], None, content=False, attributes=False)

    def _results(self) -> Iterator[tuple[bytes, int, bytes | None, TreeState | None, TreeState | None]]:
        bound, width = _RESULT.on(self._database), len(TreeState._fields)
        after: tuple[bytes, int] = (b"", -1)
        while rows := bound.all(*after, _PAGE_ROWS):
            for path, kind, old_path, *values in rows:
                old, new = values[:width], values[width:]
                states = [None if one[0] is None else TreeState(*one) for one in (old, new)]
                yield path, kind, old_path, states[0], states[1]
            after = (rows[-1][0], rows[-1][1])

    def _compared(self, path: bytes, old_path: bytes | None, old: TreeState, new: TreeState) -> TreeChange | None:
        """The change of a file that both have; None if there is none."""
        content = old.content != new.content
        if not content and old.inode != new.inode and stat.S_ISLNK(old.mode):
            content = self._differ(self._targets, old, new)
        attributes = old.attributes != new.attributes
        attributes = attributes or (self._has_xattrs and self._differ(self._xattrs, old, new))
        if old_path is not None and old_path != path:
            return TreeChange("renamed", path, old_path, old, new, content=content, attributes=attributes)
        if not content and not attributes:
            return None
        return TreeChange("changed", path, None, old, new, content=content, attributes=attributes)

    @staticmethod
    def _differ(of_sides: Sequence[BoundStatement], old: TreeState, new: TreeState) -> bool:
        before, after = of_sides
        return before.all(old.inode) != after.all(new.inode)


def tree_changes(older: Path, newer: Path, below: bytes = b"") -> Iterator[TreeChange]:
    """What differs between two indexes of a volume, by path.

    Args:
        older, newer: the indexes; nothing writes them meanwhile.
        below: only what is or was at this path, or below it.

    Raises:
        IndexDatabaseError: one of them cannot be read, or there is no space for temporary files.
    """
    database = Database(newer, "read")
    try:
        database.keep_temporary_tables_in_files(_CACHE_KIB)
        database.attach(older, _OLDER)
        comparison = _Comparison(database, below)
        database.pin()  # else every row of a temporary table would be a transaction of its own
        comparison.find()
        database.unpin()
        yield from comparison.changes()
    finally:
        database.close()
