# SPDX-License-Identifier: GPL-3.0-or-later
"""Extended attributes."""

import errno
import os
import stat
import time
from collections.abc import Callable

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.limits import NAME_MAX
from cas3fs.filesystem.state import access_lists
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inode_flags import PROTECTED, refuse_if
from cas3fs.filesystem.state.inodes import Inode

VALUE_MAX = 64 * 1024
NAMES_MAX = 64 * 1024
"""The names of one file with a zero byte each, together: the kernel passes on no longer list."""
CAPABILITY = b"security.capability"
_CAPABILITIES_KEY = "has_capabilities"


class Xattrs:
    """The operations on extended attributes."""

    def __init__(self, state: FileSystemState) -> None:
        self._state = state
        self._lock = state.lock
        self._index = state.index
        self._inodes = state.inodes
        self._access = state.access
        self._lists = state.access_lists
        self.has_capabilities = self._index.state.get(_CAPABILITIES_KEY) is not None
        """Whether any file may have file capabilities, for which the kernel asks before every write."""
        self.on_capability_restored: Callable[[], None] = lambda: None
        """Called when a file that has some came back out of a snapshot."""

    def getxattr(self, number: int, name: bytes) -> bytes:
        """The value.

        Raises:
            FileSystemError: ENODATA, ENOENT.
        """
        with self._lock:
            self._inodes.get(number)
            if name in access_lists.NAMES:
                value = self._lists.get(number, name)
            else:
                value = self._index.namespace.get_xattr(number, name)
        if value is None:
            raise FileSystemError(errno.ENODATA)
        return value

    def listxattr(self, number: int) -> list[bytes]:
        """The names."""
        with self._lock:
            return self._index.namespace.list_xattrs(self._inodes.get(number).number)

    def setxattr(self, number: int, name: bytes, value: bytes, flags: int = 0, *, kills_set_gid: bool = False) -> None:
        """Sets the value; `flags` may be os.XATTR_CREATE or os.XATTR_REPLACE.

        An access list (module `access_lists`) changes the mode as well; with `kills_set_gid` it clears the set-group-id
        bit.

        Raises:
            FileSystemError: EEXIST or ENODATA as the flag asks, ERANGE for the name, E2BIG for the value, ENOENT,
                EROFS, ENOSPC, also where the names of the file would be too long to be listed; EPERM, a flag forbids
                it; and for access lists what `AccessLists.set` says.
        """
        if not 0 < len(name) <= NAME_MAX:
            raise FileSystemError(errno.ERANGE)
        if len(value) > VALUE_MAX:
            raise FileSystemError(errno.E2BIG)
        with self._lock:
            self._access.check_change()
            inode = self._inodes.get(number)
            refuse_if(inode.flags & PROTECTED)
            exists = self._index.namespace.get_xattr(number, name) is not None
            if exists and flags & os.XATTR_CREATE:
                raise FileSystemError(errno.EEXIST)
            if not exists and flags & os.XATTR_REPLACE:
                raise FileSystemError(errno.ENODATA)
            if not exists and self._length_of_names(number) + len(name) + 1 > NAMES_MAX:
                raise FileSystemError(errno.ENOSPC)
            if name in access_lists.NAMES:
                self._set_list(inode, name, value, kills_set_gid)
                return
            with self._state.operation():
                self._index.namespace.set_xattr(number, name, value)
                if name == CAPABILITY:
                    self.capability_added()
            self.has_capabilities = self.has_capabilities or name == CAPABILITY
            inode.ctime_ns = time.time_ns()
            self._state.attributes_changed(inode)

    def capability_added(self) -> None:
        """Notes, within an operation, that it gives a file capabilities.  Needs the lock."""
        if not self.has_capabilities:
            self._index.state.set(_CAPABILITIES_KEY, "yes")

    def _set_list(self, inode: Inode, name: bytes, value: bytes, kills_set_gid: bool) -> None:
        with self._state.operation():
            mode = self._lists.set(inode, name, value)
        self._lists.set_succeeded()
        inode.mode = mode & ~stat.S_ISGID if name == access_lists.ACCESS and kills_set_gid else mode
        inode.ctime_ns = time.time_ns()
        self._state.attributes_changed(inode)

    def _length_of_names(self, number: int) -> int:
        return sum(len(name) + 1 for name in self._index.namespace.list_xattrs(number))

    def removexattr(self, number: int, name: bytes) -> None:
        """Removes the attribute.

        Raises:
            FileSystemError: ENODATA, but not for access lists; ENOENT, EROFS; EPERM, a flag forbids it.
        """
        with self._lock:
            self._access.check_removal()
            inode = self._inodes.get(number)
            refuse_if(inode.flags & PROTECTED)
            with self._state.operation():
                if name in access_lists.NAMES:
                    self._lists.remove(number, name)
                elif not self._index.namespace.remove_xattr(number, name):
                    raise FileSystemError(errno.ENODATA)
            inode.ctime_ns = time.time_ns()
            self._state.attributes_changed(inode)
