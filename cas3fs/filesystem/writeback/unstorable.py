# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals: files that cannot be stored although others can, and why.

The bytes of a file may be unreadable on the local disk, or a block of it may be refused by the store whatever is done.
That is the trouble of that file alone: snapshots are published without it, in which it is as it was stored last, and it
is tried again.

What a store refuses is a pack, which holds blocks of many files. So files of a pack that was refused are stored once
more each *alone*. When some were refused in a row and none was stored, it seems to be the store's doing: the others are
tried together for once, and if they are refused too, all are. Whether the store takes anything shows when a snapshot is
published.

Everything here needs the file system's lock, but what says otherwise.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs

from cas3fs.errors import IndexDatabaseError, StoreError, TransientStoreError, VolumeError
from cas3fs.filesystem.state.inodes import Inode

MOST_IN_A_ROW: Final = 8


@attrs.frozen
class UnstorableFile:
    """A file of which this machine alone has what was written last; `size_bytes` are staged."""

    inode: int
    path: str
    size_bytes: int
    reason: str


class _Refusal(NamedTuple):
    turn: int
    error: BaseException


class UnstorableFiles:
    """See the module."""

    def __init__(self, files: Mapping[int, Inode]) -> None:
        """`files`: every inode that has layers."""
        self._files = files
        self._refused: dict[int, _Refusal] = {}
        self._alone: set[int] = set()
        self._in_a_row = 0
        self.turn = 0
        """Counts refusals: what has come after a certain one can be told."""

    def add(self, number: int, error: BaseException, *, alone: bool) -> None:
        """The file cannot be stored; `alone`: the store has refused it alone."""
        self.turn += 1
        self._refused[number] = _Refusal(self.turn, error)
        self._in_a_row += alone
        if self._in_a_row >= MOST_IN_A_ROW:
            self._alone.clear()

    def set_apart(self, numbers: list[int]) -> bool:
        """These files were refused together: says that each is to be stored alone; False where that is no use."""
        if len(numbers) < 2:
            return False
        if self._in_a_row >= MOST_IN_A_ROW:
            self._in_a_row = 0
            return False
        self._alone = {one for one in self._alone if one in self._files} | set(numbers)
        return True

    def is_alone(self, number: int) -> bool:
        """Whether the file is to be stored alone."""
        return number in self._alone

    def stored(self, number: int) -> None:
        """The file was stored."""
        self._in_a_row = 0
        self._refused.pop(number, None)
        self._alone.discard(number)

    def after(self, number: int, turn: int) -> bool:
        """Whether the file was refused after that turn."""
        refusal = self._refused.get(number)
        return refusal is not None and refusal.turn > turn

    def first_after(self, turn: int) -> BaseException | None:
        """What the first file met that was refused after that turn, and is not stored yet."""
        found = [one for one in self.current().values() if one.turn > turn]
        return min(found).error if found else None

    def current(self) -> dict[int, _Refusal]:
        """By inode, what is refused now; forgets what was stored or removed."""
        self._refused = {
            number: refusal
            for number, refusal in self._refused.items()
            if (inode := self._files.get(number)) is not None and inode.unstored
        }
        return self._refused


def is_of_one_file(error: BaseException) -> bool:
    """Whether an error in storing a file says nothing of others. Needs no lock."""
    if isinstance(error, TransientStoreError | IndexDatabaseError | VolumeError) or type(error) is StoreError:
        return False  # the store is away, the local index fails, the writer was fenced or closed
    return isinstance(error, Exception)
