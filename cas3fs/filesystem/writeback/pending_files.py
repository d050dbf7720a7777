# SPDX-License-Identifier: GPL-3.0-or-later
"""Store requests: what a caller waits for to be in the store.

A request is made of layers, not of times: of a file that a program changes again and again, it has the layers of its
moment stored like any other, while the program writes to a newer one.

Everything here needs the file system's lock.
"""

from collections.abc import Callable, Iterator, Mapping

from cas3fs.filesystem.state.inodes import Inode


class PendingFiles:
    """All that was staged when the request was made, until it is in the index."""

    __slots__ = ("_is_refused", "_remaining", "_settled")

    def __init__(
        self, files: Mapping[int, Inode], *, settled: bool, is_unstorable: Callable[[int], bool] = lambda number: False
    ) -> None:
        """Requests what is staged now.

        Args:
            files: every inode that has layers.
            settled: leave out files that a program is rewriting, even if it begins after the request.
            is_unstorable: given an inode's number, whether to leave it out since it cannot be stored.
        """
        self._settled = settled
        self._is_refused = is_unstorable
        self._remaining = {
            number: inode.layers[-1].seq
            for number, inode in files.items()
            if inode.is_unstored and not (settled and is_rewritten(inode))
        }

    def __len__(self) -> int:
        """How many files are not stored yet."""
        return len(self._remaining)

    def __iter__(self) -> Iterator[int]:
        return iter(self._remaining)

    def wants(self, inode: Inode) -> bool:
        """Whether a layer of the inode is requested."""
        seq = self._remaining.get(inode.number)
        if seq is None or (self._settled and is_rewritten(inode)) or self._is_refused(inode.number):
            return False
        for layer in inode.layers:  # ascending
            if not layer.stored:
                return layer.seq <= seq
        return False

    def remove_done(self, files: Mapping[int, Inode]) -> None:
        """Forgets what is in the index by now, or was removed."""
        self._remaining = {
            number: seq
            for number, seq in self._remaining.items()
            if (inode := files.get(number)) is not None and self.wants(inode)
        }


def is_rewritten(inode: Inode) -> bool:
    """Whether a program is replacing the content of the file."""
    return inode.writers > 0 and not grows(inode)


def grows(inode: Inode) -> bool:
    """Whether no unstored layer has cut off bytes that the file had."""
    return all(layer.floor >= layer.initial_size for layer in inode.layers if not layer.stored)
