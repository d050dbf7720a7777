# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that are known without asking the index.

The cache keeps, guarded by the file system's lock:

- names that were looked up, listed or made: directory and name to inode number, until an operation on the name;
- names that do *not* exist: the last one that was looked up in vain, since programs often create it next; and every
  other name in a directory that was made here and whose names are all known;
- the *unflushed* inodes and names: those that were made and are not in the index yet. `flush` enters them together:
  before any other change of the index, before a listing, and before a commit. So copying a tree costs no statement for
  each file, and programs see no difference;
- names that were *removed* and that the index still has. The same `flush` deletes them, before it enters the unflushed
  names, so that a name may be made again at once.

A failed flush leaves both as they are, and commits fail until one succeeds. But where the index rejects a single inode
or name, that one leaves the memory with all that was made below it, and the others are entered.
"""

from collections.abc import Callable

from cas3fs.errors import IndexRowRefused
from cas3fs.index import Index

_CAPACITY = 100_000

OnRejected = Callable[[int, int, IndexRowRefused], None]
"""Called with the number of an inode that was made and cannot be entered, that of its directory, and the error."""


class DentryCache:
    """A bounded cache of names.  Every method needs the file system's lock."""

    def __init__(self, index: Index, on_rejected: OnRejected) -> None:
        """Begins empty.

        Args:
            index: has the names that are not cached.
            on_rejected: called, under the lock, for each unflushed inode that the index rejects.
        """
        self._index = index
        self._on_rejected = on_rejected
        self._known: dict[tuple[int, bytes], int] = {}
        self._complete: set[int] = set()  # directories all of whose names are in `_known`
        self._last_absent: tuple[int, bytes] | None = None
        self._last_inode = 0
        self._last_entry = 0
        self._inodes: list[tuple[int, ...]] = []
        self._entries: list[tuple[int, int, bytes, int]] = []
        self._removed: set[tuple[int, bytes]] = set()
        self.unflushed: set[int] = set()
        """Numbers of inodes that the index does not have yet."""

    def get(self, parent: int, name: bytes) -> int | None:
        """The number of the inode of that name, if it is cached."""
        return self._known.get((parent, name))

    def is_absent(self, parent: int, name: bytes) -> bool:
        """Whether the name is known not to exist."""
        key = parent, name
        return key not in self._known and (parent in self._complete or key == self._last_absent or key in self._removed)

    def record_absent(self, parent: int, name: bytes) -> None:
        """Records that the index has no such name."""
        self._last_absent = parent, name

    def insert(self, parent: int, name: bytes, number: int) -> None:
        """Records that the index has the name for that inode; raises as `flush`."""
        self._evict_if_full()
        self._known[parent, name] = number
        self._last_absent = None

    def _evict_if_full(self) -> None:
        if len(self._known) >= _CAPACITY:
            self.clear()

    def discard(self, parent: int, name: bytes) -> None:
        """Forgets a name that the index has no more."""
        self._known.pop((parent, name), None)

    def remove(self, parent: int, name: bytes) -> None:
        """Removes a name that the index has; the next `flush` deletes it there."""
        self._removed.add((parent, name))
        self._known.pop((parent, name), None)

    def discard_directory(self, number: int) -> None:
        """Forgets what is known of a directory that was removed."""
        self._complete.discard(number)

    def reserve_number(self) -> int:
        """The number of the inode that `create` will make next; no inode had it before.

        Raises:
            IndexDatabaseError: the index cannot be asked, or what was made before could not be entered.
        """
        self._evict_if_full()
        if not self._entries:  # the index may have given numbers itself since
            last_inode, self._last_entry = self._index.namespace.last_numbers()
            self._last_inode = max(self._last_inode, last_inode)  # the last one may have been rejected
        return self._last_inode + 1

    def create(self, number: int, parent: int, name: bytes, row: tuple[int, ...], *, is_directory: bool) -> None:
        """Makes an inode with a name; cannot fail.

        Args:
            number: as `reserve_number` gave it.
            parent: the directory.
            name: the name in it.
            row: the columns of the inode from mode to crtime_ns, in their order.
            is_directory: whether it is a directory, of which all names are known from the beginning.
        """
        self._last_inode = number
        self._last_entry += 1
        self._inodes.append((number, *row))
        self._entries.append((self._last_entry, parent, name, number))
        self.unflushed.add(number)
        self._known[parent, name] = number
        self._last_absent = None
        if is_directory:
            self._complete.add(number)

    def clear(self) -> None:
        """Forgets every name that the index has; raises as `flush`."""
        self.flush()
        self._known.clear()
        self._complete.clear()
        self._last_absent = None

    def flush(self) -> None:
        """Deletes removed names from the index, and enters what was made.

        Raises:
            IndexDatabaseError: the index failed; the next call tries the same again.
        """
        if not self._entries and not self._removed:
            return
        rejected: dict[int, IndexRowRefused] = {}
        try:
            with self._index.operation():
                self._index.namespace.remove_entries(self._removed)
                self._index.namespace.insert_inodes(self._inodes)
                self._index.namespace.add_entries(self._entries)
        except IndexRowRefused:
            rejected = self._flush_singly()
        entries = self._entries.copy()
        self._removed.clear()
        self._inodes.clear()
        self._entries.clear()
        self.unflushed.clear()
        for _, parent, name, number in entries:
            if number in rejected:
                self.discard(parent, name)
                self._complete.discard(number)
                self._on_rejected(number, parent, rejected[number])

    def _flush_singly(self) -> dict[int, IndexRowRefused]:
        """As `flush`, but each inode with its name by itself.

        Returns:
            the numbers of those that were rejected, and of those below them, with the error.
        """
        rejected: dict[int, IndexRowRefused] = {}
        with self._index.operation():
            self._index.namespace.remove_entries(self._removed)
            for inode, entry in zip(self._inodes, self._entries, strict=True):
                _, parent, _, number = entry
                if parent in rejected:
                    rejected[number] = rejected[parent]
                    continue
                try:
                    with self._index.operation():
                        self._index.namespace.insert_inodes([inode])
                        self._index.namespace.add_entries([entry])
                except IndexRowRefused as error:
                    rejected[number] = error
        return rejected
