# SPDX-License-Identifier: GPL-3.0-or-later
"""Inodes and their names, symbolic links and extended attributes.

A row of an inode is a plain tuple in the order of `InodeRow`; code that runs seldom may wrap it, ``InodeRow(*row)``.
The methods do what they say to the rows and nothing else: link counts, times and permissions are the file system's to
reckon.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Row, Statement
from cas3fs.index.texts import namespace as texts

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


class Namespace:
    """Inodes and names of one index. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, database: Database) -> None:
        self._weigh = database.add_value_bytes

        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._inode = on(texts.INODE)
        self._insert_numbered, self._add_numbered = on(texts.INSERT_NUMBERED), on(texts.ADD_NUMBERED)
        self._last_numbers = on(texts.LAST_NUMBERS)
        self._save_inode, self._save_attributes = on(texts.SAVE_INODE), on(texts.SAVE_ATTRIBUTES)
        self._removals = tuple(on(removal) for removal in texts.REMOVALS)
        self._unlinked = on(texts.UNLINKED)
        self._lookup, self._child, self._entries = on(texts.LOOKUP), on(texts.CHILD), on(texts.ENTRIES)
        self._any_entry, self._names = on(texts.ANY_ENTRY), on(texts.NAMES)
        self._add_entry, self._remove_entry = on(texts.ADD_ENTRY), on(texts.REMOVE_ENTRY)
        self._redirect_entry, self._rename_entry = on(texts.REDIRECT_ENTRY), on(texts.RENAME_ENTRY)
        self._add_symlink, self._symlink = on(texts.ADD_SYMLINK), on(texts.SYMLINK)
        self._get_xattr, self._set_xattr, self._remove_xattr = (
            on(texts.GET_XATTR),
            on(texts.SET_XATTR),
            on(texts.REMOVE_XATTR),
        )
        self._list_xattrs = on(texts.LIST_XATTRS)

    def last_numbers(self) -> tuple[int, int]:
        """The greatest number that any inode, and the greatest id that any entry ever had."""
        last: dict[str, int] = dict(self._last_numbers.all())
        return int(last.get("inodes", ROOT_INODE)), int(last.get("dentries", 0))

    def insert_inodes(self, rows: Iterable[Sequence[int]]) -> None:
        """Makes inodes of the first eleven values of `InodeRow`; the numbers are above `last_numbers`."""
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
        self._weigh(len(target))

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
        self._weigh(len(value))

    def remove_xattr(self, inode: int, name: bytes) -> bool:
        """Removes an extended attribute; False where there is none."""
        return self._remove_xattr.run(inode, name) > 0

    def list_xattrs(self, inode: int) -> list[bytes]:
        """The names of the inode's extended attributes, sorted."""
        return [name for (name,) in self._list_xattrs.all(inode)]
