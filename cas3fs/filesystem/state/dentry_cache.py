# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of names without asking the index.

Four things, all guarded by the file system's lock:

- names that were looked up, listed or made: directory and name to inode number, until an operation on the name;
- names that are *not* there: the one that was looked for last, which is often made next; and all that are missing in a
  directory that was made here and whose names are all known;
- the *newborn*: inodes and names that were made and are not in the index yet.  They are entered together, by
  `flush`: before any other change of the index, before a listing, and before a commit.  So a tree that is being
  copied costs no statement for each file, and what a program sees is the same;
- names that are *gone* and that the index still has.  They leave it with the same `flush`, before the newborn enter:
  so a name may be made again at once.

A failed flush leaves both as they are, and the next commit fails until it succeeds.  But a single inode or name that
the index refuses goes out of memory, with all that was made below it, and the others enter.
"""

from collections.abc import Callable

from cas3fs.errors import IndexRowRefused
from cas3fs.index import Index

_CAPACITY = 100_000

Refused = Callable[[int, int, IndexRowRefused], None]
"""Is given the number of an inode that was made, and cannot be entered, and that of its directory."""


class DentryCache:
    """See the module.  Every method needs the file system's lock."""

    def __init__(self, index: Index, refused: Refused) -> None:
        """`refused` is called, under the lock, with each of the newborn that the index does not take."""
        self._index = index
        self._refused = refused
        self._known: dict[tuple[int, bytes], int] = {}
        self._whole: set[int] = set()  # directories all of whose names are in `_known`
        self._missed: tuple[int, bytes] | None = None
        self._last_inode = 0
        self._last_entry = 0
        self._inodes: list[tuple[int, ...]] = []
        self._entries: list[tuple[int, int, bytes, int]] = []
        self._gone: set[tuple[int, bytes]] = set()
        self.unflushed: set[int] = set()
        """Numbers of inodes that the index does not have yet."""

    def get(self, parent: int, name: bytes) -> int | None:
        """The inode of that name, if it is known."""
        return self._known.get((parent, name))

    def is_absent(self, parent: int, name: bytes) -> bool:
        """Whether it is known that there is no such name."""
        key = parent, name
        return key not in self._known and (parent in self._whole or key == self._missed or key in self._gone)

    def miss(self, parent: int, name: bytes) -> None:
        """The index has no such name."""
        self._missed = parent, name

    def learn(self, parent: int, name: bytes, number: int) -> None:
        """The name stands for that inode; raises as `flush`, where anything is to be flushed."""
        self._evict_if_full()
        self._known[parent, name] = number
        self._missed = None

    def _evict_if_full(self) -> None:
        if len(self._known) >= _CAPACITY:
            self.clear()

    def forget(self, parent: int, name: bytes) -> None:
        """The name stands for nothing any more, in the index either."""
        self._known.pop((parent, name), None)

    def remove(self, parent: int, name: bytes) -> None:
        """The name, which the index has, goes; from the index with the next `flush`."""
        self._gone.add((parent, name))
        self._known.pop((parent, name), None)

    def forget_directory(self, number: int) -> None:
        """The directory is gone."""
        self._whole.discard(number)

    def reserve(self) -> int:
        """The number of the inode that `add` will make next; no inode had it before.

        Raises:
            IndexDatabaseError: it is not known, or what was made before could not be entered.
        """
        self._evict_if_full()
        if not self._entries:  # the index may have given numbers itself since
            last_inode, self._last_entry = self._index.namespace.last_numbers()
            self._last_inode = max(self._last_inode, last_inode)  # the last one may have been refused
        return self._last_inode + 1

    def add(self, number: int, parent: int, name: bytes, row: tuple[int, ...], *, is_directory: bool) -> None:
        """Makes the inode of that number, which `reserve` gave, of that row (mode to crtime_ns, as the columns stand)
        with that name; cannot fail."""
        self._last_inode = number
        self._last_entry += 1
        self._inodes.append((number, *row))
        self._entries.append((self._last_entry, parent, name, number))
        self.unflushed.add(number)
        self._known[parent, name] = number
        self._missed = None
        if is_directory:
            self._whole.add(number)

    def clear(self) -> None:
        """Forgets every name that the index has; raises as `flush`."""
        self.flush()
        self._known.clear()
        self._whole.clear()
        self._missed = None

    def flush(self) -> None:
        """Takes the names that are gone out of the index, and enters the unflushed.

        Raises:
            IndexDatabaseError: it did not take them; they stay to be taken.
        """
        if not self._entries and not self._gone:
            return
        refused: dict[int, IndexRowRefused] = {}
        try:
            with self._index.operation():
                self._index.namespace.remove_entries(self._gone)
                self._index.namespace.insert_inodes(self._inodes)
                self._index.namespace.add_entries(self._entries)
        except IndexRowRefused:
            refused = self._flush_singly()
        entries = self._entries.copy()
        self._gone.clear()
        self._inodes.clear()
        self._entries.clear()
        self.unflushed.clear()
        for _, parent, name, number in entries:
            if number in refused:
                self.forget(parent, name)
                self._whole.discard(number)
                self._refused(number, parent, refused[number])

    def _flush_singly(self) -> dict[int, IndexRowRefused]:
        """As `flush`, each inode with its name by itself; gives those that were refused, and what is below them."""
        refused: dict[int, IndexRowRefused] = {}
        with self._index.operation():
            self._index.namespace.remove_entries(self._gone)
            for inode, entry in zip(self._inodes, self._entries, strict=True):
                _, parent, _, number = entry
                if parent in refused:
                    refused[number] = refused[parent]
                    continue
                try:
                    with self._index.operation():
                        self._index.namespace.insert_inodes([inode])
                        self._index.namespace.add_entries([entry])
                except IndexRowRefused as error:
                    refused[number] = error
        return refused
