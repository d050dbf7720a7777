# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: an image of the index that shows a state the file system really had, while programs go on.

1. Everything dirty is stored, without stopping any operation, and most of what is in the index's log is moved into its
   file.
2. Operations stop for an instant: the group is committed, its state pinned, and the layers of certain files frozen. No
   request goes to the store meanwhile; how long it took is measured.
3. The pinned file of the index is the image (`cas3fs.index.index_file`): nothing is copied, and the index's log takes
   what is committed until the image is closed.

In two cases the image is a copy: a reader of an older state keeps the log from being moved, so the file cannot be
pinned and SQLite's online backup makes the copy; or files were frozen. These are stored then, and their chunks are
entered in the copy.

The certain files are those that were renamed over others and have become dirty since step 1: the index has the name for
them already, and not their content. Programs write to a new file and rename it over the old one so that no reader sees
an empty file; so no snapshot shows one. A file that was truncated and is being rewritten needs no such care: the index
keeps its old content until the new one is stored, and with `settled` step 1 leaves it alone until it is closed.

Where one of these files cannot be stored, all of its content gives an I/O error in the copy. Other files that cannot be
stored are in the image as they were stored last.

A pack that was stored after the instant is unknown to the copy; those of its blocks that the frozen files need are
entered there, with the number and the location that the index has.

Locks, in this order: the mutex of `Checkpoints`, that of the index's file, that of commits, the file system's. None is
held any more when the image is returned.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from cas3fs.blocks.chunkers import Chunker
from cas3fs.blockstore.writer import BlockWriter
from cas3fs.errors import BlockMissing
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.writeback.block_upload import BlockUpload
from cas3fs.filesystem.writeback.commits import Commits
from cas3fs.filesystem.writeback.rechunk import FrozenFile, Rechunker, enter_chunks
from cas3fs.filesystem.writeback.storer import Storer
from cas3fs.filesystem.writeback.unstorable import concerns_one_file
from cas3fs.index import Index, PinnedIndex
from cas3fs.index.files import remove_database
from cas3fs.index.index_file import CopiedFile, IndexFile, PinnedFile
from cas3fs.values import BlockHash, BlockLocation

_ATTEMPTS = 3

Image = PinnedFile | CopiedFile
"""A state of the index, to be read as a file, or to be asked; a context that closes it."""

_log = logging.getLogger(__name__)


class _ChangedMeanwhile(Exception):
    """A file changed before it could be frozen."""


