# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that cannot be stored although others can, and why.

The bytes of a file may be unreadable on the local disk, or the store may refuse a block of it whatever is done. Such an
error concerns that file alone: snapshots are published without its newest content, show it as it was stored last, and
the storer tries it again.

A store refuses whole packs, which hold blocks of many files. So the files of a refused pack are *isolated*: each is
stored once more by itself. When several isolated files in a row were refused and none was stored, the store seems to be
the cause: the others are tried together once more, and if they are refused too, all are unstorable. Whether the store
takes anything at all shows when a snapshot is published.

Everything here needs the file system's lock, but for what says otherwise.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs

from cas3fs.errors import IndexDatabaseError, StoreError, TransientStoreError, VolumeError
from cas3fs.filesystem.state.inodes import Inode

MAX_CONSECUTIVE: Final = 8
"""After so many isolated files that were refused in a row, the others are tried together."""


@attrs.frozen
class UnstorableFile:
    """A file whose newest content only this machine has; `size_bytes` are staged."""

    inode: int
    path: str
    size_bytes: int
    reason: str


class _Failure(NamedTuple):
    ordinal: int
    error: BaseException


class UnstorableFiles:
    """Remembers which files could not be stored, in the order in which that happened."""

    def __init__(self, files: Mapping[int, Inode]) -> None:
        """Begins without any.

        Args:
            files: every inode that has layers.
        """
        self._files = files
        self._failures: dict[int, _Failure] = {}
        self._isolated: set[int] = set()
        self._consecutive = 0
        self.last_ordinal = 0
        """The ordinal of the last failure: later ones have greater ordinals."""

    def add(self, number: int, error: BaseException, *, isolated: bool) -> None:
        """Records that the file cannot be stored; `isolated` where the store has refused it by itself."""
        self.last_ordinal += 1
        self._failures[number] = _Failure(self.last_ordinal, error)
        self._consecutive += isolated
        if self._consecutive >= MAX_CONSECUTIVE:
            self._isolated.clear()

    def isolate(self, numbers: list[int]) -> bool:
        """Has each of these files, which were refused together, stored by itself.

        Returns:
            False where that would not help.
        """
        if len(numbers) < 2:
            return False
        if self._consecutive >= MAX_CONSECUTIVE:
            self._consecutive = 0
            return False
        self._isolated = {one for one in self._isolated if one in self._files} | set(numbers)
        return True

    def is_isolated(self, number: int) -> bool:
        """Whether the file is to be stored by itself."""
        return number in self._isolated

    def stored(self, number: int) -> None:
        """Records that the file was stored."""
        self._consecutive = 0
        self._failures.pop(number, None)
        self._isolated.discard(number)

    def failed_after(self, number: int, ordinal: int) -> bool:
        """Whether storing the file has failed after the failure of that ordinal."""
        failure = self._failures.get(number)
        return failure is not None and failure.ordinal > ordinal

    def first_error_after(self, ordinal: int) -> BaseException | None:
        """The first error after the failure of that ordinal, of a file that is not stored yet; None without any."""
        later = [one for one in self.current().values() if one.ordinal > ordinal]
        return min(later).error if later else None

    def current(self) -> dict[int, _Failure]:
        """The failures by inode; those of files that were stored or removed meanwhile are forgotten."""
        self._failures = {
            number: failure
            for number, failure in self._failures.items()
            if (inode := self._files.get(number)) is not None and inode.is_unstored
        }
        return self._failures


def concerns_one_file(error: BaseException) -> bool:
    """Whether an error in storing a file says nothing about other files.  Needs no lock."""
    if isinstance(error, TransientStoreError | IndexDatabaseError | VolumeError) or type(error) is StoreError:
        return False  # the store cannot be reached, the local index fails, or the writer was fenced or closed
    return isinstance(error, Exception)
