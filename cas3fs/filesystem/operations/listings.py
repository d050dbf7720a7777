# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading directories, from any cookie on, at the cost of what is asked for.

The cookie of an entry is its id in the index. It never changes while the entry stays in its directory, it grows, and
none is used again. So nothing has to be remembered between two calls, and an entry that is there all the time is never
skipped or given twice, whatever else comes and goes.

The two names that every directory has, ``.`` and ``..``, are added by the front-end.
"""

import errno
from collections.abc import Callable, Iterator

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inodes import Inode

_BATCH = 1000

Entry = tuple[int, bytes, int, int]
"""Cookie, name, number and mode of the inode; of the mode only the type is up to date."""
EntryWithInode = tuple[int, bytes, Inode]
"""Cookie, name, inode."""


class Listings:
    """Open directories, and what is in them."""

    def __init__(self, state: FileSystemState) -> None:
        self._state = state
        self._lock = state.lock
        self._space = state.index.namespace
        self._inodes = state.inodes
        self._dentries = state.dentries
        self._open: dict[int, Inode] = {}

    def opendir(self, number: int) -> int:
        """A handle for the directory.

        Raises:
            FileSystemError: ENOENT, ENOTDIR.
        """
        with self._lock:
            directory = self._inodes.get(number)
            if not directory.is_directory:
                raise FileSystemError(errno.ENOTDIR)
            directory.handles += 1
            handle = self._state.next_handle()
            self._open[handle] = directory
            return handle

    def list_names(self, handle: int, cookie: int, limit: int) -> list[Entry]:
        """Up to `limit` entries behind `cookie` (0: from the start); fewer only at the end."""
        directory = self._open[handle].number
        with self._lock:
            self._dentries.flush()
            return self._space.entries(directory, cookie, limit)

    def list_into(
        self, handle: int, cookie: int, limit: int, take: Callable[[list[EntryWithInode]], int]
    ) -> list[EntryWithInode]:
        """Gives up to `limit` entries behind `cookie` to `take`.

        The kernel's count of an inode is raised for each of them that `take` takes.

        Args:
            handle: the open directory.
            cookie: as in `list_names`.
            limit: how many to give.
            take: returns how many of the entries it took, from the first on. Called under the lock.

        Returns:
            those that were taken.
        """
        directory = self._open[handle].number
        with self._lock:
            self._dentries.flush()
            insert, lookups = self._dentries.insert, self._inodes.lookups
            entries = self._with_inodes(directory, cookie, limit)
            taken = entries[: take(entries)]
            for _, name, inode in taken:
                number = inode.number
                lookups[number] = lookups.get(number, 0) + 1
                insert(directory, name, number)
            return taken

    def _with_inodes(self, directory: int, cookie: int, limit: int) -> list[EntryWithInode]:
        """Entries with their inodes, whose rows are read only if some are not in memory."""
        cached = self._inodes.cached
        try:
            return [(row[0], row[1], cached[row[2]]) for row in self._space.entries(directory, cookie, limit)]
        except KeyError:
            admit = self._inodes.admit
            rows = self._space.entries_with_inodes(directory, cookie, limit)
            return [(row[0], row[1], admit(row[2:])) for row in rows]

    def readdir(self, handle: int, cookie: int = 0) -> Iterator[tuple[bytes, Inode, int]]:
        """The entries behind `cookie`, to the end, as name, inode and cookie."""
        directory = self._open[handle].number
        while True:
            with self._lock:
                self._dentries.flush()
                entries = self._with_inodes(directory, cookie, _BATCH)
            yield from ((name, inode, place) for place, name, inode in entries)
            if len(entries) < _BATCH:
                return
            cookie = entries[-1][0]

    @property
    def open_count(self) -> int:
        """How many directories are open."""
        return len(self._open)

    def inode_of(self, handle: int) -> Inode | None:
        """The directory of a handle; None where it is closed.  Needs no lock."""
        return self._open.get(handle)

    def releasedir(self, handle: int) -> None:
        """Closes the handle of a directory."""
        with self._lock:
            directory = self._open.pop(handle)
            directory.handles -= 1
            self._state.remove_if_unreferenced(directory)
