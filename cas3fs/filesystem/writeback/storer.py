# SPDX-License-Identifier: GPL-3.0-or-later
"""Storing: dirty files become blocks in packs, and chunk rows in the index, in the background.

What is stored when:

- a file that is closed and has been unchanged for `settle_s`, together with others, in the order of their numbers, once
  they fill a pack or the first of them has waited for `batch_wait_s`;
- a file that only grows or is overwritten in place, in parts of `part_bytes`, also while it is being written. Each part
  is a state that the whole file had. A file that was cut short and is being rewritten waits until it settles, so that
  the index goes from the old content to the new in one transaction;
- everything, when staging is nearly full (`Staging.store_requested`), or when a caller waits in `store_all`.

One job: freeze the files' layers (under the lock); cut, hash, compress and upload (without it); when every pack that is
needed is confirmed, enter the chunks (under the lock, in the open group). What changed meanwhile is in newer layers,
and stays there. A job that fails leaves all as it was, and is tried again. Where one file cannot be stored, the others
are, and callers go on without it (module `unstorable`).

A block that the index has, or that is being uploaded, is not stored again. gc may delete what the index has before the
job ends, so each block is looked up once more in the transaction that enters the chunk; if one is missing, the file is
stored anew.

Locks: jobs are selected and entered under the file system's lock. `Inode.being_stored` keeps a file to one job at a
time.
"""

import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import accumulate
from operator import attrgetter

from cas3fs.blocks.chunkers import Chunker
from cas3fs.blockstore.reader import WaitGuard
from cas3fs.blockstore.writer import BlockWriter
from cas3fs.errors import Cas3fsError, IndexRowRefused
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layer_files import FileBytes
from cas3fs.filesystem.writeback.block_upload import BlockUpload
from cas3fs.filesystem.writeback.commits import Commits
from cas3fs.filesystem.writeback.pending_files import PendingFiles, grows
from cas3fs.filesystem.writeback.rechunk import FrozenFile, Rechunker, enter_chunks
from cas3fs.filesystem.writeback.unstorable import UnstorableFiles, concerns_one_file
from cas3fs.index import Index
from cas3fs.values import BlockHash

_TICK_S = 0.25
_MIN_PAUSE_S = 0.02  # between two checks that found nothing, even where storing is urgent
_IDLE_FACTOR = 30
"""A check of many files holds programs up: after one that found nothing, this many times its duration pass."""
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_BATCH_FILES = 4096
_SLICE_FILES = 256
_CHECK_INTERVAL_S = 0.5
_URGENT_SHARE = 0.25
"""Share of the space in staging that may be used before storing competes with busy programs for the disk."""
_BUSY_OPERATIONS = 200
"""With so many operations in a tick, storing what has only settled waits: it would slow programs down, and would not be
done sooner."""

_number = attrgetter("number")
_log = logging.getLogger(__name__)


