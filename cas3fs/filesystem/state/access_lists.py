# SPDX-License-Identifier: GPL-3.0-or-later
"""POSIX access lists: what they mean for modes, and where they are inherited.

The kernel checks permissions by them, and has them as extended attributes: ``system.posix_acl_access``, and of
directories also ``system.posix_acl_default``, which what is made in there gets. The rest is left to the file system,
and done here, as POSIX 1003.1e draft 17 says:

- the mode of an inode always agrees with its list: whoever sets one changes the other;
- a list that says no more than the mode is not kept;
- what is made in a directory with a default list gets its permissions from there, and not from the umask.

A value is ``version u32 = 2``, then for each entry ``tag u16, permissions u16, id u32``, in little-endian order, and
sorted by tag.

Lists are attributes in the index, and followed only while they are `enabled`. Volumes without any are known by a flag,
so that they cost no query.
"""

import errno
import stat
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.index import Index

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
NAMES: Final = frozenset({ACCESS, DEFAULT})

_KEY: Final = "has_access_lists"
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ONCE: Final = frozenset({_OWNER, _GROUP, _MASK, _OTHER})
_NAMED: Final = frozenset({_USER, _NAMED_GROUP})
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_VERSION: Final = 2
_PERMISSIONS: Final = 0o777

Attribute = tuple[bytes, bytes]
"""Name and value."""


class Entry(NamedTuple):
    """What a user, a group, or a class of these may do: bits of read 4, write 2, execute 1."""

    tag: int
    permissions: int
    id: int


class AccessList(tuple[Entry, ...]):
    """The entries of a valid list."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: bytes) -> "AccessList":
        """The list that is written as `value`.

        Raises:
            FileSystemError: EINVAL, it is none.
        """
        if len(value) % _ENTRY.size != _HEAD.size or _HEAD.unpack_from(value)[0] != _VERSION:
            raise FileSystemError(errno.EINVAL)
        found = cls(Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEAD.size :]))
        tags = [entry.tag for entry in found]
        named = not _NAMED.isdisjoint(tags)
        if (
            tags != sorted(tags)
            or not set(tags) <= _ONCE | _NAMED
            or any(tags.count(tag) > 1 for tag in _ONCE)
            or not {_OWNER, _GROUP, _OTHER} <= set(tags)
            or (named and _MASK not in tags)
            or any(entry.permissions > 0o7 for entry in found)
        ):
            raise FileSystemError(errno.EINVAL)
        return found

    def value(self) -> bytes:
        """The list as an attribute has it."""
        return _HEAD.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in self)

    @property
    def is_minimal(self) -> bool:
        """Whether it says no more than a mode does."""
        return len(self) == len((_OWNER, _GROUP, _OTHER))

    @property
    def permissions(self) -> int:
        """The permission bits of the mode that goes with it; those of the group are the mask's, if there is one."""
        of = {entry.tag: entry.permissions for entry in self}
        return of[_OWNER] << 6 | of.get(_MASK, of[_GROUP]) << 3 | of[_OTHER]

    def with_mode(self, mode: int) -> "AccessList":
        """The list after chmod(2)."""
        return self._replaced(mode & _PERMISSIONS)

    def limited_to(self, mode: int) -> "AccessList":
        """The list of what is made with `mode` in a directory that has this default list."""
        return self._replaced(self.permissions & mode)

    def _replaced(self, permissions: int) -> "AccessList":
        """With the classes of the mode set to `permissions`."""
        of_group = _MASK if any(entry.tag == _MASK for entry in self) else _GROUP
        new = {_OWNER: permissions >> 6 & 0o7, of_group: permissions >> 3 & 0o7, _OTHER: permissions & 0o7}
        return AccessList(entry._replace(permissions=new.get(entry.tag, entry.permissions)) for entry in self)


class AccessLists:
    """The lists of one file system.  Every method needs the file system's lock."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.enabled = False
        """Whether lists are followed; to be set before the first request."""
        self._exist = index.state.get(_KEY) is not None

    def get(self, number: int, name: bytes) -> bytes | None:
        """The value of a list, or None."""
        return self._index.namespace.get_xattr(number, name) if self._exist else None

    def inherited(self, directory: Inode, mode: int, umask: int) -> tuple[int, Sequence[Attribute]]:
        """The mode of what is made with `mode` in a directory, and the lists that it gets."""
        if stat.S_ISLNK(mode):
            return mode, ()
        value = self.get(directory.number, DEFAULT) if self.enabled else None
        if value is None:
            return mode & ~umask, ()
        passed_on = AccessList.parse(value).limited_to(mode)
        mode = mode & ~_PERMISSIONS | passed_on.permissions
        lists = [] if passed_on.is_minimal else [(ACCESS, passed_on.value())]
        return mode, [*lists, (DEFAULT, value)] if stat.S_ISDIR(mode) else lists

    def add(self, number: int, lists: Iterable[Attribute]) -> None:
        """Gives a new inode its lists."""
        for name, value in lists:
            self._index.namespace.set_xattr(number, name, value)

    def change_mode(self, inode: Inode, mode: int) -> None:
        """Changes the list of an inode as chmod(2) does; also while lists are not followed, as they may be again."""
        value = self.get(inode.number, ACCESS)
        if value is not None:
            changed = AccessList.parse(value).with_mode(mode).value()
            if changed != value:
                with self._index.operation():
                    self._index.namespace.set_xattr(inode.number, ACCESS, changed)

    def set(self, inode: Inode, name: bytes, value: bytes) -> int:
        """Sets a list; within an operation.

        Returns:
            the inode's mode from now on.

        Raises:
            FileSystemError: EINVAL, the list is malformed; EACCES, a default list of what is no directory; EOPNOTSUPP
                for a symbolic link.
        """
        if stat.S_ISLNK(inode.mode):
            raise FileSystemError(errno.EOPNOTSUPP)
        if name == DEFAULT and not inode.is_directory:
            raise FileSystemError(errno.EACCES)
        wanted = AccessList.parse(value)
        mode = inode.mode
        if name == ACCESS:
            mode = mode & ~_PERMISSIONS | wanted.permissions
        if name == ACCESS and wanted.is_minimal:
            self._index.namespace.remove_xattr(inode.number, name)
            return mode
        self._index.namespace.set_xattr(inode.number, name, value)
        if not self._exist:
            self._index.state.set(_KEY, "yes")
        return mode

    def lists_added(self) -> None:
        """Notes, within an operation, that it gives inodes lists by their rows; `set_succeeded` follows it."""
        if not self._exist:
            self._index.state.set(_KEY, "yes")

    def set_succeeded(self) -> None:
        """Notes that an operation with `set` has been kept; it may have been for a list that is not."""
        self._exist = self._exist or self._index.state.get(_KEY) is not None

    def remove(self, number: int, name: bytes) -> None:
        """Removes a list; nothing happens where there is none. Within an operation."""
        self._index.namespace.remove_xattr(number, name)
