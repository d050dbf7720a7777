# SPDX-License-Identifier: GPL-3.0-or-later
"""Names: lookup, create, link, unlink, rename, readdir.

The kernel checks permissions (``default_permissions``), as it knows the caller's groups and capabilities. What is
checked here is what keeps the tree a tree.

An operation that takes several statements is one savepoint of the index: all of it or nothing. It changes memory only
after its last statement, and any statement may fail: so it asks before for all that it needs to know.
"""

import errno
import itertools
import stat
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.limits import INTEGER_MAX, NAME_MAX, check_owner
from cas3fs.filesystem.settings import Caller
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inodes import Inode

_LISTING_ENTRIES = 1000
_LINK_MAX = 2**31 - 1

Name = tuple[int, bytes]
"""A directory's number, and a name in it."""


class DirectoryListing:
    """An open directory, with entries that were read ahead: the many small requests of one reading cost one query."""

    __slots__ = ("cookies", "directory", "entries", "start_cookie")

    def __init__(self, directory: Inode) -> None:
        self.directory = directory
        self.entries: list[tuple[bytes, Inode, int]] = []
        self.cookies: list[int] = []
        self.start_cookie = 0
        """The cookie behind which `entries` begin."""


class Directories:
    """The operations on names."""

    def __init__(self, state: FileSystemState) -> None:
        self._state = state
        self._lock = state.lock
        self._index = state.index
        self._inodes = state.inodes
        self._dentries = state.dentries
        self._access = state.access
        self._listings: dict[int, DirectoryListing] = {}

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
            inode = self._find(parent, name)
            if inode is not None:
                lookups = self._inodes.lookups
                lookups[inode.number] = lookups.get(inode.number, 0) + 1
            return inode

    def _find(self, parent: int, name: bytes) -> Inode | None:
        number = self._dentries.get(parent, name)
        if number is not None:
            return self._inodes.get(number)
        if name in (b".", b".."):
            return self._find_dots(parent, name)
        if self._dentries.is_absent(parent, name):
            self._check_name(name)
            return None
        if parent > INTEGER_MAX:
            raise FileSystemError(errno.ENOENT)
        row = self._index.namespace.lookup(parent, name)
        if row is None:
            self._inodes.directory(parent)
            self._check_name(name)
            self._dentries.record_absent(parent, name)
            return None
        self._dentries.insert(parent, name, row[0])
        return self._inodes.admit(row)

    def _find_dots(self, parent: int, name: bytes) -> Inode:
        directory = self._inodes.directory(parent)
        if name == b".":
            return directory
        above = self._parent_of(parent)
        return directory if above is None else self._inodes.get(above)

    def _parent_of(self, directory: int) -> int | None:
        self._dentries.flush()
        return self._index.namespace.parent_of(directory)

    def _check_name(self, name: bytes) -> None:
        if len(name) > NAME_MAX:
            raise FileSystemError(errno.ENAMETOOLONG)
        if not name or b"/" in name or b"\0" in name:
            raise FileSystemError(errno.EINVAL)

    def _find_existing(self, parent: int, name: bytes) -> Inode:
        """The inode of a name that is to be removed or moved."""
        if name == b".":
            raise FileSystemError(errno.EINVAL)
        if name == b"..":
            raise FileSystemError(errno.ENOTEMPTY)
        inode = self._find(parent, name)
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
            FileSystemError: EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL, ENOSPC, EROFS.
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
        self._access.check_change()
        directory = self._check_new_name(parent, name)
        gid = caller.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        now = time.time_ns()
        is_directory = stat.S_ISDIR(mode)
        check_owner(caller.uid, gid)
        if not 0 <= rdev <= INTEGER_MAX:
            raise FileSystemError(errno.EINVAL)
        row = (mode, caller.uid, gid, 2 if is_directory else 1, rdev, len(target or b""), now, now, now, now)
        number = self._dentries.reserve_number()
        if target is not None:
            self._index.namespace.add_symlink(number, target)
        self._dentries.create(number, parent, name, row, is_directory=is_directory)
        directory.nlink += is_directory
        self._state.entries_changed(directory)
        inode = self._inodes.admit((number, *row, 0))
        self._inodes.lookups[number] = 1
        return inode

    def _check_new_name(self, parent: int, name: bytes) -> Inode:
        """The directory, after checking that the name is valid and not taken there."""
        directory = self._inodes.directory(parent)
        if name in (b".", b".."):
            raise FileSystemError(errno.EEXIST)
        self._check_name(name)
        if self._dentries.is_absent(parent, name):
            return directory
        if self._dentries.get(parent, name) is not None or self._index.namespace.child(parent, name) is not None:
            raise FileSystemError(errno.EEXIST)
        return directory

    def link(self, number: int, new_parent: int, new_name: bytes) -> Inode:
        """Gives the inode one more name.

        Raises:
            FileSystemError: EPERM for a directory, ENOENT for an inode without a name, EMLINK, and as `mknod`.
        """
        with self._lock:
            self._access.check_change()
            inode = self._inodes.get(number)
            directory = self._check_new_name(new_parent, new_name)
            if inode.is_directory:
                raise FileSystemError(errno.EPERM)
            if inode.nlink == 0:
                raise FileSystemError(errno.ENOENT)
            if inode.nlink >= _LINK_MAX:
                raise FileSystemError(errno.EMLINK)
            with self._state.operation():
                self._index.namespace.add_entry(new_parent, new_name, number)
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
            FileSystemError: ENOENT, EISDIR, EROFS.
        """
        with self._lock:
            self._access.check_removal()
            inode = self._find_existing(parent, name)
            if inode.is_directory:
                raise FileSystemError(errno.EISDIR)
            self._remove(parent, name, inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Removes an empty directory.

        Raises:
            FileSystemError: ENOENT, ENOTDIR, ENOTEMPTY, EROFS.
        """
        with self._lock:
            self._access.check_removal()
            inode = self._find_existing(parent, name)
            if not inode.is_directory:
                raise FileSystemError(errno.ENOTDIR)
            if not self._is_empty(inode):
                raise FileSystemError(errno.ENOTEMPTY)
            self._remove(parent, name, inode)

    def _is_empty(self, directory: Inode) -> bool:
        self._dentries.flush()
        return self._index.namespace.is_empty(directory.number)

    def _remove(self, parent: int, name: bytes, inode: Inode) -> None:
        directory = self._inodes.directory(parent)
        if inode.number in self._dentries.unflushed:  # the index does not have the entry yet
            self._dentries.flush()
        self._dentries.remove(parent, name)
        directory.nlink -= inode.is_directory
        self._name_removed(inode, self._state.entries_changed(directory))

    def _name_removed(self, inode: Inode, now: int) -> None:
        """Updates an inode that has lost a name; a directory has only one."""
        inode.nlink = 0 if inode.is_directory else max(0, inode.nlink - 1)
        if inode.is_directory:
            self._dentries.discard_directory(inode.number)
        inode.ctime_ns = now
        self._state.attributes_changed(inode)
        self._state.remove_if_unreferenced(inode)

    # -- moving

    def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes) -> None:
        """Moves a name, in one step, in the place of what has the new one.

        Raises:
            FileSystemError: ENOENT; EINVAL for a move into itself; ENOTEMPTY, ENOTDIR or EISDIR for the target;
                ENAMETOOLONG, ENOSPC, EROFS.
        """
        with self._lock:
            self._access.check_change()
            self._inodes.directory(new_parent)
            inode = self._find_existing(old_parent, old_name)
            if new_name in (b".", b".."):
                raise FileSystemError(errno.EEXIST)
            self._check_name(new_name)
            target = self._find(new_parent, new_name)
            if target is inode:  # two names of one file: POSIX asks for nothing to happen
                return
            if inode.is_directory and old_parent != new_parent:
                self._check_not_below(inode, new_parent)
            if target is not None:
                self._check_replaceable(inode, target)
            self._move(inode, target, (old_parent, old_name), (new_parent, new_name))

    def _check_not_below(self, inode: Inode, directory: int) -> None:
        """Checks that a directory does not move into itself or below."""
        above: int | None = directory
        while above is not None:
            if above == inode.number:
                raise FileSystemError(errno.EINVAL)
            above = self._parent_of(above)

    def _check_replaceable(self, inode: Inode, target: Inode) -> None:
        if target.is_directory:
            if not inode.is_directory:
                raise FileSystemError(errno.EISDIR)
            if not self._is_empty(target):
                raise FileSystemError(errno.ENOTEMPTY)
        elif inode.is_directory:
            raise FileSystemError(errno.ENOTDIR)

    def _move(self, inode: Inode, target: Inode | None, old: Name, new: Name) -> None:
        space = self._index.namespace
        source, destination = self._inodes.get(old[0]), self._inodes.get(new[0])
        with self._state.operation():
            if target is not None:  # the entry stays in its place: a readdir under way neither skips nor repeats it
                space.remove_entry(*old)
                space.redirect_entry(*new, inode.number)
            elif old[0] == new[0]:
                space.rename_entry(*old, new[1])
            else:
                space.move_entry(*old, *new)
        self._dentries.discard(*old)
        self._dentries.insert(*new, inode.number)
        self._update_after_move(inode, target, source, destination)

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
            self._name_removed(target, now)

    # -- reading directories

    def opendir(self, number: int) -> int:
        """A handle for `readdir`.

        Raises:
            FileSystemError: ENOENT, ENOTDIR.
        """
        with self._lock:
            directory = self._inodes.get(number)
            if not directory.is_directory:
                raise FileSystemError(errno.ENOTDIR)
            directory.handles += 1
            handle = self._state.next_handle()
            self._listings[handle] = DirectoryListing(directory)
            return handle

    def readdir(self, handle: int, offset: int) -> Iterator[tuple[bytes, Inode, int]]:
        """The entries behind the cookie `offset` (0: from the start): name, inode, cookie.

        The cookie of an entry never changes while it stays in its directory, so an entry that is there all the time is
        never skipped or given twice, whatever else comes and goes. The kernel adds "." and "..".
        """
        listing = self._listings[handle]
        if offset == 0 or offset < listing.start_cookie:
            self._load_entries(listing, offset)
        while True:
            position = bisect_right(listing.cookies, offset)
            if position == len(listing.entries):
                self._load_entries(listing, offset)
                position = 0
            if not listing.entries:
                return
            for entry in itertools.islice(listing.entries, position, None):
                yield entry
                offset = entry[2]

    def _load_entries(self, listing: DirectoryListing, offset: int) -> None:
        directory = listing.directory.number
        with self._lock:
            self._dentries.flush()
            rows = self._index.namespace.entries(directory, offset, _LISTING_ENTRIES)
            admit = self._inodes.admit
            listing.entries = [(row[1], admit(row[2:]), row[0]) for row in rows]
            for name, inode, _ in listing.entries:
                self._dentries.insert(directory, name, inode.number)
        listing.cookies = [cookie for _, _, cookie in listing.entries]
        listing.start_cookie = offset

    def list_into(self, handle: int, offset: int, limit: int, add: Callable[[bytes, Inode, int], bool]) -> None:
        """Gives the entries behind the cookie `offset` to `add`, as they are now, until it takes no more.

        The kernel's count of an inode is raised for each that `add` takes. Nothing is read ahead, so a reader that
        jumps costs no more than one that does not.

        Args:
            handle: the open directory.
            offset: as in `readdir`.
            limit: about how many entries `add` may take.
            add: takes name, inode and cookie; returns whether it took them. Called under the lock.
        """
        directory = self._listings[handle].directory.number
        lookups = self._inodes.lookups
        with self._lock:
            self._dentries.flush()
            while True:
                rows = self._index.namespace.entries(directory, offset, limit)
                for cookie, name, *row in rows:
                    inode = self._inodes.admit(tuple(row))
                    if not add(name, inode, cookie):
                        return
                    lookups[inode.number] = lookups.get(inode.number, 0) + 1
                    self._dentries.insert(directory, name, inode.number)
                if len(rows) < limit:
                    return
                offset = rows[-1][0]

    @property
    def open_count(self) -> int:
        """How many directories are open."""
        return len(self._listings)

    def inode_of(self, handle: int) -> Inode | None:
        """The directory of a handle; None where it is closed.  Needs no lock."""
        listing = self._listings.get(handle)
        return None if listing is None else listing.directory

    def releasedir(self, handle: int) -> None:
        """Closes the handle of a directory."""
        with self._lock:
            directory = self._listings.pop(handle).directory
            directory.handles -= 1
            self._state.remove_if_unreferenced(directory)
