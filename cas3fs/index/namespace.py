# SPDX-License-Identifier: GPL-3.0-or-later
"""Inodes and their names, symbolic links and extended attributes.

A row of an inode is a plain tuple in the order of `InodeRow`; code that runs seldom may wrap it, ``InodeRow(*row)``.
The methods do what they say to the rows and nothing else: link counts, times and permissions are the file system's to
reckon.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, column, delete, insert, literal_column, select, table, update
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Row, Statement, count_param, param
from cas3fs.index.tables import chunks, dentries, inodes, symlinks, xattrs

ROOT_INODE: Final = 1
"""The number of the root directory, which has no name."""


class InodeRow(NamedTuple):
    """A row of `inodes`, in the order of its columns."""

    number: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    crtime_ns: int
    stored_seq: int


_SAVED_COLUMNS = ("mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")
_NEW_COLUMNS = (*_SAVED_COLUMNS, "crtime_ns")
_ATTRIBUTE_COLUMNS = ("mode", "uid", "gid", "nlink", "atime_ns")
_ROOT: ColumnElement[int] = literal_column(str(ROOT_INODE))
_ZERO: ColumnElement[int] = literal_column("0")
_ONE: ColumnElement[int] = literal_column("1")

_THIS_INODE = inodes.c.id == param("inode")
_THIS_ENTRY = (dentries.c.parent == param("parent")) & (dentries.c.name == param("name"))

_INSERT_INODE = Prepared(
    insert(inodes).values({name: param(name) for name in _NEW_COLUMNS} | {"stored_seq": _ZERO}).inline(),
    " ".join(_NEW_COLUMNS),
)
_INSERT_NUMBERED = Prepared(
    insert(inodes).values({name: param(name) for name in ("id", *_NEW_COLUMNS)} | {"stored_seq": _ZERO}).inline(),
    " ".join(("id", *_NEW_COLUMNS)),
)
_LAST_NUMBERS = Prepared(
    select(column("name"), column("seq"))
    .select_from(table("sqlite_sequence"))
    .where(column("name").in_([literal_column("'inodes'"), literal_column("'dentries'")]))
)
_INODE = Prepared(select(*inodes.c).where(_THIS_INODE), "inode")
_SAVE_INODE = Prepared(
    update(inodes).where(_THIS_INODE).values({name: param(name) for name in _SAVED_COLUMNS}),
    " ".join(("inode", *_SAVED_COLUMNS)),
)
_SAVE_ATTRIBUTES = Prepared(
    update(inodes).where(_THIS_INODE).values({name: param(name) for name in _ATTRIBUTE_COLUMNS}),
    " ".join(("inode", *_ATTRIBUTE_COLUMNS)),
)
_REMOVALS = tuple(
    Prepared(delete(column.table).where(column == param("inode")), "inode")
    for column in (inodes.c.id, chunks.c.inode, symlinks.c.inode, xattrs.c.inode)
)
# by the count alone: to look for the names too takes five times as long, at each mount (0.4 s for a million)
_UNLINKED = Prepared(select(inodes.c.id).where(inodes.c.nlink == _ZERO).order_by(inodes.c.id))

_LOOKUP = Prepared(
    select(*inodes.c).select_from(dentries.join(inodes, inodes.c.id == dentries.c.inode)).where(_THIS_ENTRY),
    "parent name",
)
_CHILD = Prepared(select(dentries.c.id, dentries.c.inode).where(_THIS_ENTRY), "parent name")
_ADD_ENTRY = Prepared(
    insert(dentries).values(parent=param("parent"), name=param("name"), inode=param("inode")).inline(),
    "parent name inode",
)
_ADD_NUMBERED = Prepared(
    insert(dentries).values(id=param("id"), parent=param("parent"), name=param("name"), inode=param("inode")).inline(),
    "id parent name inode",
)
_REMOVE_ENTRY = Prepared(delete(dentries).where(_THIS_ENTRY), "parent name")
_REDIRECT_ENTRY = Prepared(update(dentries).where(_THIS_ENTRY).values(inode=param("inode")), "parent name inode")
_RENAME_ENTRY = Prepared(update(dentries).where(_THIS_ENTRY).values(name=param("new_name")), "parent name new_name")
_ENTRIES = Prepared(
    select(dentries.c.id, dentries.c.name, *inodes.c)
    .select_from(dentries.join(inodes, inodes.c.id == dentries.c.inode))
    .where(dentries.c.parent == param("parent"), dentries.c.id > param("after"))
    .order_by(dentries.c.id)
    .limit(count_param("limit"))
    .offset(_ZERO),
    "parent after limit",
)
_ANY_ENTRY = Prepared(
    select(dentries.c.id).where(dentries.c.parent == param("parent")).limit(_ONE).offset(_ZERO), "parent"
)
_NAMES = Prepared(
    select(dentries.c.parent, dentries.c.name).where(dentries.c.inode == param("inode")).order_by(dentries.c.id),
    "inode",
)

_ADD_SYMLINK = Prepared(insert(symlinks).values(inode=param("inode"), target=param("target")).inline(), "inode target")
_SYMLINK = Prepared(select(symlinks.c.target).where(symlinks.c.inode == param("inode")), "inode")

_THIS_XATTR = (xattrs.c.inode == param("inode")) & (xattrs.c.name == param("name"))
_INSERT_XATTR = upsert(xattrs).values(inode=param("inode"), name=param("name"), value=param("value"))
_SET_XATTR = Prepared(
    _INSERT_XATTR.on_conflict_do_update(index_elements=["inode", "name"], set_={"value": _INSERT_XATTR.excluded.value}),
    "inode name value",
)
_GET_XATTR = Prepared(select(xattrs.c.value).where(_THIS_XATTR), "inode name")
_REMOVE_XATTR = Prepared(delete(xattrs).where(_THIS_XATTR), "inode name")
_LIST_XATTRS = Prepared(select(xattrs.c.name).where(xattrs.c.inode == param("inode")).order_by(xattrs.c.name), "inode")
_ANY_XATTR = Prepared(select(xattrs.c.inode).where(xattrs.c.inode == param("inode")).limit(_ONE).offset(_ZERO), "inode")


class Namespace:
    """Inodes and names of one index. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, database: Database) -> None:
        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._insert_inode, self._inode = on(_INSERT_INODE), on(_INODE)
        self._insert_numbered, self._add_numbered = on(_INSERT_NUMBERED), on(_ADD_NUMBERED)
        self._last_numbers = on(_LAST_NUMBERS)
        self._save_inode, self._save_attributes = on(_SAVE_INODE), on(_SAVE_ATTRIBUTES)
        self._removals = tuple(on(removal) for removal in _REMOVALS)
        self._unlinked = on(_UNLINKED)
        self._lookup, self._child, self._entries = on(_LOOKUP), on(_CHILD), on(_ENTRIES)
        self._any_entry, self._names = on(_ANY_ENTRY), on(_NAMES)
        self._add_entry, self._remove_entry = on(_ADD_ENTRY), on(_REMOVE_ENTRY)
        self._redirect_entry, self._rename_entry = on(_REDIRECT_ENTRY), on(_RENAME_ENTRY)
        self._add_symlink, self._symlink = on(_ADD_SYMLINK), on(_SYMLINK)
        self._get_xattr, self._set_xattr, self._remove_xattr = on(_GET_XATTR), on(_SET_XATTR), on(_REMOVE_XATTR)
        self._list_xattrs, self._any_xattr = on(_LIST_XATTRS), on(_ANY_XATTR)

    def insert_inode(  # noqa: PLR0917 - a row, in the order of its columns
        self,
        mode: int,
        uid: int,
        gid: int,
        nlink: int,
        rdev: int,
        size: int,
        atime_ns: int,
        mtime_ns: int,
        ctime_ns: int,
        crtime_ns: int,
    ) -> int:
        """Makes an inode and returns its number, which no inode had before."""
        return self._insert_inode.insert(mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns, crtime_ns)

    def last_numbers(self) -> tuple[int, int]:
        """The greatest number that any inode, and the greatest id that any entry ever had."""
        last: dict[str, int] = dict(self._last_numbers.all())
        return int(last.get("inodes", ROOT_INODE)), int(last.get("dentries", 0))

    def insert_inodes(self, rows: Iterable[Sequence[int]]) -> None:
        """Makes inodes of rows (number, and the values of `insert_inode`); the numbers are above `last_numbers`."""
        self._insert_numbered.many(rows)

    def add_entries(self, rows: Iterable[tuple[int, int, bytes, int]]) -> None:
        """Adds names as (id, parent, name, inode); the ids are above `last_numbers`."""
        self._add_numbered.many(rows)

    def inode(self, number: int) -> Any:
        """The inode's row, in the order of `InodeRow`, or None."""
        return self._inode.one(number)

    def save_inodes(self, rows: Iterable[Sequence[int]]) -> None:
        """Takes over the first ten values of each row, as in `InodeRow`: all but crtime and stored sequence."""
        self._save_inode.many([row[:10] for row in rows])

    def save_attributes(self, rows: Iterable[Sequence[int]]) -> None:
        """Takes over what is no matter of the content; a row is (number, mode, uid, gid, nlink, atime_ns).

        For inodes with content that is not stored yet: their size, mtime and ctime stay those of the stored content.
        """
        self._save_attributes.many(rows)

    def remove_inodes(self, numbers: Iterable[int]) -> None:
        """Removes the inodes with their chunks, link targets and extended attributes; names are `remove_entry`'s."""
        rows = [(number,) for number in numbers]
        if rows:
            for removal in self._removals:
                removal.many(rows)

    def unlinked(self) -> list[int]:
        """The numbers of inodes that have no links left; one that has, and no name, is for fsck to find."""
        return [number for (number,) in self._unlinked.all()]

    def lookup(self, parent: int, name: bytes) -> Any:
        """The row of the inode of that name, in the order of `InodeRow`, or None."""
        return self._lookup.one(parent, name)

    def child(self, parent: int, name: bytes) -> Any:
        """The entry's (id, inode), or None."""
        return self._child.one(parent, name)

    def entries(self, parent: int, after_id: int, limit: int) -> list[Row]:
        """Up to `limit` entries with an id above `after_id`, ascending by id: (id, name, and the inode's row)."""
        return self._entries.all(parent, after_id, limit)

    def is_empty(self, parent: int) -> bool:
        """Whether the directory has no entry."""
        return self._any_entry.one(parent) is None

    def parent_of(self, directory: int) -> int | None:
        """The directory that holds the name of `directory`; None for the root and for what has no name."""
        names = self._names.all(directory)
        return names[0][0] if names else None

    def names_of(self, inode: int) -> list[Row]:
        """All names of the inode as (parent, name), oldest first."""
        return self._names.all(inode)

    def add_entry(self, parent: int, name: bytes, inode: int) -> int:
        """Adds a name, which must not be taken, and returns the entry's id, greater than any before."""
        return self._add_entry.insert(parent, name, inode)

    def remove_entry(self, parent: int, name: bytes) -> None:
        """Removes a name; nothing happens where there is none."""
        self._remove_entry.run(parent, name)

    def remove_entries(self, names: Iterable[tuple[int, bytes]]) -> None:
        """As `remove_entry`, for many: (parent, name) each."""
        self._remove_entry.many(names)

    def redirect_entry(self, parent: int, name: bytes, inode: int) -> None:
        """Lets a name stand for another inode; the entry keeps its id."""
        self._redirect_entry.run(parent, name, inode)

    def rename_entry(self, parent: int, old: bytes, new: bytes) -> None:
        """Changes a name, to one that must not be taken, within a directory; the entry keeps its id."""
        self._rename_entry.run(parent, old, new)

    def move_entry(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> int:
        """Moves a name to another directory, where it must not be taken; returns the id of the new entry.

        The new id keeps a reader of the new directory from missing it; an old one could lie before where that reader
        stands.

        Raises:
            KeyError: there is no such name.
        """
        entry = self._child.one(parent, name)
        if entry is None:
            raise KeyError(name)
        self._remove_entry.run(parent, name)
        return self._add_entry.insert(new_parent, new_name, entry[1])

    def add_symlink(self, inode: int, target: bytes) -> None:
        """Gives a new symbolic link its target."""
        self._add_symlink.run(inode, target)

    def symlink(self, inode: int) -> bytes | None:
        """The target of a symbolic link, or None."""
        row = self._symlink.one(inode)
        return None if row is None else row[0]

    def get_xattr(self, inode: int, name: bytes) -> bytes | None:
        """The value of an extended attribute, or None."""
        row = self._get_xattr.one(inode, name)
        return None if row is None else row[0]

    def set_xattr(self, inode: int, name: bytes, value: bytes) -> None:
        """Sets an extended attribute, new or not."""
        self._set_xattr.run(inode, name, value)

    def remove_xattr(self, inode: int, name: bytes) -> bool:
        """Removes an extended attribute; False where there is none."""
        return self._remove_xattr.run(inode, name) > 0

    def list_xattrs(self, inode: int) -> list[bytes]:
        """The names of the inode's extended attributes, sorted."""
        return [name for (name,) in self._list_xattrs.all(inode)]

    def has_xattrs(self, inode: int) -> bool:
        """Whether the inode has any extended attribute."""
        return self._any_xattr.one(inode) is not None
