# SPDX-License-Identifier: GPL-3.0-or-later
"""The file system as a whole: makes its parts, starts and stops them, and does what takes several of them.

A life: made; `start` restores what an earlier process left in staging and begins the background work; operations;
`store_all` or `checkpoint`; `close`.
"""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cas3fs.blocks.chunkers import Chunker
from cas3fs.blockstore.reader import BlockReader
from cas3fs.blockstore.writer import BlockWriter
from cas3fs.errors import FileSystemError, IndexCorrupt, IndexRowRefused
from cas3fs.filesystem.copies import Copies
from cas3fs.filesystem.operations.directories import Directories
from cas3fs.filesystem.operations.files import Files
from cas3fs.filesystem.operations.listings import Listings
from cas3fs.filesystem.operations.ranges import Ranges
from cas3fs.filesystem.operations.renames import Renames
from cas3fs.filesystem.operations.restored_trees import RestoredTrees
from cas3fs.filesystem.operations.statistics import Statistics
from cas3fs.filesystem.operations.xattrs import Xattrs
from cas3fs.filesystem.settings import FileSystemSettings
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.recovery import recover
from cas3fs.filesystem.state.staging import Staging
from cas3fs.filesystem.writeback.checkpoint import Checkpoints, Image
from cas3fs.filesystem.writeback.commits import Commits
from cas3fs.filesystem.writeback.pack_records import PackRecords
from cas3fs.filesystem.writeback.storer import Storer
from cas3fs.filesystem.writeback.unstorable import UnstorableFile
from cas3fs.index import Index, IndexReader
from cas3fs.metrics import Metrics
from cas3fs.values import StoredPack

_log = logging.getLogger(__name__)

MakeWriter = Callable[[Callable[[StoredPack], None]], BlockWriter]
"""Makes the block writer, given what it is to call when a pack is stored."""


