# SPDX-License-Identifier: GPL-3.0-or-later
"""What the parts of one file system share, and the few rules that every change of an inode keeps."""

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cas3fs.blockstore.reader import BlockReader
from cas3fs.errors import IndexRowRefused
from cas3fs.filesystem.settings import FileSystemSettings
from cas3fs.filesystem.state.access_lists import AccessLists
from cas3fs.filesystem.state.dentry_cache import DentryCache
from cas3fs.filesystem.state.inodes import Inode, InodeTable
from cas3fs.filesystem.state.staging import Staging
from cas3fs.filesystem.state.write_access import WriteAccess
from cas3fs.index import Index
from cas3fs.metrics import Metrics

_log = logging.getLogger(__name__)


class FileSystemState:
    """The shared state; made once, and handed to each part by its constructor.

    Every method needs `lock`.

    Attributes:
        lock: guards all that is here, and the open handles of the parts.
        index: the index, by its only connection that writes.
        staging: what is not in the store yet.
        dentries: names, by directory.
        inodes: inodes, by number.
        access_lists: POSIX access lists.
        access: whether programs may change anything.
        reader: reads blocks, through the caches; needs no lock.
        next_handle: makes the number of a handle.
        next_ordinal: of the first snapshot that can hold what is stored now: packs are entered with it.
        programs_busy: programs have changed much of late, so what is not urgent waits.
        rejected_inodes: inodes that were made and that the index never took, and why.
    """

    def __init__(
        self, index: Index, staging: Staging, reader: BlockReader, settings: FileSystemSettings, metrics: Metrics
    ) -> None:
        self.lock = staging.lock
        self.index = index
        self.staging = staging
        self.reader = reader
        self.settings = settings
        self.metrics = metrics
        self.access = WriteAccess(staging.space_available, read_only=settings.read_only)
        index.watch(self.access.set_group_lost)
        self.dentries = DentryCache(index, self._inode_rejected)
        self.inodes = InodeTable(index, self.dentries.unflushed, settings.cached_inodes)
        self.access_lists = AccessLists(index)
        self.rejected_inodes: dict[int, str] = {}
        self.next_handle = itertools.count(1).__next__
        self.next_ordinal = 0
        self.programs_busy = False

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Keeps all that the statements within do to the index, or nothing.

        Raises:
            IndexDatabaseError: the index failed.
        """
        self.dentries.flush()
        with self.index.operation():
            yield

    def _inode_rejected(self, number: int, parent: int, error: IndexRowRefused) -> None:
        """The index does not take an inode that was made: it has no name any more, as if it had been removed."""
        _log.error("inode %d cannot be entered in the index and is gone: %s", number, error)
        self.metrics.counter("commits.refused").add(1)
        self.rejected_inodes[number] = str(error)
        inode, directory = self.inodes.cached.get(number), self.inodes.cached.get(parent)
        if inode is None:
            return
        if inode.is_directory and directory is not None:
            directory.nlink -= 1
            self.inodes.mark_dirty(directory)
        inode.nlink = 0
        self.remove_if_unreferenced(inode)

    def attributes_changed(self, inode: Inode) -> None:
        """Has the attributes of `inode` written with the next commit, and by staging while it owns them."""
        self.inodes.mark_dirty(inode)
        if inode.layers and inode.is_unstored:
            self.staging.update_active_layer(inode)

    def entries_changed(self, directory: Inode) -> int:
        """Notes that an entry of `directory` came or went.

        Returns:
            the time of it, in nanoseconds.
        """
        now = time.time_ns()
        directory.mtime_ns = directory.ctime_ns = now
        self.inodes.mark_dirty(directory)
        return now

    def remove_if_unreferenced(self, inode: Inode) -> None:
        """Removes an inode without any name, handle or lookup count; to be called when one of these went."""
        if inode.nlink == 0 and not inode.handles and inode.number not in self.inodes.lookups:
            self.remove(inode)

    def remove(self, inode: Inode) -> None:
        """Removes an inode, and all that is staged of it."""
        self.staging.discard(inode)
        self.inodes.mark_for_deletion(inode)