class Storer:
    """Stores the dirty files of one file system, in background threads."""

    def __init__(self, state: FileSystemState, writer: BlockWriter, chunker: Chunker, commits: Commits) -> None:
        self._state = state
        self._writer = writer
        self._chunker = chunker
        self._commits = commits
        self._stop = threading.Event()
        self._requests: list[PendingFiles] = []  # of the callers of `store_all`
        self._checked_at_s = 0.0
        self._idle_until_s = 0.0
        self._changes_seen = 0
        self._has_more = False  # the last check found more than one job could take
        self._retry_s = 0.0
        self._retry_at_s = 0.0
        self._finished = threading.Condition(state.lock)
        self._failure: BaseException | None = None
        self._failures = 0
        self._unstorable = UnstorableFiles(state.staging.files)
        self._threads = [
            threading.Thread(target=self._run, name=f"storer-{n}", daemon=True) for n in range(state.settings.storers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads, when their jobs are done or have failed."""
        self._stop.set()
        self._state.staging.store_requested.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    # -- selecting

    def _run(self) -> None:
        store_requested = self._state.staging.store_requested
        while not self._stop.is_set():
            batch = self._try_select()
            if not batch:
                store_requested.wait(_TICK_S)
                store_requested.clear()
                self._stop.wait(_MIN_PAUSE_S)
                continue
            self._store(batch)

    def _try_select(self) -> list[FrozenFile]:
        try:
            return self._select()
        except Exception as error:  # noqa: BLE001 - a thread that ended would leave everything unstored
            _log.exception("looking for files to store failed unexpectedly; this is a bug")
            self._failed([], error)
            return []

    def _select(self) -> list[FrozenFile]:
        """Selects the files of one job, and freezes and marks them; none when nothing is due."""
        state = self._state
        with state.lock:
            now_s = time.monotonic()
            if now_s < self._retry_at_s or now_s < self._idle_until_s or not self._is_due(now_s):
                return []
            due = self._due_files(now_s)
            if not due:
                self._idle_until_s = now_s + _IDLE_FACTOR * (time.monotonic() - now_s)
            due.sort(key=_number)
            batch = self._first_batch(due)
            self._has_more = len(batch) < len(due)
            for inode in batch:
                inode.being_stored = True
            return self._freeze(batch)

    def _freeze(self, batch: Sequence[Inode]) -> list[FrozenFile]:
        frozen: list[FrozenFile] = []
        try:
            for inode in batch:
                layers = self._state.staging.freeze(inode)  # may wait, and any of the files may be removed meanwhile
                if layers and not layers[-1].stored:
                    frozen.append(FrozenFile(inode, layers))
                else:
                    inode.being_stored = False
        except BaseException:
            for file in frozen:
                self._release(file)
            for inode in batch:
                inode.being_stored = False
            raise
        return frozen

    def _is_due(self, now_s: float) -> bool:
        """Whether to look for files at all: not while programs are busy, unless storing is urgent."""
        staging, settings = self._state.staging, self._state.settings
        urgent = (
            staging.is_full
            or staging.is_short_of_memory
            or staging.size_bytes >= staging.limit_now_bytes * _URGENT_SHARE
            or bool(self._requests)
            or self._has_more
            or now_s - self._checked_at_s > settings.batch_wait_s
        )
        if not urgent and now_s - self._checked_at_s < min(settings.settle_s / 2, _CHECK_INTERVAL_S):
            return False
        busy = self._state.access.change_count - self._changes_seen > _BUSY_OPERATIONS
        self._changes_seen = self._state.access.change_count
        self._state.programs_busy = busy
        if urgent or not busy:
            self._checked_at_s = now_s
            return True
        return False

    def _due_files(self, now_s: float) -> list[Inode]:
        settings, staging = self._state.settings, self._state.staging
        free = [  # `Inode.is_unstored` spelled out: this passes over all that is staged, with the lock held
            inode
            for inode in staging.unstored.values()
            if not inode.being_stored and (layers := inode.layers) and not layers[-1].stored
        ]
        if any(inode.retry_at_s for inode in free):
            free = [inode for inode in free if inode.retry_at_s <= now_s or inode.changed_at_s > inode.retry_at_s]
        for request in self._requests:
            if wanted := [inode for inode in free if request.wants(inode)]:
                return wanted
        if staging.is_full:
            return free
        if staging.is_short_of_memory:
            # not those that are being written: what they have so far would be cut at an arbitrary place
            whole = [inode for inode in free if not inode.writers]
            return whole if _hold_at_least(whole, settings.pack_bytes) else []
        # what is in memory is smaller than any part
        large = [inode for inode in free if len(inode.layers) > 1 or isinstance(inode.layers[0].bytes, FileBytes)]
        parts = [inode for inode in large if grows(inode) and inode.unstored_bytes >= settings.part_bytes]
        settled = [inode for inode in free if not inode.writers and now_s - inode.changed_at_s >= settings.settle_s]
        return (
            parts + [inode for inode in settled if inode not in parts] if self._fills_a_batch(settled, now_s) else parts
        )

    def _fills_a_batch(self, settled: Sequence[Inode], now_s: float) -> bool:
        """Whether the settled files fill a pack, or have waited long enough."""
        settings = self._state.settings
        if not settled:
            return False
        oldest_s = min(inode.changed_at_s for inode in settled)
        if now_s - oldest_s >= settings.settle_s + settings.batch_wait_s:
            return True
        return _hold_at_least(settled, settings.pack_bytes)

    def _first_batch(self, due: Sequence[Inode]) -> list[Inode]:
        batch: list[Inode] = []
        size_bytes = 0
        together = [inode for inode in due if not self._unstorable.is_isolated(inode.number)]
        # any of those: else the first would be tried again and again before the last
        for inode in (together or [random.choice(due)] if due else ())[:_BATCH_FILES]:
            batch.append(inode)
            size_bytes += inode.unstored_bytes
            if size_bytes >= self._state.settings.batch_bytes:
                break
        return batch

    # -- one job

    def _store(self, batch: list[FrozenFile]) -> None:
        try:
            cut, refused = self._upload(batch)
            for start in range(0, len(cut), _SLICE_FILES):
                self._enter_or_split(cut[start : start + _SLICE_FILES])
            if refused:
                self._set_unstorable(refused, by_store=True)
            if cut:
                self._succeeded()
        except (Cas3fsError, OSError) as error:
            self._failed(batch, error)
        except Exception as error:  # noqa: BLE001 - a thread that ended would leave everything unstored
            _log.exception("storing failed unexpectedly; this is a bug")
            self._failed(batch, error)
        self._state.metrics.counter("storer.jobs").add(1)

    def _upload(self, batch: list[FrozenFile]) -> tuple[list[FrozenFile], list[tuple[FrozenFile, BaseException]]]:
        """Cuts the files and uploads their blocks.

        Returns:
            the files whose blocks are in confirmed packs now, and those of which a block could not be stored, with the
            error.

        Raises:
            StoreError: a pack could not be stored, nor could any other now.
        """
        cut = []
        with self._writer.session() as session:
            upload = BlockUpload(self._state, self._writer, session)
            for file in batch:
                plain = file.content_in_memory(self._chunker.min_size)
                if plain is not None:
                    upload.emit_later(file, plain)
                    cut.append(file)
                elif self._rechunk(file, upload):
                    cut.append(file)
            upload.emit_waiting()
        failures = upload.wait()
        for failure in failures.values():
            if not concerns_one_file(failure):
                raise failure
        refused = {file: error for file in cut if (error := _failure_of(failures, file)) is not None}
        return [file for file in cut if file not in refused], list(refused.items())

    def _rechunk(self, file: FrozenFile, upload: BlockUpload) -> bool:
        """Cuts one file; bytes that cannot be read make this file alone unstorable.

        Returns:
            whether it could be cut.

        Raises:
            StoreError: the store cannot be reached.
        """
        state = self._state
        try:
            try:
                rechunker = Rechunker(state, file, self._chunker, upload.emit)
                file.replacements = list(rechunker.replacements())
            except Cas3fsError as error:
                if not concerns_one_file(error):
                    raise
                _log.error("inode %d: bytes next to new ones cannot be read: %s", file.inode.number, error)
                rechunker = Rechunker(state, file, self._chunker, upload.emit, exact=True)
                file.replacements = list(rechunker.replacements())
            file.verify()
        except Exception as error:
            if not concerns_one_file(error):
                raise
            self._set_unstorable([(file, error)], by_store=False)
            return False
        return True

    def _set_unstorable(self, refused: Sequence[tuple[FrozenFile, BaseException]], *, by_store: bool) -> None:
        """Puts off a file that could not be stored; has several stored each by itself."""
        with self._state.lock:
            for file, _ in refused:
                self._release(file)
            if not self._unstorable.isolate([file.inode.number for file, _ in refused]):
                for file, error in refused:
                    file.inode.retry_at_s = time.monotonic() + _LONGEST_RETRY_S
                    self._unstorable.add(file.inode.number, error, isolated=by_store and len(refused) == 1)
                    _log.error(
                        "inode %d cannot be stored, next try in %.0f s: %s: %s",
                        file.inode.number,
                        _LONGEST_RETRY_S,
                        type(error).__name__,
                        error,
                    )
            self._finished.notify_all()

    def _enter_or_split(self, files: list[FrozenFile]) -> None:
        """Enters files in the index; those of which it refuses a row are put off, and all others are entered."""
        try:
            self._enter_chunks(files)
        except IndexRowRefused as error:
            if error.group_lost:
                raise
            if len(files) == 1:
                self._set_unstorable([(files[0], error)], by_store=False)
                return
            middle = len(files) // 2
            self._enter_or_split(files[:middle])
            self._enter_or_split(files[middle:])

    def _enter_chunks(self, files: list[FrozenFile]) -> None:
        """Enters what was stored in the index, in one operation."""
        state = self._state
        with state.lock:
            there = [file for file in files if not file.unstored[-1].dropped and not file.unstored[-1].stored]
            ids = state.index.blocks.find([new.hash for file in there for new in file.chunks])
            # gc may have deleted a known block meanwhile: such a file stays dirty, and is stored anew
            whole = [file for file in there if all(new.hash in ids for new in file.chunks)]
            with state.operation():
                for file in whole:
                    if not file.is_new:
                        enter_chunks(state.index, file, ids)
                state.index.chunks.all_stored(
                    ((file.inode.number, file.size, file.mtime_ns, file.ctime_ns, file.seq) for file in whole),
                    (
                        (file.inode.number, (new.offset, new.length, ids[new.hash], 0))
                        for file in whole
                        if file.is_new
                        for new in file.chunks
                    ),
                )
                sizes = [_size_in_chunks(state.index, file) for file in whole]
            for file, size_bytes in zip(whole, sizes, strict=True):
                file.inode.chunk_bytes = size_bytes
                file.inode.stored_seq = file.seq
                state.staging.mark_stored(file.inode, file.unstored)
                self._unstorable.stored(file.inode.number)
            for file in files:
                self._release(file)

    def _succeeded(self) -> None:
        state = self._state
        with state.lock:
            self._retry_s = self._retry_at_s = 0.0
            state.staging.is_storing_failing = False
            self._finished.notify_all()
            is_full = state.staging.is_full
        if is_full:  # layers with rows are dropped by the next commit
            self._commits.commit()

    def _failed(self, batch: list[FrozenFile], error: BaseException) -> None:
        state = self._state
        with state.lock:
            for file in batch:
                self._release(file)
            self._retry_s = min(max(2 * self._retry_s, _FIRST_RETRY_S), _LONGEST_RETRY_S)
            self._retry_at_s = time.monotonic() + self._retry_s
            self._failure = error
            self._failures += 1
            state.staging.is_storing_failing = True
            state.staging.space_available.notify_all()
            self._finished.notify_all()
        state.metrics.note_error("storing", error)
        _log.error("storing %d files failed, next try in %.0f s: %s", len(batch), self._retry_s, error)

    def _release(self, file: FrozenFile) -> None:
        """Ends the job's use of its file, once: after that another job may have it.  Needs the lock."""
        if file.release(self._state.staging):
            file.inode.being_stored = False

    # -- on request

    def store_all(
        self, timeout_s: float | None = None, *, settled: bool = False, skip_unstorable: bool = False
    ) -> None:
        """Returns when everything written before the call is in the store, and entered in the index.

        With `settled`, a file that was cut short and is being rewritten is left alone until it is closed; with
        `skip_unstorable`, files that cannot be stored, although others can, are left out once they were tried:
        `unstorable` gives them.

        Raises:
            Cas3fsError, OSError: it failed; nothing is lost, and storing is tried again.
        """
        with self._state.lock:
            error = self._store_now(self._state.staging.unstored, timeout_s, settled=settled)
        if error is not None and not skip_unstorable:
            raise error

    def store(self, inodes: Iterable[Inode], pause: WaitGuard = nullcontext) -> None:
        """As `store_all`, of these files alone; `pause` makes the context in which it waits, and may end that."""
        with self._state.lock:
            error = self._store_now({inode.number: inode for inode in inodes}, pause=pause)
        if error is not None:
            raise error

    def _store_now(
        self,
        files: Mapping[int, Inode],
        timeout_s: float | None = None,
        *,
        settled: bool = False,
        pause: WaitGuard = nullcontext,
    ) -> BaseException | None:
        """Has what is staged of `files` stored, and waits for it.  Needs the lock.

        Returns:
            why one of them could not be stored; None where all are.
        """
        state = self._state
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        before = self._unstorable.last_ordinal
        request = PendingFiles(
            files,
            settled=settled,
            is_unstorable=lambda number: self._unstorable.failed_after(number, before),
        )
        self._retry_s = self._retry_at_s = 0.0  # so that the caller learns of an outage from the next few attempts
        for number in request:
            state.staging.files[number].retry_at_s = 0.0
        state.staging.store_requested.set()
        self._requests.append(request)
        try:
            self._await(request, deadline_s, pause)
        finally:
            self._requests.remove(request)
        return self._unstorable.first_error_after(before)

    def unstorable(self) -> dict[int, str]:
        """By inode, why it cannot be stored.  Needs the lock."""
        return {number: _describe(failure.error) for number, failure in self._unstorable.current().items()}

    def _await(self, request: PendingFiles, deadline_s: float | None, pause: WaitGuard) -> None:
        """Waits until all of `request` is in the index.  Needs the lock."""
        failures = self._failures
        while True:
            request.remove_done(self._state.staging.files)
            if not request:
                return
            if self._failures >= failures + len(self._threads) and self._failure is not None:
                raise self._failure
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(request)} files are not in the store yet")
            with pause():
                self._finished.wait(_TICK_S)


def _failure_of(failures: Mapping[BlockHash, BaseException], file: FrozenFile) -> BaseException | None:
    """The error of the first block of the file that could not be stored; None without any."""
    return next((failures[new.hash] for new in file.chunks if new.hash in failures), None) if failures else None


def _size_in_chunks(index: Index, file: FrozenFile) -> int:
    """How many bytes the file's chunks hold, once they are entered."""
    return sum(new.length for new in file.chunks) if file.is_new else index.chunks.size_bytes(file.inode.number)


def _describe(error: BaseException) -> str:
    """An error for people, with its type where it is neither of this project nor of the system."""
    return str(error) if isinstance(error, Cas3fsError | OSError) else f"{type(error).__name__}: {error}"


def _hold_at_least(inodes: Sequence[Inode], size_bytes: int) -> bool:
    """Whether their unstored bytes reach `size_bytes`; counts no further than that."""
    return any(total >= size_bytes for total in accumulate(inode.unstored_bytes for inode in inodes))
