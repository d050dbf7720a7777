# SPDX-License-Identifier: GPL-3.0-or-later
"""What the parts of the file system share: the lock, the rooms below, and the rules that every operation keeps.

Locks, in the order in which they are taken:

1. llfuse's global lock, held by the front-end around a handler; never taken by anything here;
2. ``commit_mutex``: one commit at a time (module `commits`);
3. ``lock``: guards the index's writer connection, the inode table, the layers and all open handles.  It is held for
   microseconds, never across a request to the store; a commit holds it while staging rows are synced.

The caches, the block reader and the block writer have locks of their own, which are taken last and never held while
calling up.
"""

import errno
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cas3fs.blocks.chunkers import Chunker
from cas3fs.blockstore.reader import BlockReader
from cas3fs.errors import FileSystemError, IndexRowRefused
from cas3fs.filesystem.settings import FileSystemSettings
from cas3fs.filesystem.state.dentry_cache import DentryCache
from cas3fs.filesystem.state.inodes import Inode, InodeTable
from cas3fs.filesystem.state.staging import Staging
from cas3fs.index import Index
from cas3fs.metrics import Metrics

_log = logging.getLogger(__name__)


class Base:
    """See the module."""

    def __init__(  # noqa: PLR0917 - one for each room that it stands on
        self,
        index: Index,
        staging: Staging,
        reader: BlockReader,
        chunker: Chunker,
        settings: FileSystemSettings,
        metrics: Metrics,
    ) -> None:
        self.index = index
        self.staging = staging
        self.reader = reader
        self.chunker = chunker
        self.settings = settings
        self.metrics = metrics
        self.lock = threading.Lock()
        staging.guard(self.lock)
        index.watch(self._index_told)
        self.names = DentryCache(index, self._on_inode_refused)
        self.inodes = InodeTable(index, self.names.unflushed)
        self.rejected_inodes: dict[int, str] = {}
        """Inodes that were made, and that the index never took, and why."""
        self.next_ordinal = 0
        """The ordinal of the first snapshot that can hold what is stored now: packs are entered with it."""
        self.changes = 0
        """Counts what programs change."""
        self.busy = False
        """They changed much of late: what is not pressing waits."""
        self._closed_reason = "mounted read-only" if settings.read_only else ""
        self._is_low = False
        self.lost_reason = ""
        """Set while the index has lost its group: memory is ahead of it, and nothing can be committed."""
        self._refusal = 0
        """The errno that every change meets, by the three above."""
        self._judge()

    # -- refusing

    @property
    def read_only_reason(self) -> str:
        """Why changes are refused; empty while they are not."""
        return self._closed_reason or self.lost_reason

    @property
    def read_only(self) -> bool:
        """Whether changes are refused: for good, or until the index has its group again."""
        return bool(self.read_only_reason)

    def turn_read_only(self, reason: str) -> None:
        """Refuses every change from now on; what is staged stays staged."""
        with self.lock:
            self._closed_reason = self._closed_reason or reason
            self._judge()
            self.staging.space_available.notify_all()

    def refuse_growth(self, full: bool) -> None:
        """Says whether the local disk has come down to its reserve; until it has room again, writers get ENOSPC."""
        with self.lock:
            self._is_low = full
            self._judge()
            self.staging.space_available.notify_all()

    def _judge(self) -> None:
        self._refusal = errno.EROFS if self.read_only_reason else errno.ENOSPC if self._is_low else 0

    def _index_told(self, lost: str) -> None:
        """SQLite has undone the group, whatever statement failed, or it was done again.  The lock is held."""
        if lost:
            if not self.lost_reason:
                _log.critical("read-only until it can be written again: %s", lost)
            self.lost_reason = f"the changes of the last seconds cannot be written, it is tried again: {lost}"
            self.staging.space_available.notify_all()
        else:
            _log.warning("the changes of the last seconds are written again, so the mount takes changes again")
            self.lost_reason = ""
        self._judge()

    def _check_writable(self) -> None:
        self.changes += 1
        if self._refusal:
            raise FileSystemError(self._refusal)

    def _check_removable(self) -> None:
        """As `_check_writable`, for what frees room."""
        if self.read_only_reason:
            raise FileSystemError(errno.EROFS)

    # -- inodes

    def _on_inode_refused(self, number: int, parent: int, error: IndexRowRefused) -> None:
        """The index does not take an inode that was made: it has no name any more, as if it had been removed."""
        _log.error("inode %d cannot be entered in the index and is gone: %s", number, error)
        self.metrics.counter("commits.refused").add(1)
        self.rejected_inodes[number] = str(error)
        inode, directory = self.inodes.cached.get(number), self.inodes.cached.get(parent)
        if inode is None:
            return
        if inode.is_directory and directory is not None:
            directory.nlink -= 1
            self.inodes.touch(directory)
        inode.nlink = 0
        self._unreferenced(inode)

    def _changed(self, inode: Inode) -> None:
        """Attributes of `inode` have changed: in the index with the next commit, in staging while it owns them."""
        self.inodes.touch(inode)
        if inode.layers and inode.unstored:
            self.staging.update_active_layer(inode)

    def _changed_directory(self, directory: Inode) -> int:
        """An entry of `directory` came or went; gives the time of it."""
        now = time.time_ns()
        directory.mtime_ns = directory.ctime_ns = now
        self.inodes.touch(directory)
        return now

    def _unreferenced(self, inode: Inode) -> None:
        """A name, handle or lookup count of `inode` went: without any it is removed."""
        if inode.nlink == 0 and not inode.handles and inode.number not in self.inodes.lookups:
            self.staging.discard(inode)
            self.inodes.mark_for_deletion(inode)

    @contextmanager
    def operation(self) -> Iterator[None]:
        """All that the statements within do to the index, or nothing."""
        self.names.flush()
        with self.index.operation():
            yield