class FileSystem:
    """A file system over an index, staging, a block reader and a block writer.  Safe for use by many threads.

    The operations that programs ask for are methods of its parts. They are bound here, by the same names, so that a
    caller needs to know one object, and calls as fast as if it knew the part.

    Attributes:
        directories: the operations on names.
        renames: moving names.
        listings: open directories.
        files: the operations on contents and attributes.
        ranges: the operations on ranges of contents.
        xattrs: the operations on extended attributes.
        access_lists: POSIX access lists, and whether they are followed.
        copies: copies ranges of files.
        restored_trees: enters trees out of snapshots.
        commits: makes changes durable on this machine.
        storer: brings dirty files to the store.
        checkpoints: makes copies of the index that a snapshot can be made of.
        packs: records packs and losses in the index.
        staging: what is not in the store yet.
    """

    def __init__(  # noqa: PLR0917 - one for each package that it builds on
        self,
        index: Index,
        staging: Staging,
        reader: BlockReader,
        make_writer: MakeWriter,
        chunker: Chunker,
        settings: FileSystemSettings,
        metrics: Metrics,
    ) -> None:
        self.staging = staging
        self.metrics = metrics
        self._state = state = FileSystemState(index, staging, reader, settings, metrics)
        self.directories = Directories(state)
        self.renames = Renames(state, self.directories)
        self.listings = Listings(state)
        self.files = Files(state, self.directories)
        self.ranges = Ranges(state, self.files)
        self.xattrs = Xattrs(state)
        self.access_lists = state.access_lists
        self.commits = Commits(state)
        self.packs = PackRecords(state)
        self._writer = writer = make_writer(self.packs.add)
        staging.last_response_at = lambda: writer.last_response_at_s
        reader.on_lost_block(self.packs.mark_block_lost)
        self.storer = Storer(state, writer, chunker, self.commits)
        self.restored_trees = RestoredTrees(state, self.directories, self.xattrs)
        self.copies = Copies(state, self.files, self.ranges, self.storer.store)
        self.checkpoints = Checkpoints(state, writer, chunker, self.commits, self.storer)
        self._statistics = Statistics(state, self.listings, self.files)
        self._bind()

    def _bind(self) -> None:
        """Gives the operations of the parts here, too."""
        directories, listings, files = self.directories, self.listings, self.files
        ranges, xattrs = self.ranges, self.xattrs
        self.lookup = directories.lookup
        self.find = directories.find
        self.forget = directories.forget
        self.mknod = directories.mknod
        self.mkdir = directories.mkdir
        self.symlink = directories.symlink
        self.readlink = directories.readlink
        self.link = directories.link
        self.unlink = directories.unlink
        self.rmdir = directories.rmdir
        self.rename = self.renames.rename
        self.opendir = listings.opendir
        self.list_names = listings.list_names
        self.list_into = listings.list_into
        self.readdir = listings.readdir
        self.releasedir = listings.releasedir
        self.getattr = files.getattr
        self.setattr = files.setattr
        self.set_flags = files.set_flags
        self.create = files.create
        self.tmpfile = files.tmpfile
        self.open = files.open
        self.release = files.release
        self.read_now = files.read_now
        self.read = files.read
        self.write_now = files.write_now
        self.write = files.write
        self.next_data = ranges.next_data
        self.data_ranges = ranges.data_ranges
        self.seek_now = ranges.seek_now
        self.seek = ranges.seek
        self.allocate = ranges.allocate
        self.copy_range_now = self.copies.copy_now
        self.copy_range = self.copies.copy
        self.check_losses = files.check_losses
        self.getxattr = xattrs.getxattr
        self.listxattr = xattrs.listxattr
        self.setxattr = xattrs.setxattr
        self.removexattr = xattrs.removexattr
        self.statfs = self._statistics.statfs
        self.statistics = self._statistics.by_name
        self.pending = self._statistics.pending
        self.staged_sizes = self._statistics.staged_sizes

    # -- starting and ending

    def start(self) -> int:
        """Restores staged data, removes files that a crash left without a name, and starts the background work.

        Returns:
            how many files had staged data.

        Raises:
            IndexDatabaseError: index or records of staging cannot be read or written.
            OSError: what is to be quarantined cannot be written.
        """
        state = self._state
        if state.settings.read_only:
            return 0
        recovered = self.recover_staging()
        with state.lock:
            for number in state.index.namespace.unlinked():
                state.remove(state.inodes.get(number))
        self.commit()
        self._report_quarantined()
        self.commits.start()
        self.storer.start()
        return recovered

    def recover_staging(self) -> int:
        """Restores what an earlier process has left in staging; `start` does that, too.

        Returns:
            how many files had staged data.

        Raises:
            IndexDatabaseError: index or records of staging cannot be read.
            OSError: what is to be quarantined cannot be written.
        """
        with self._state.lock:
            return recover(self.staging, self._state.inodes)

    def _report_quarantined(self) -> None:
        """Reports which files have lost what was staged of them, in the log and in the figures."""
        if self.staging.rows.records.salvaged:
            _log.error("%s", self.staging.rows.records.salvaged)
            self.metrics.note_error("staging", IndexCorrupt(self.staging.rows.records.salvaged))
        if not self.staging.quarantined:
            return
        from cas3fs.index.checks import IndexChecker  # few mounts need it

        with IndexChecker(self.index_path) as checker:
            for number, reason in self.staging.quarantined:
                path = checker.path_of(number).decode(errors="backslashreplace") if number else "an unknown file"
                message = f"a record of staged bytes of {path} is damaged, so it is as it was before them: {reason}"
                _log.error("%s", message)
                self.metrics.note_error("staging", IndexCorrupt(message))

    def close(self) -> None:
        """Stops the background work, after a last commit; what is not stored yet stays staged.

        Raises:
            IndexDatabaseError, OSError: that commit failed; all is closed nevertheless.
        """
        try:
            if not self._state.settings.read_only:
                self.storer.stop()
                self.commits.stop()
                self.commit()
        finally:
            self._writer.close()
            self._state.reader.close()
            self.staging.close()
            self._state.index.close()

    # -- refusing changes

    @property
    def read_only_reason(self) -> str:
        """Why changes are refused; empty while they are not."""
        return self._state.access.read_only_reason

    @property
    def read_only(self) -> bool:
        """Whether changes are refused: for good, or until the index has its group again."""
        return bool(self.read_only_reason)

    def turn_read_only(self, reason: str) -> None:
        """Refuses every change from now on; what is staged stays staged."""
        self._state.access.turn_read_only(reason)

    # -- the index, for garbage collection, checks and publishing

    @contextmanager
    def index_transaction(self) -> Iterator[Index]:
        """The index, while no operation of a program uses it; all that is changed within is kept, or nothing.

        It shows every operation that has ended before. Inodes and names may be in memory too: a caller that changes
        them calls `drop_caches` afterwards, and does so only while no program uses the file system.

        Raises:
            IndexDatabaseError: the index failed; what was changed within is undone.
        """
        with self._state.lock, self._state.operation():
            yield self._state.index

    @property
    def index_path(self) -> Path:
        """The index's file, for readers with a connection of their own: they see what is committed."""
        return self._state.index.path

    def read_index(self) -> IndexReader:
        """A reader of the index as of the last commit; to be closed.

        Raises:
            IndexDatabaseError: it cannot be opened.
        """
        return self._state.index.reader()

    def drop_caches(self) -> None:
        """Forgets the inodes and names that are cached, as `index_transaction` has changed some of them.

        Raises:
            IndexDatabaseError: what was not in the index yet could not be committed.
        """
        self.commit()
        with self._state.lock:
            self._state.inodes.drop_unused()
            self._state.dentries.clear()

    def complete_index(self) -> None:
        """Makes all earlier operations visible in the index's file; errors as `commit`."""
        self.commit()

    @property
    def next_ordinal(self) -> int:
        """The ordinal of the first snapshot that can hold what is stored now: packs are entered with it."""
        return self._state.next_ordinal

    @next_ordinal.setter
    def next_ordinal(self, ordinal: int) -> None:
        self._state.next_ordinal = ordinal

    def unrecorded_packs(self) -> frozenset[str]:
        """The names of packs that may be in the store already although the index does not know them yet."""
        return self._writer.unrecorded

    # -- durability

    def commit(self) -> None:
        """Makes all earlier operations durable on this machine.

        Raises:
            IndexDatabaseError, OSError: they are not durable; a later commit may succeed.
        """
        if not self._state.settings.read_only:
            self.commits.commit()

    def fsync(self, handle: int, datasync: bool = False) -> None:
        """Makes what was written to the file durable on this machine.

        Raises:
            FileSystemError: EIO, the local disk has lost bytes of it; each handle gets it once.
            IndexDatabaseError, OSError: as `commit`, and IndexRowRefused.
        """
        self.commit()
        inode = self.files.inode_of(handle)
        if inode is not None:
            self._check_kept(inode)
        self.check_losses(handle)

    def fsyncdir(self, handle: int) -> None:
        """Makes changes of the directory durable on this machine; errors as `fsync`."""
        self.commit()
        directory = self.listings.inode_of(handle)
        if directory is not None:
            self._check_kept(directory)

    @property
    def refused_inodes(self) -> int:
        """How many inodes are not in the index as programs left them, as it does not take their rows."""
        return self._statistics.refused_inodes

    def _check_kept(self, inode: Inode) -> None:
        state, number = self._state, inode.number
        reason = (
            state.inodes.refused.get(number)
            or state.rejected_inodes.get(number)
            or self.staging.rows.refused.get(number)
        )
        if reason:
            raise IndexRowRefused(reason)

    def store_all(
        self, timeout_s: float | None = None, *, settled: bool = False, skip_unstorable: bool = False
    ) -> None:
        """Stores everything written before the call, and enters it in the index.

        With `settled`, a file that was truncated and is being rewritten is left alone until it is closed; with
        `skip_unstorable`, files that cannot be stored although others can are left out: `unstorable_files` lists them.

        Raises:
            Cas3fsError, OSError: it failed; nothing is lost, and storing is tried again.
            TimeoutError: not in that time.
        """
        self.storer.store_all(timeout_s, settled=settled, skip_unstorable=skip_unstorable)
        self.commit()

    def checkpoint(self, scratch: Path, *, settled: bool = False, in_place: bool = True) -> Image:
        """Stores everything, then pins the index: a state the file system had after the call; the caller closes it.

        `settled` as in `store_all`; without it, what was written before the call is in it, but for files that cannot be
        stored although others can: `unstorable_files` lists them. With `in_place` the image may be the index itself,
        which may be lost while it is read; else it is a copy at `scratch`.

        Raises:
            as `store_all`, and IndexDatabaseError where it cannot be made.
        """
        return self.checkpoints.take(scratch, settled=settled, in_place=in_place)

    def unstorable_files(self) -> list[UnstorableFile]:
        """The files that cannot be stored although others can; each is tried again and again.

        Raises:
            IndexDatabaseError: their paths cannot be read.
        """
        with self._state.lock:
            reasons = self.storer.unstorable()
            sizes = {number: self.staging.files[number].unstored_bytes for number in reasons}
        if not reasons:
            return []
        from cas3fs.index.checks import IndexChecker  # few mounts need it

        with IndexChecker(self.index_path) as checker:
            return [
                UnstorableFile(number, checker.path_of(number).decode(errors="backslashreplace"), sizes[number], reason)
                for number, reason in sorted(reasons.items())
            ]

    def check_stored(self, handle: int) -> None:
        """Checks, for a program that has waited for it, that the file of the handle could be stored.

        Raises:
            FileSystemError: EIO, it could not.
        """
        inode = self.files.inode_of(handle)
        if inode is None:
            return
        with self._state.lock:
            reason = self.storer.unstorable().get(inode.number)
        if reason is not None:
            raise FileSystemError(errno.EIO, f"the file cannot be stored: {reason}")
