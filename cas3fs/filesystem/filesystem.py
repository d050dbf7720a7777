# SPDX-License-Identifier: GPL-3.0-or-later
"""The file system as a whole: its parts put together, and what concerns all of them.

A life: made; `start` takes up what an earlier process left and begins the background work; operations; `store_all`
or `checkpoint`; `close`.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from cas3fs.blocks.chunkers import Chunker
from cas3fs.blockstore.reader import BlockReader
from cas3fs.blockstore.writer import BlockWriter
from cas3fs.errors import FileSystemError, IndexCorrupt, IndexDatabaseError, IndexRowRefused
from cas3fs.filesystem.limits import NAME_MAX
from cas3fs.filesystem.operations.files import Files
from cas3fs.filesystem.operations.xattrs import Xattrs
from cas3fs.filesystem.settings import FileSystemSettings
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.recovery import recover
from cas3fs.filesystem.state.staging import Staging
from cas3fs.filesystem.writeback.checkpoint import Checkpoints
from cas3fs.filesystem.writeback.commits import Commits
from cas3fs.filesystem.writeback.storer import Storer
from cas3fs.filesystem.writeback.unstorable import UnstorableFile
from cas3fs.index import Index, IndexChecker, IndexReader
from cas3fs.metrics import Metrics
from cas3fs.values import BlockLocation, StoredPack

_BLOCK_BYTES = 4096
_FREE_BLOCKS = 2**38  # 1 PiB: an object store has no end that it would tell
_FREE_FILES = 2**40
_COUNTS_FRESH_S = 5.0

_log = logging.getLogger(__name__)

MakeWriter = Callable[[Callable[[StoredPack], None]], BlockWriter]


@attrs.frozen
class Pending:
    """What is not in the store yet."""

    files: int
    size_bytes: int


@attrs.frozen
class VolumeStatistics:
    """What statvfs(2) tells; `blocks` are of `block_size` bytes."""

    block_size: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
    name_max: int


class FileSystem(Files, Xattrs):
    """A file system over an index, staging, a block reader and a block writer.  Safe for use by many threads."""

    def __init__(  # noqa: PLR0917 - one for each room that it stands on
        self,
        index: Index,
        staging: Staging,
        reader: BlockReader,
        make_writer: MakeWriter,
        chunker: Chunker,
        settings: FileSystemSettings,
        metrics: Metrics,
    ) -> None:
        """`make_writer` makes the block writer, given what to call when a pack is stored."""
        super().__init__(index, staging, reader, chunker, settings, metrics)
        self._start_directories()
        self._start_files()
        self._start_xattrs()
        self._commits = Commits(self, staging.folder)
        self._writer = make_writer(self.record_pack)
        staging.last_response_at = lambda: self._writer.last_response_at_s
        self._storer = Storer(self, self._writer, self._commits)
        self._checkpoints = Checkpoints(self, self._storer, self._writer, self._commits)
        reader.on_lost_block(self.mark_block_lost)
        self._statistics: VolumeStatistics | None = None
        self._statistics_at_s = 0.0

    def start(self) -> int:
        """Takes up staged data, removes files that a crash left without a name, and starts the background work.

        Returns:
            how many files had staged data.

        Raises:
            IndexDatabaseError: index or records of staging cannot be read or written.
            OSError: what is to be put aside cannot be written.
        """
        if self.settings.read_only:
            return 0
        recovered = self.recover_staging()
        with self.lock:
            for number in self.index.namespace.unlinked():
                inode = self.inodes.get(number)
                self.staging.discard(inode)
                self.inodes.mark_for_deletion(inode)
        self.commit()
        self._report_quarantined()
        self._commits.start()
        self._storer.start()
        return recovered

    def recover_staging(self) -> int:
        """Restores what an earlier process has left in staging; `start` does so, and whoever only reads may.

        Returns:
            how many files had staged data.

        Raises:
            IndexDatabaseError: index or records of staging cannot be read.
            OSError: what is to be quarantined cannot be written.
        """
        with self.lock:
            return recover(self.staging, self.inodes)

    def _report_quarantined(self) -> None:
        """Tells which files have lost what was staged of them, in the log and in the figures."""
        if self.staging.records.salvaged:
            _log.error("%s", self.staging.records.salvaged)
            self.metrics.note_error("staging", IndexCorrupt(self.staging.records.salvaged))
        if not self.staging.quarantined:
            return
        with IndexChecker(self.index.path) as checker:
            for number, reason in self.staging.quarantined:
                path = checker.path_of(number).decode(errors="backslashreplace") if number else "an unknown file"
                told = f"a record of staged bytes of {path} is damaged, so it is as it was before them: {reason}"
                _log.error("%s", told)
                self.metrics.note_error("staging", IndexCorrupt(told))

    def close(self) -> None:
        """Stops the background work, after a last commit; what is not stored yet stays staged.

        Raises:
            IndexDatabaseError, OSError: that commit failed; all is closed nevertheless.
        """
        try:
            if not self.settings.read_only:
                self._storer.stop()
                self._commits.stop()
                self.commit()
        finally:
            self._writer.close()
            self.reader.close()
            self.staging.close()
            self.index.close()

    # -- the index, for garbage collection, checks and publishing

    @contextmanager
    def index_transaction(self) -> Iterator[Index]:
        """The index, while no operation of a program uses it; all that is changed within is kept, or nothing.

        It shows every operation that has ended before. What programs see of inodes and names may be in memory, so
        nobody changes those here while they are served.

        Raises:
            IndexDatabaseError: the index failed; what was changed within is undone.
        """
        with self.lock, self.operation():
            yield self.index

    @property
    def index_path(self) -> Path:
        """The index's file, for readers with a connection of their own: they see what is committed."""
        return self.index.path

    def read_index(self) -> IndexReader:
        """A reader of the index as of the last commit; to be closed.

        Raises:
            IndexDatabaseError: it cannot be opened.
        """
        return self.index.reader()

    # -- durability

    def commit(self) -> None:
        """Returns when all that happened before is durable on this machine.

        Raises:
            IndexDatabaseError, OSError: it is not.
        """
        if not self.settings.read_only:
            self._commits.commit()

    def complete_index(self) -> None:
        """Returns when those who read the index's file see all that happened before; errors as `commit`."""
        self.commit()
        with self.lock:
            self.index.ensure_hash_index()

    def fsync(self, handle: int, datasync: bool = False) -> None:
        """What was written to the file is durable on this machine.

        Raises:
            FileSystemError: EIO, the local disk has lost bytes of it; each handle is told once, whenever it happened.
            IndexDatabaseError, OSError: as `commit`, and IndexRowRefused.
        """
        self.commit()
        opened = self._open.get(handle)
        if opened is not None:
            self._check_kept(opened.inode.number)
        self.check_losses(handle)

    def fsyncdir(self, handle: int) -> None:
        """What happened in the directory is durable on this machine; errors as `fsync`."""
        self.commit()
        listing = self._listings.get(handle)
        if listing is not None:
            self._check_kept(listing.directory.number)

    @property
    def refused(self) -> int:
        """How many inodes are not in the index as programs left them, as it does not take their rows."""
        return len(self.inodes.refused) + len(self.rejected_inodes) + len(self.staging.refused)

    def _check_kept(self, number: int) -> None:
        reason = self.inodes.refused.get(number) or self.rejected_inodes.get(number) or self.staging.refused.get(number)
        if reason:
            raise IndexRowRefused(reason)

    def store_all(
        self, timeout_s: float | None = None, *, settled: bool = False, skip_unstorable: bool = False
    ) -> None:
        """Returns when everything written before the call is in the store, and the index says so.

        With `settled`, a file that was truncated and is being rewritten is left alone until it is closed; with
        `skip_unstorable`, files that cannot be stored although others can are left out: `unstorable_files` tells them.

        Raises:
            Cas3fsError, OSError: what kept it from that; nothing is lost, and it goes on being tried.
            TimeoutError: not in that time.
        """
        self._storer.store_all(timeout_s, settled=settled, skip_unstorable=skip_unstorable)
        self.commit()

    def checkpoint(self, copy_to: Path, *, settled: bool = False) -> None:
        """Stores everything, then copies the index to that file: a state the file system had after the call.

        `settled` as in `store_all`; without it, what was written before the call is in the copy, but for files that
        cannot be stored although others can: `unstorable_files` tells them.

        Raises:
            as `store_all`, and IndexDatabaseError where the copy cannot be made.
        """
        self._checkpoints.take(copy_to, settled=settled)

    def record_pack(self, pack: StoredPack) -> None:
        """A pack is in the store: its blocks can be used from now on."""
        with self.lock, self.operation():
            self.index.blocks.add_pack(pack, self.next_ordinal)

    def mark_block_lost(self, block: BlockLocation) -> None:
        """The store has no such block, or not as it should be: who has the same bytes stores them again."""
        if self.read_only:
            return
        try:
            with self.lock, self.operation():
                news = self.index.blocks.mark_lost(block.hash, block.pack)
        except IndexDatabaseError as error:
            _log.error("that block %s is lost could not be noted: %s", block.hash.hex(), error)
            return
        if news:
            _log.error("block %s of pack %s is lost or damaged: a copy written again heals it", *_named(block))

    def mark_pack_lost(self, pack: str) -> None:
        """The store has no such pack: as `mark_block_lost`, of all that lies in it.

        Raises:
            IndexDatabaseError: it could not be noted.
        """
        with self.lock, self.operation():
            count = self.index.blocks.mark_pack_lost(pack)
        if count:
            _log.error("pack %s is lost: copies of its %d blocks that are written again heal them", pack, count)

    def unrecorded_packs(self) -> frozenset[str]:
        """The names of packs that may be in the store already although the index does not know them yet."""
        return self._writer.unrecorded

    def unstorable_files(self) -> list[UnstorableFile]:
        """The files that cannot be stored although others can; each is tried again and again.

        Raises:
            IndexDatabaseError: their paths cannot be read.
        """
        with self.lock:
            refused = self._storer.unstorable()
            sizes = {number: _staged_bytes(self.staging.files[number]) for number in refused}
        if not refused:
            return []
        with IndexChecker(self.index.path) as checker:
            return [
                UnstorableFile(number, checker.path_of(number).decode(errors="backslashreplace"), sizes[number], reason)
                for number, reason in sorted(refused.items())
            ]

    def check_stored(self, handle: int) -> None:
        """Raises FileSystemError where the file of the handle cannot be stored, for who waited for that."""
        with self.lock:
            opened = self._open.get(handle)
            reason = None if opened is None else self._storer.unstorable().get(opened.inode.number)
        if reason is not None:
            raise FileSystemError(errno.EIO, f"the file cannot be stored: {reason}")

    # -- figures

    def pending(self) -> Pending:
        """What is not in the store yet."""
        with self.lock:
            return Pending(len(self.staging.waiting), self.staging.size_bytes)

    def statfs(self) -> VolumeStatistics:
        """Room and use; at most a few seconds old, unless the index cannot be opened once more."""
        now_s = time.monotonic()
        if self._statistics is None or now_s - self._statistics_at_s > _COUNTS_FRESH_S:
            try:
                with self.index.reader() as reader:
                    counts = reader.counts()
            except IndexDatabaseError:  # no descriptor is left, perhaps
                if self._statistics is None:
                    raise
                return self._statistics
            used = -(-counts.logical_bytes // _BLOCK_BYTES)
            files = counts.files + counts.directories + counts.symlinks + counts.others
            self._statistics = VolumeStatistics(
                _BLOCK_BYTES, used + _FREE_BLOCKS, _FREE_BLOCKS, files + _FREE_FILES, _FREE_FILES, NAME_MAX
            )
            self._statistics_at_s = now_s
        return self._statistics

    def statistics(self) -> dict[str, int | float]:
        """Figures of this process, by name."""
        with self.lock:
            own: dict[str, int | float] = {
                "staging.files": len(self.staging.files),
                "staging.size_bytes": self.staging.size_bytes,
                "staging.memory_bytes": self.staging.memory_bytes,
                "staging.open_files": self.staging.layer_files.open_count,
                "staging.lost_files": len(self.staging.failures),
                "staging.refused": len(self.staging.refused),
                "staging.put_aside": len(self.staging.quarantined),
                "inodes.cached": len(self.inodes.cached),
                "inodes.refused": self.refused - len(self.staging.refused),
                "inodes.known_to_kernel": len(self.inodes.lookups),
                "handles.open": len(self._open) + len(self._listings),
            }
        return own | self.metrics.snapshot()


def _named(block: BlockLocation) -> tuple[str, str]:
    return block.hash.hex(), block.pack


def _staged_bytes(inode: Inode) -> int:
    return sum(layer.bytes.size_bytes for layer in inode.layers if not layer.stored)