class Checkpoints:
    """Takes checkpoints of one file system, one at a time."""

    def __init__(
        self, state: FileSystemState, writer: BlockWriter, chunker: Chunker, commits: Commits, storer: Storer
    ) -> None:
        self._state = state
        self._writer = writer
        self._chunker = chunker
        self._commits = commits
        self._storer = storer
        self._mutex = threading.Lock()
        self._longest_pause_s = 0.0

    def take(self, scratch: Path, *, settled: bool, in_place: bool = True) -> Image:
        """Takes one; the caller closes the image.

        Args:
            scratch: where a copy may be made, if it is needed.
            settled: leave files alone that are being rewritten.
            in_place: whether the image may be the index itself.

        Raises:
            Cas3fsError, OSError: storing failed, or the copy cannot be made.
        """
        with self._mutex:
            pinned, frozen = self._store_and_pin(settled, in_place)
            if isinstance(pinned, PinnedFile) and not frozen:
                return pinned
            try:
                with pinned:
                    remove_database(scratch)
                    pinned.copy_to(scratch)
                if frozen:
                    self._add_frozen_files(scratch, frozen)
                return CopiedFile(scratch)
            except BaseException:
                remove_database(scratch)
                raise
            finally:
                with self._state.lock:
                    self._release_all(frozen)

    def _store_and_pin(self, settled: bool, in_place: bool) -> tuple[PinnedFile | PinnedIndex, list[FrozenFile]]:
        """Steps 1 and 2, again until nothing changes between pinning and freezing."""
        file = self._state.index.file if in_place else None
        taken: list[tuple[PinnedFile | PinnedIndex, list[FrozenFile]]] = []
        while True:
            self._storer.store_all(settled=settled, skip_unstorable=True)
            with nullcontext() if file is None else file.mutex:
                if file is not None:
                    self._commits.commit()
                    file.move_most(self._state.lock)
                try:
                    with suppress(_ChangedMeanwhile):
                        self._commits.commit_and(lambda: taken.append(self._pin(file)))
                        return taken[0]
                except BaseException:  # the commit may fail after the instant, too
                    for pinned, frozen in taken:
                        pinned.close()
                        with self._state.lock:
                            self._release_all(frozen)
                    raise

    def _release_all(self, frozen: Sequence[FrozenFile]) -> None:
        """Needs the lock."""
        for file in frozen:
            file.release(self._state.staging)

    def _pin(self, file: IndexFile | None) -> tuple[PinnedFile | PinnedIndex, list[FrozenFile]]:
        """Step 2; the lock is held, and the group was just committed."""
        begun_s = time.monotonic()
        state = self._state
        pinned = (None if file is None else file.pin()) or state.index.pin()
        try:
            frozen = self._freeze_replacing_files()
        except BaseException:
            pinned.close()
            raise
        pause_s = time.monotonic() - begun_s + self._commits.last_pause_s
        self._longest_pause_s = max(self._longest_pause_s, pause_s)
        state.metrics.gauge("checkpoint.last_pause_s").set(pause_s)
        state.metrics.gauge("checkpoint.longest_pause_s").set(self._longest_pause_s)
        state.metrics.gauge("checkpoint.pinned_files").set(len(frozen))
        state.metrics.counter("checkpoint.in_place").add(isinstance(pinned, PinnedFile) and not frozen)
        state.metrics.counter("checkpoint.taken").add(1)
        return pinned, frozen

    def _freeze_replacing_files(self) -> list[FrozenFile]:
        """Freezes the certain files, those first that have no write under way: waiting for one releases the lock.

        Raises:
            _ChangedMeanwhile: during such a wait one was stored or removed, which the pinned state does not show.
        """
        staging = self._state.staging
        certain = [(inode, inode.stored_seq) for inode in staging.unstored.values() if inode.replaced_another]
        certain.sort(key=lambda one: one[0].layers[-1].writers)
        frozen: list[FrozenFile] = []
        try:
            for inode, stored_seq in certain:
                layers = staging.freeze(inode)
                if not layers or layers[-1].stored or inode.stored_seq != stored_seq:
                    raise _ChangedMeanwhile
                frozen.append(FrozenFile(inode, layers))
        except BaseException:
            self._release_all(frozen)
            raise
        return frozen

    # -- the frozen files

    def _add_frozen_files(self, copy: Path, frozen: Sequence[FrozenFile]) -> None:
        """Step 3: stores what was frozen, and enters it in the copy.

        A block that gc deletes between its storing and its lookup is stored once more.
        """
        for attempt in range(_ATTEMPTS):
            unreadable = self._upload(frozen)
            whole = [file for file in frozen if file not in unreadable]
            hashes = [new.hash for file in whole for new in file.chunks]
            blocks = self._locate(hashes)
            if all(block_hash in blocks for block_hash in hashes):
                self._enter_in_copy(copy, whole, unreadable, blocks)
                return
            self._state.metrics.counter("checkpoint.repeated").add(attempt + 1)
        raise BlockMissing(
            "blocks of files that are being replaced were freed again and again; the next try may succeed"
        )

    def _upload(self, frozen: Sequence[FrozenFile]) -> set[FrozenFile]:
        """Stores what was frozen.

        Returns:
            the files that cannot be stored.

        Raises:
            Cas3fsError: the store or the index failed, so none can be stored.
        """
        state = self._state
        unreadable: dict[FrozenFile, BaseException] = {}
        with self._writer.session() as session:
            upload = BlockUpload(state, self._writer, session)
            for file in frozen:
                try:
                    # only what the layers have: beside it the index may be newer than the copy by now
                    rechunker = Rechunker(state, file, self._chunker, upload.emit, exact=True)
                    file.replacements = list(rechunker.replacements())
                    file.verify()
                except Exception as error:
                    if not concerns_one_file(error):
                        raise
                    unreadable[file] = error
        failures = upload.wait()
        for file in frozen:
            for new in file.chunks if file not in unreadable else ():
                if (failure := failures.get(new.hash)) is not None:
                    if not concerns_one_file(failure):
                        raise failure
                    unreadable[file] = failure
        for file, why in unreadable.items():
            _log.error("inode %d replaces a file and gives I/O errors in this snapshot: %s", file.inode.number, why)
        return set(unreadable)

    def _locate(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, tuple[int, BlockLocation, int]]:
        """The numbers of those of these blocks that the index has, where they lie, and the sizes of their packs."""
        with self._state.lock:
            blocks = self._state.index.blocks
            ids, places = blocks.find(hashes), blocks.locate(hashes)
            return {one: (ids[one], place, blocks.pack_size(place.pack)) for one, place in places.items()}

    def _enter_in_copy(
        self,
        copy: Path,
        frozen: Sequence[FrozenFile],
        unreadable: Iterable[FrozenFile],
        blocks: Mapping[BlockHash, tuple[int, BlockLocation, int]],
    ) -> None:
        """Enters frozen files in the copy. Blocks have the numbers there that they have in the index: what the copy
        lacks was entered in the index since, and no number is used twice."""
        ids = {block_hash: number for block_hash, (number, _, _) in blocks.items()}
        with Index.open(copy, scratch=True) as index:
            with index.operation():
                for number, place, pack_size in blocks.values():
                    index.blocks.enter(number, place, pack_size, self._state.next_ordinal)
                for file in frozen:
                    enter_chunks(index, file, ids)
                    index.chunks.stored(file.inode.number, file.size, file.mtime_ns, file.ctime_ns, file.seq)
                for file in unreadable:
                    index.chunks.truncate(file.inode.number, 0)
                    if file.size:
                        index.repairs().add_lost_range(file.inode.number, 0, file.size)
                    index.chunks.stored(file.inode.number, file.size, file.mtime_ns, file.ctime_ns, file.seq)
            index.commit()
