# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving names: rename(2) and renameat2(2).

What a move does to the index is one savepoint, so that no crash shows half of it: of an exchange both names or none,
of a move that leaves a whiteout the new name and the whiteout. Entries that are there before and after keep their ids,
so a listing under way neither skips nor repeats them.

A *whiteout* is a character device 0/0 with no permissions; a union of file systems leaves it in its upper layer where
a name of a lower layer is gone.

As in `directories`, memory changes after the last statement; all methods run under the file system's lock.
"""

import enum
import errno
import stat
from typing import Final

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.operations.directories import Directories, new_row
from cas3fs.filesystem.settings import Caller, Owner
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inode_flags import check_entry_added, check_entry_removed
from cas3fs.filesystem.state.inodes import Inode

Name = tuple[int, bytes]
"""A directory's number, and a name in it."""
_SUPERUSER: Final = Owner(0, 0)


class RenameFlag(enum.IntFlag):
    """The flags of renameat2(2)."""

    NOREPLACE = 1
    EXCHANGE = 2
    WHITEOUT = 4


_KNOWN: Final = int(RenameFlag.NOREPLACE | RenameFlag.EXCHANGE | RenameFlag.WHITEOUT)


class Renames:
    """Moves names."""

    def __init__(self, state: FileSystemState, directories: Directories) -> None:
        self._state = state
        self._lock = state.lock
        self._space = state.index.namespace
        self._inodes = state.inodes
        self._dentries = state.dentries
        self._access = state.access
        self._directories = directories

    def rename(
        self,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int = 0,
        *,
        caller: Caller = _SUPERUSER,
    ) -> None:
        """Moves a name, in one step, in the place of what has the new one.

        Args:
            old_parent: the directory that has the name.
            old_name: the name.
            new_parent: the directory to move it to.
            new_name: its name there.
            flags: `RenameFlag`: fail where the new name is taken; exchange the two; leave a whiteout.
            caller: owns the whiteout.

        Raises:
            FileSystemError: ENOENT; EINVAL for a move into itself, and for flags that are unknown or contradict each
                other; EEXIST for a name that is not to be replaced; ENOTEMPTY, ENOTDIR or EISDIR for the target;
                EPERM, a flag forbids it; ENAMETOOLONG, ENOSPC, EROFS.
        """
        if flags & ~_KNOWN or (flags & RenameFlag.EXCHANGE and flags != RenameFlag.EXCHANGE):
            raise FileSystemError(errno.EINVAL)
        with self._lock:
            self._access.check_change()
            self._inodes.directory(new_parent)
            inode = self._directories.find_existing(old_parent, old_name)
            if new_name in (b".", b".."):
                raise FileSystemError(errno.EEXIST)
            self._directories.check_name(new_name)
            target = self._directories.inode_named(new_parent, new_name)
            if target is not None and flags & RenameFlag.NOREPLACE:
                raise FileSystemError(errno.EEXIST)
            if target is None and flags & RenameFlag.EXCHANGE:
                raise FileSystemError(errno.ENOENT)
            if target is inode:  # two names of one file: POSIX asks for nothing to happen
                return
            source, destination = self._inodes.get(old_parent), self._inodes.get(new_parent)
            check_entry_removed(source, inode)
            if target is None:
                check_entry_added(destination)
            else:
                check_entry_removed(destination, target)
            old, new = (old_parent, old_name), (new_parent, new_name)
            if old_parent != new_parent:
                self._check_not_below(inode, new_parent)
            if target is not None and flags & RenameFlag.EXCHANGE:
                if old_parent != new_parent:
                    self._check_not_below(target, old_parent)
                self._exchange(inode, target, old, new)
                return
            if target is not None:
                self._check_replaceable(inode, target)
            self._move(inode, target, old, new, caller if flags & RenameFlag.WHITEOUT else None)

    def _check_not_below(self, inode: Inode, directory: int) -> None:
        """Checks that a directory does not move into itself or below."""
        above: int | None = directory if inode.is_directory else None
        while above is not None:
            if above == inode.number:
                raise FileSystemError(errno.EINVAL)
            above = self._directories.parent_of(above)

    def _check_replaceable(self, inode: Inode, target: Inode) -> None:
        if target.is_directory:
            if not inode.is_directory:
                raise FileSystemError(errno.EISDIR)
            if not self._directories.is_empty(target):
                raise FileSystemError(errno.ENOTEMPTY)
        elif inode.is_directory:
            raise FileSystemError(errno.ENOTDIR)

    def _exchange(self, inode: Inode, target: Inode, old: Name, new: Name) -> None:
        source, destination = self._inodes.get(old[0]), self._inodes.get(new[0])
        with self._state.operation():
            self._space.redirect_entry(*old, target.number)
            self._space.redirect_entry(*new, inode.number)
        self._dentries.insert(*old, target.number)
        self._dentries.insert(*new, inode.number)
        gained = inode.is_directory - target.is_directory
        source.nlink -= gained
        destination.nlink += gained
        self._state.entries_changed(source)
        now = self._state.entries_changed(destination)
        for moved in (inode, target):
            moved.ctime_ns = now
            moved.replaced_another = moved.is_unstored
            self._state.attributes_changed(moved)

    def _move(self, inode: Inode, target: Inode | None, old: Name, new: Name, whiteout_of: Caller | None) -> None:
        source, destination = self._inodes.get(old[0]), self._inodes.get(new[0])
        whiteout: tuple[int, ...] | None = None
        if whiteout_of is not None:
            whiteout = (self._dentries.reserve_number(), *new_row(source, stat.S_IFCHR, whiteout_of))
        with self._state.operation():
            if whiteout is not None:
                self._move_and_leave(inode, target, old, new, whiteout)
            elif target is not None:  # the entry stays in its place
                self._space.remove_entry(*old)
                self._space.redirect_entry(*new, inode.number)
            elif old[0] == new[0]:
                self._space.rename_entry(*old, new[1])
            else:
                self._space.move_entry(*old, *new)
        if whiteout is None:
            self._dentries.discard(*old)
        else:
            self._dentries.insert(*old, whiteout[0])
        self._dentries.insert(*new, inode.number)
        self._update_after_move(inode, target, source, destination)

    def _move_and_leave(
        self, inode: Inode, target: Inode | None, old: Name, new: Name, whiteout: tuple[int, ...]
    ) -> None:
        self._space.insert_inodes([whiteout])
        self._space.redirect_entry(*old, whiteout[0])
        if target is None:
            self._space.add_entry(*new, inode.number)
        else:
            self._space.redirect_entry(*new, inode.number)

    def _update_after_move(self, inode: Inode, target: Inode | None, source: Inode, destination: Inode) -> None:
        """Changes memory after a move in the index; asks nothing of the index."""
        if inode.is_directory:
            source.nlink -= 1
            destination.nlink += 1
        self._state.entries_changed(source)
        now = self._state.entries_changed(destination)
        inode.ctime_ns = now
        self._state.attributes_changed(inode)
        if target is not None:
            inode.replaced_another = inode.is_unstored
            destination.nlink -= target.is_directory
            self._directories.name_removed(target, now)
