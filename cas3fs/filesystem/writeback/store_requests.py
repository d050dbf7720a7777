# SPDX-License-Identifier: GPL-3.0-or-later
"""Demands: what somebody waits for to be in the store.

A request is made of layers, not of times: a file that a program touches again and again has its layers of the moment
stored like any other, while the program writes to a newer one.

Everything here needs the file system's lock.
"""

from collections.abc import Callable, Iterator, Mapping

from cas3fs.filesystem.state.inodes import Inode


class StoreRequest:
    """All that was staged when it was made, until it is in the index.

    With `settled`, a file that a program is at rewriting is not asked for, even if it begins after the request. A file
    is not asked for any more once `is_unstorable`, given its inode's number, says so.
    """

    __slots__ = ("_is_refused", "_left", "_settled")

    def __init__(
        self, files: Mapping[int, Inode], *, settled: bool, is_unstorable: Callable[[int], bool] = lambda number: False
    ) -> None:
        self._settled = settled
        self._is_refused = is_unstorable
        self._left = {
            number: inode.layers[-1].seq
            for number, inode in files.items()
            if inode.unstored and not (settled and is_rewritten(inode))
        }

    def __len__(self) -> int:
        """How many files are waited for."""
        return len(self._left)

    def __iter__(self) -> Iterator[int]:
        return iter(self._left)

    def wants(self, inode: Inode) -> bool:
        """Whether a layer of the inode is waited for."""
        seq = self._left.get(inode.number)
        if seq is None or (self._settled and is_rewritten(inode)) or self._is_refused(inode.number):
            return False
        for layer in inode.layers:  # ascending
            if not layer.stored:
                return layer.seq <= seq
        return False

    def narrow(self, files: Mapping[int, Inode]) -> None:
        """Forgets what is in the index, or gone, by now."""
        self._left = {
            number: seq
            for number, seq in self._left.items()
            if (inode := files.get(number)) is not None and self.wants(inode)
        }


def is_rewritten(inode: Inode) -> bool:
    """Whether a program is at putting new content in the place of old."""
    return inode.writers > 0 and not grows(inode)


def grows(inode: Inode) -> bool:
    """Whether no unstored layer has cut off bytes that the file had."""
    return all(layer.floor >= layer.base for layer in inode.layers if not layer.stored)
