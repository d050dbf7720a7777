# SPDX-License-Identifier: GPL-3.0-or-later
"""Names: lookup, create, link, unlink; `renames` moves them, and `listings` lists them.

The kernel checks permissions (``default_permissions``), as it knows the caller's groups and capabilities. What is
checked here is what keeps the tree a tree.

An operation that takes several statements is one savepoint of the index: all of it or nothing. It changes memory only
after its last statement, and any statement may fail: so it asks before for all that it needs to know.
"""

import errno
import stat
import time
from collections.abc import Iterable

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.limits import INTEGER_MAX, NAME_MAX, check_owner
from cas3fs.filesystem.settings import Caller
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inode_flags import INHERITED, PROTECTED, check_entry_added, check_entry_removed
from cas3fs.filesystem.state.inodes import Inode

_LINK_MAX = 2**31 - 1


class Directories:
    """The operations on names."""

    def __init__(self, state: FileSystemState) -> None:
        self._state = state
        self._lock = state.lock
        self._index = state.index
        self._inodes = state.inodes
        self._dentries = state.dentries
        self._access = state.access

    # -- finding

    def lookup(self, parent: int, name: bytes) -> Inode:
        """Looks up `name` in the directory, and counts one more reference of the kernel to the inode.

        Raises:
            FileSystemError: ENOENT, ENOTDIR, ENAMETOOLONG.
        """
        inode = self.find(parent, name)
        if inode is None:
            raise FileSystemError(errno.ENOENT)
        return inode

    def find(self, parent: int, name: bytes) -> Inode | None:
        """As `lookup`, but None where the directory has no such name, which is what programs ask most often."""
        with self._lock:
            inode = self.inode_named(parent, name)
            if inode is not None:
                lookups = self._inodes.lookups
                lookups[inode.number] = lookups.get(inode.number, 0) + 1
            return inode

    def inode_named(self, parent: int, name: bytes) -> Inode | None:
        """The inode of that name; None where the directory has no such name.  Needs the lock.

        Raises:
            FileSystemError: ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL.
        """
        number = self._dentries.get(parent, name)
        if number is not None:
            return self._inodes.get(number)
        if name in (b".", b".."):
            return self._find_dots(parent, name)
        if self._dentries.is_absent(parent, name):
            self.check_name(name)
            return None
        if parent > INTEGER_MAX:
            raise FileSystemError(errno.ENOENT)
        row = self._index.namespace.lookup(parent, name)
        if row is None:
            self._inodes.directory(parent)
            self.check_name(name)
            self._dentries.record_absent(parent, name)
            return None
        self._dentries.insert(parent, name, row[0])
        return self._inodes.admit(row)

    def _find_dots(self, number: int, name: bytes) -> Inode:
        """The inode of ``.`` or ``..``.

        A server of NFS, which keeps handles of files, asks for ``.`` of any inode, whatever its type. It must not get
        one that has lost its last name, although the kernel may not have said yet that it has forgotten it.
        """
        if name == b".":
            inode = self._inodes.get(number)
            if inode.nlink == 0:
                raise FileSystemError(errno.ENOENT)
            return inode
        directory = self._inodes.directory(number)
        above = self.parent_of(number)
        return directory if above is None else self._inodes.get(above)

    def parent_of(self, directory: int) -> int | None:
        """The directory above; None for the root and for what has no name.  Needs the lock."""
        self._dentries.flush()
        return self._index.namespace.parent_of(directory)

    def check_name(self, name: bytes) -> None:
        """Checks that there can be such a name.

        Raises:
            FileSystemError: ENAMETOOLONG, EINVAL.
        """
        if len(name) > NAME_MAX:
            raise FileSystemError(errno.ENAMETOOLONG)
        if not name or b"/" in name or b"\0" in name:
            raise FileSystemError(errno.EINVAL)

    def find_existing(self, parent: int, name: bytes) -> Inode:
        """The inode of a name that is to be removed or moved.  Needs the lock.

        Raises:
            FileSystemError: ENOENT; EINVAL or ENOTEMPTY for the two names that every directory has.
        """
        if name == b".":
            raise FileSystemError(errno.EINVAL)
        if name == b"..":
            raise FileSystemError(errno.ENOTEMPTY)
        inode = self.inode_named(parent, name)
        if inode is None:
            raise FileSystemError(errno.ENOENT)
        return inode

    def forget(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Gives lookup counts of the kernel back: (inode, count) each."""
        with self._lock:
            for inode in self._inodes.drop_lookups(pairs):
                self._state.remove_if_unreferenced(inode)

    # -- making

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """Makes a regular file, fifo, socket or device; `mode` with its type bits.

        Raises:
            FileSystemError: EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL, ENOSPC, EROFS; EPERM, the directory is
                immutable.
        """
        if stat.S_IFMT(mode) == 0:
            mode |= stat.S_IFREG
        if stat.S_IFMT(mode) in (stat.S_IFDIR, stat.S_IFLNK):
            raise FileSystemError(errno.EINVAL)
        with self._lock:
            return self.make_inode(parent, name, mode, caller, rdev=rdev)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """Makes a directory.

        Raises:
            FileSystemError: as `mknod`.
        """
        with self._lock:
            return self.make_inode(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """Makes a symbolic link.

        Raises:
            FileSystemError: as `mknod`.
        """
        if not target:
            raise FileSystemError(errno.ENOENT)
        if len(target) > 4095:
            raise FileSystemError(errno.ENAMETOOLONG)
        with self._lock:
            return self.make_inode(parent, name, stat.S_IFLNK | 0o777, caller, target=target)

    def make_inode(
        self, parent: int, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes | None = None
    ) -> Inode:
        """Makes an inode with a name, and counts one reference of the kernel to it.  Needs the lock."""
        self._access.check_change()
        directory = self.check_new_name(parent, name)
        is_directory = stat.S_ISDIR(mode)
        mode, lists = self._state.access_lists.inherited(directory, mode, caller.umask)
        row = new_row(directory, mode, caller, rdev=rdev, size=len(target or b""))
        number = self._dentries.reserve_number()
        if target is not None:
            self._index.namespace.add_symlink(number, target)
        if lists:
            with self._index.operation():
                self._state.access_lists.add(number, lists)
        self._dentries.create(number, parent, name, row, is_directory=is_directory)
        directory.nlink += is_directory
        self._state.entries_changed(directory)
        inode = self._inodes.admit((number, *row, 0, 0))
        self._inodes.lookups[number] = 1
        return inode

    def make_unnamed(self, parent: int, mode: int, caller: Caller, *, linkable: bool) -> Inode:
        """Makes a regular file that has no name, as `make_inode` would in that directory.  Needs the lock.

        It is removed like a file whose last name went: when nobody has it open, or after a crash. Where it is
        `linkable`, `link` may give it a name before.
        """
        self._access.check_change()
        directory = self._inodes.directory(parent)
        check_entry_added(directory)
        mode, lists = self._state.access_lists.inherited(directory, stat.S_IFREG | stat.S_IMODE(mode), caller.umask)
        row = new_row(directory, mode, caller, nlink=0)
        number = self._dentries.reserve_number()
        with self._state.operation():
            self._state.access_lists.add(number, lists)
            self._index.namespace.insert_inodes([(number, *row)])
        inode = self._inodes.admit((number, *row, 0, 0))
        inode.linkable = linkable
        self._inodes.lookups[number] = 1
        return inode

    def check_new_name(self, parent: int, name: bytes) -> Inode:
        """The directory, after checking that the name is valid and not taken there.  Needs the lock.

        Raises:
            FileSystemError: as `mknod`.
        """
        directory = self._inodes.directory(parent)
        if name in (b".", b".."):
            raise FileSystemError(errno.EEXIST)
        self.check_name(name)
        if not self._dentries.is_absent(parent, name) and (
            self._dentries.get(parent, name) is not None or self._index.namespace.child(parent, name) is not None
        ):
            raise FileSystemError(errno.EEXIST)
        check_entry_added(directory)
        return directory

    def link(self, number: int, new_parent: int, new_name: bytes) -> Inode:
        """Gives the inode one more name, or its first where it was made without one.

        Raises:
            FileSystemError: EPERM for a directory, ENOENT for what has lost its last name, EMLINK, and as `mknod`.
        """
        with self._lock:
            self._access.check_change()
            inode = self._inodes.get(number)
            directory = self.check_new_name(new_parent, new_name)
            if inode.is_directory or inode.flags & PROTECTED:
                raise FileSystemError(errno.EPERM)
            if inode.nlink == 0 and not inode.linkable:
                raise FileSystemError(errno.ENOENT)
            if inode.nlink >= _LINK_MAX:
                raise FileSystemError(errno.EMLINK)
            with self._state.operation():
                self._index.namespace.add_entry(new_parent, new_name, number)
            if inode.nlink == 0:  # as a rename would make it appear: whole
                inode.linkable = False
                inode.replaced_another = inode.is_unstored
            inode.nlink += 1
            inode.ctime_ns = self._state.entries_changed(directory)
            self._state.attributes_changed(inode)
            self._dentries.insert(new_parent, new_name, number)
            self._inodes.add_lookup(number)
            return inode

    def readlink(self, number: int) -> bytes:
        """The target of a symbolic link.

        Raises:
            FileSystemError: EINVAL, it is no symbolic link.
        """
        with self._lock:
            target = self._index.namespace.symlink(self._inodes.get(number).number)
        if target is None:
            raise FileSystemError(errno.EINVAL)
        return target

    # -- removing

    def unlink(self, parent: int, name: bytes) -> None:
        """Removes a name of anything but a directory; the file lives on while it is open.

        Raises:
            FileSystemError: ENOENT, EISDIR, EROFS; EPERM, a flag forbids it.
        """
        with self._lock:
            self._access.check_removal()
            inode = self._find_removable(parent, name)
            if inode.is_directory:
                raise FileSystemError(errno.EISDIR)
            self._remove(parent, name, inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Removes an empty directory.

        Raises:
            FileSystemError: ENOENT, ENOTDIR, ENOTEMPTY, EROFS; EPERM, a flag forbids it.
        """
        with self._lock:
            self._access.check_removal()
            inode = self._find_removable(parent, name)
            if not inode.is_directory:
                raise FileSystemError(errno.ENOTDIR)
            if not self.is_empty(inode):
                raise FileSystemError(errno.ENOTEMPTY)
            self._remove(parent, name, inode)

    def _find_removable(self, parent: int, name: bytes) -> Inode:
        inode = self.find_existing(parent, name)
        check_entry_removed(self._inodes.get(parent), inode)
        return inode

    def is_empty(self, directory: Inode) -> bool:
        """Whether a directory has no entries.  Needs the lock."""
        self._dentries.flush()
        return self._index.namespace.is_empty(directory.number)

    def _remove(self, parent: int, name: bytes, inode: Inode) -> None:
        directory = self._inodes.directory(parent)
        if inode.number in self._dentries.unflushed:  # the index does not have the entry yet
            self._dentries.flush()
        self._dentries.remove(parent, name)
        directory.nlink -= inode.is_directory
        self.name_removed(inode, self._state.entries_changed(directory))

    def name_removed(self, inode: Inode, now: int) -> None:
        """Updates an inode that has lost a name; a directory has only one.  Needs the lock."""
        inode.nlink = 0 if inode.is_directory else max(0, inode.nlink - 1)
        if inode.is_directory:
            self._dentries.discard_directory(inode.number)
        inode.ctime_ns = now
        self._state.attributes_changed(inode)
        self._state.remove_if_unreferenced(inode)


def new_row(
    directory: Inode,
    mode: int,
    caller: Caller,
    *,
    nlink: int | None = None,
    rdev: int = 0,
    size: int = 0,
) -> tuple[int, ...]:
    """The row of an inode that `caller` makes in `directory`: its columns from mode to crtime_ns.

    Raises:
        FileSystemError: EINVAL, for an owner or a device that there cannot be.
    """
    gid, is_directory = caller.gid, stat.S_ISDIR(mode)
    if directory.mode & stat.S_ISGID:
        gid = directory.gid
        if is_directory:
            mode |= stat.S_ISGID
    check_owner(caller.uid, gid)
    if not 0 <= rdev <= INTEGER_MAX:
        raise FileSystemError(errno.EINVAL)
    if nlink is None:
        nlink = 2 if is_directory else 1
    now = time.time_ns()
    return (mode, caller.uid, gid, nlink, rdev, directory.flags & INHERITED, size, now, now, now, now)
