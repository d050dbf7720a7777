# SPDX-License-Identifier: GPL-3.0-or-later
"""Inodes and their names, symbolic links and extended attributes.

A row of an inode is a plain tuple in the order of `InodeRow`; code that runs seldom may wrap it, ``InodeRow(*row)``.
The methods change the rows that they name and nothing else: link counts, times and permissions are computed by the file
system.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Row, Statement
from cas3fs.index.tables import ROOT_INODE, chunks, dentries, inodes, sequences, symlinks, xattrs


class InodeRow(NamedTuple):
    """A row of `inodes`, in the order of its columns."""

    number: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    flags: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    crtime_ns: int
    stored_seq: int
    chunk_bytes: int


_ROW: Final = tuple(inodes.c[name] for name in ("id", *InodeRow._fields[1:]))
_ENTRIES_AND_INODES: Final = dentries.join(inodes, inodes.c.id == dentries.c.inode)


def _is_entry(parent: Any, name: Any) -> ColumnElement[bool]:
    return and_(dentries.c.parent == parent, dentries.c.name == name)


def _entries_behind(parent: Any, after: Any, limit: Any, *columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .select_from(_ENTRIES_AND_INODES)
        .where(dentries.c.parent == parent, dentries.c.id > after)
        .order_by(dentries.c.id)
        .limit(limit)
    )


def _is_xattr(inode: Any, name: Any) -> ColumnElement[bool]:
    return and_(xattrs.c.inode == inode, xattrs.c.name == name)


class Namespace:
    """Inodes and names of one index. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- inodes

    _last_numbers = Statement(
        lambda: select(sequences.c.name, sequences.c.seq).where(sequences.c.name.in_([inodes.name, dentries.name]))
    )

    def last_numbers(self) -> tuple[int, int]:
        """The greatest number that any inode, and the greatest id that any entry ever had."""
        last: dict[str, int] = dict(self._last_numbers.all())
        return int(last.get("inodes", ROOT_INODE)), int(last.get("dentries", 0))

    _insert_inode = Statement(
        lambda *values: (
            insert(inodes)
            .values(dict(zip((one.name for one in _ROW[:12]), values, strict=True)) | {"stored_seq": 0})
            .inline()
        ),
        InodeRow._fields[:12],
    )

    def insert_inodes(self, rows: Iterable[Sequence[int]]) -> None:
        """Makes inodes of the first twelve values of `InodeRow`; the numbers are above `last_numbers`."""
        self._insert_inode.many(rows)

    _inode = Statement(lambda inode: select(*_ROW).where(inodes.c.id == inode))

    def inode(self, number: int) -> Any:
        """The inode's row, in the order of `InodeRow`, or None."""
        return self._inode.one(number)

    _save_inode = Statement(
        lambda number, *values: (
            update(inodes)
            .where(inodes.c.id == number)
            .values(dict(zip((one.name for one in _ROW[1:11]), values, strict=True)))
        ),
        InodeRow._fields[:11],
    )

    def save_inodes(self, rows: Iterable[Sequence[int]]) -> None:
        """Saves the first eleven values of each row, as in `InodeRow`: those up to ctime."""
        self._save_inode.many([row[:11] for row in rows])

    _save_attributes = Statement(
        lambda inode, mode, uid, gid, nlink, flags, atime_ns: (
            update(inodes)
            .where(inodes.c.id == inode)
            .values(mode=mode, uid=uid, gid=gid, nlink=nlink, flags=flags, atime_ns=atime_ns)
        )
    )

    def save_attributes(self, rows: Iterable[Sequence[int]]) -> None:
        """Saves what does not belong to the content; a row is (number, mode, uid, gid, nlink, flags,
        atime_ns).

        For inodes with content that is not stored yet: their size, mtime and ctime stay those of the stored content.
        """
        self._save_attributes.many(rows)

    _delete_inode = Statement(lambda inode: delete(inodes).where(inodes.c.id == inode))
    _delete_chunks = Statement(lambda inode: delete(chunks).where(chunks.c.inode == inode))
    _delete_target = Statement(lambda inode: delete(symlinks).where(symlinks.c.inode == inode))
    _delete_xattrs = Statement(lambda inode: delete(xattrs).where(xattrs.c.inode == inode))

    def remove_inodes(self, numbers: Iterable[int]) -> None:
        """Removes the inodes with their chunks, link targets and extended attributes; `remove_entry` removes names."""
        rows = [(number,) for number in numbers]
        if rows:
            for statement in (self._delete_inode, self._delete_chunks, self._delete_target, self._delete_xattrs):
                statement.many(rows)

    # by the count alone: to look for the names too takes five times as long, at each mount (0.4 s for a million)
    _unlinked = Statement(lambda: select(inodes.c.id).where(inodes.c.nlink == 0).order_by(inodes.c.id))

    def unlinked(self) -> list[int]:
        """The numbers of inodes that have no links left; fsck finds those that have links, and no name."""
        return [number for (number,) in self._unlinked.all()]

    # -- names

    _lookup = Statement(
        lambda parent, name: select(*_ROW).select_from(_ENTRIES_AND_INODES).where(_is_entry(parent, name))
    )

    def lookup(self, parent: int, name: bytes) -> Any:
        """The row of the inode of that name, in the order of `InodeRow`, or None."""
        return self._lookup.one(parent, name)

    _child = Statement(lambda parent, name: select(dentries.c.id, dentries.c.inode).where(_is_entry(parent, name)))

    def child(self, parent: int, name: bytes) -> Any:
        """The entry's (id, inode), or None."""
        return self._child.one(parent, name)

    _entries = Statement(
        lambda parent, after, limit: _entries_behind(
            parent, after, limit, dentries.c.id, dentries.c.name, dentries.c.inode, inodes.c.mode
        )
    )

    def entries(self, parent: int, after_id: int, limit: int) -> list[Row]:
        """Up to `limit` entries with an id above `after_id`, ascending by id: (id, name, inode, its mode)."""
        return self._entries.all(parent, after_id, limit)

    _entries_with_inodes = Statement(
        lambda parent, after, limit: _entries_behind(parent, after, limit, dentries.c.id, dentries.c.name, *_ROW)
    )

    def entries_with_inodes(self, parent: int, after_id: int, limit: int) -> list[Row]:
        """As `entries`, but (id, name, and the inode's row)."""
        return self._entries_with_inodes.all(parent, after_id, limit)

    _any_entry = Statement(lambda parent: select(dentries.c.id).where(dentries.c.parent == parent).limit(1))

    def is_empty(self, parent: int) -> bool:
        """Whether the directory has no entry."""
        return self._any_entry.one(parent) is None

    _names = Statement(
        lambda inode: (
            select(dentries.c.parent, dentries.c.name).where(dentries.c.inode == inode).order_by(dentries.c.id)
        )
    )

    def parent_of(self, directory: int) -> int | None:
        """The directory that holds the name of `directory`; None for the root and for what has no name."""
        names = self._names.all(directory)
        return names[0][0] if names else None

    def names_of(self, inode: int) -> list[Row]:
        """All names of the inode as (parent, name), oldest first."""
        return self._names.all(inode)

    _add_entry = Statement(
        lambda parent, name, inode: insert(dentries).values(parent=parent, name=name, inode=inode).inline()
    )

    def add_entry(self, parent: int, name: bytes, inode: int) -> int:
        """Adds a name, which must not be taken, and returns the entry's id, greater than any before."""
        return self._add_entry.insert(parent, name, inode)

    _add_numbered_entry = Statement(
        lambda number, parent, name, inode: (
            insert(dentries).values(id=number, parent=parent, name=name, inode=inode).inline()
        )
    )

    def add_entries(self, rows: Iterable[tuple[int, int, bytes, int]]) -> None:
        """Adds names as (id, parent, name, inode); the ids are above `last_numbers`."""
        self._add_numbered_entry.many(rows)

    _remove_entry = Statement(lambda parent, name: delete(dentries).where(_is_entry(parent, name)))

    def remove_entry(self, parent: int, name: bytes) -> None:
        """Removes a name; nothing happens where there is none."""
        self._remove_entry.run(parent, name)

    def remove_entries(self, names: Iterable[tuple[int, bytes]]) -> None:
        """As `remove_entry`, for many: (parent, name) each."""
        self._remove_entry.many(names)

    _redirect_entry = Statement(
        lambda parent, name, inode: update(dentries).where(_is_entry(parent, name)).values(inode=inode)
    )

    def redirect_entry(self, parent: int, name: bytes, inode: int) -> None:
        """Makes a name that of another inode; the entry keeps its id."""
        self._redirect_entry.run(parent, name, inode)

    _rename_entry = Statement(lambda parent, old, new: update(dentries).where(_is_entry(parent, old)).values(name=new))

    def rename_entry(self, parent: int, old: bytes, new: bytes) -> None:
        """Changes a name, to one that must not be taken, within a directory; the entry keeps its id."""
        self._rename_entry.run(parent, old, new)

    def move_entry(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> int:
        """Moves a name to another directory, where it must not be taken; returns the id of the new entry.

        The new id keeps a reader of the new directory from missing it; an old one could lie before the place that the
        reader has reached.

        Raises:
            KeyError: there is no such name.
        """
        entry = self._child.one(parent, name)
        if entry is None:
            raise KeyError(name)
        self._remove_entry.run(parent, name)
        return self._add_entry.insert(new_parent, new_name, entry[1])

    # -- symbolic links and extended attributes

    _add_symlink = Statement(lambda inode, target: insert(symlinks).values(inode=inode, target=target).inline())

    def add_symlink(self, inode: int, target: bytes) -> None:
        """Gives a new symbolic link its target."""
        self._add_symlink.run(inode, target)
        self._database.add_value_bytes(len(target))

    _symlink = Statement(lambda inode: select(symlinks.c.target).where(symlinks.c.inode == inode))

    def symlink(self, inode: int) -> bytes | None:
        """The target of a symbolic link, or None."""
        row = self._symlink.one(inode)
        return None if row is None else row[0]

    _get_xattr = Statement(lambda inode, name: select(xattrs.c.value).where(_is_xattr(inode, name)))

    def get_xattr(self, inode: int, name: bytes) -> bytes | None:
        """The value of an extended attribute, or None."""
        row = self._get_xattr.one(inode, name)
        return None if row is None else row[0]

    _set_xattr = Statement(
        lambda inode, name, value: (
            upsert(xattrs)
            .values(inode=inode, name=name, value=value)
            .on_conflict_do_update(index_elements=["inode", "name"], set_={"value": upsert(xattrs).excluded.value})
        )
    )

    def set_xattr(self, inode: int, name: bytes, value: bytes) -> None:
        """Sets an extended attribute, new or not."""
        self._set_xattr.run(inode, name, value)
        self._database.add_value_bytes(len(value))

    _remove_xattr = Statement(lambda inode, name: delete(xattrs).where(_is_xattr(inode, name)))

    def remove_xattr(self, inode: int, name: bytes) -> bool:
        """Removes an extended attribute; False where there is none."""
        return self._remove_xattr.run(inode, name) > 0

    _list_xattrs = Statement(lambda inode: select(xattrs.c.name).where(xattrs.c.inode == inode).order_by(xattrs.c.name))

    def list_xattrs(self, inode: int) -> list[bytes]:
        """The names of the inode's extended attributes, sorted."""
        return [name for (name,) in self._list_xattrs.all(inode)]
