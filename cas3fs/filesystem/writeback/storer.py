# SPDX-License-Identifier: GPL-3.0-or-later
"""Storing: dirty files become blocks in packs, and chunk rows in the index, in the background.

What is stored when:

- a file that is closed and has been quiet for `settle_s`, together with others, in the order of their numbers, once
  they fill a pack or the first of them has waited for `batch_wait_s`;
- a file that only grows or is overwritten in place, in parts of `part_bytes`, also while it is being written.  Each
  part is a state that the whole file had.  One that was cut short and is being rewritten waits until it settles, so
  that the index goes from the old content to the new in one transaction;
- everything, when staging runs full (`Staging.store_requested`), or when somebody waits in `store_all`.

One job: freeze the files' layers (under the lock); cut, hash, compress and upload (without it); when every pack that
is needed is confirmed, enter the chunks (under the lock, in the open group).  What changed meanwhile is in newer
layers, and stays there.  A job that fails leaves all as it was, and is tried again.  Where one file cannot be stored,
the others are, and who waits goes on without it (module `unstorable`).

A block that the index knows, or that is on its way, is not stored again.  Since what the index knows may go before
the job ends, each block is looked up once more in the transaction that enters the chunk; if one is gone, the file is
stored anew.

Locks: jobs are picked and entered under the file system's lock.  `Inode.busy` keeps a file to one job at a time.
"""

import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import attrgetter

from cas3fs.blocks.chunkers import Chunker
from cas3fs.blockstore.writer import BlockWriter
from cas3fs.errors import Cas3fsError, IndexRowRefused
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layer_files import FileBytes
from cas3fs.filesystem.writeback.block_upload import BlockUpload
from cas3fs.filesystem.writeback.commits import Commits
from cas3fs.filesystem.writeback.rechunk import FrozenFile, Rechunker, enter_chunks
from cas3fs.filesystem.writeback.store_requests import StoreRequest, grows
from cas3fs.filesystem.writeback.unstorable import UnstorableFiles, is_of_one_file
from cas3fs.values import BlockHash

_TICK_S = 0.25
_BREATH_S = 0.02  # between two looks in vain, however hungry staging is
_REST_FACTOR = 30
"""A look in vain at many files has held programs up: so many times as long no other follows."""
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_BATCH_FILES = 4096
_SLICE_FILES = 256
_LOOK_INTERVAL_S = 0.5
_PRESSING_SHARE = 0.25
"""Of the room in staging: so much may gather before storing competes with busy programs for the disk."""
_BUSY_OPERATIONS = 200
"""So many operations within a tick, and storing what has only settled waits: it would slow them down, and be no
sooner done."""

_number = attrgetter("number")
_log = logging.getLogger(__name__)


class Storer:
    """Stores the dirty files of one file system; see the module."""

    def __init__(self, state: FileSystemState, writer: BlockWriter, chunker: Chunker, commits: Commits) -> None:
        self._state = state
        self._writer = writer
        self._chunker = chunker
        self._commits = commits
        self._stop = threading.Event()
        self._requests: list[StoreRequest] = []  # of the callers of `store_all`
        self._looked_at_s = 0.0
        self._rests_until_s = 0.0
        self._changes_seen = 0
        self._more = False  # the last look found more than one job could take
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

    # -- picking

    def _run(self) -> None:
        store_requested = self._state.staging.store_requested
        while not self._stop.is_set():
            batch = self._picked()
            if not batch:
                store_requested.wait(_TICK_S)
                store_requested.clear()
                self._stop.wait(_BREATH_S)
                continue
            self._store(batch)

    def _picked(self) -> list[FrozenFile]:
        try:
            return self._pick()
        except Exception as error:  # noqa: BLE001 - a storer that ended would leave everything unstored
            _log.exception("looking for what is to be stored failed in a way that was not foreseen")
            self._failed([], error)
            return []

    def _pick(self) -> list[FrozenFile]:
        """Takes files for one job, freezes and marks them; none when nothing is due."""
        state = self._state
        with state.lock:
            now_s = time.monotonic()
            if now_s < self._retry_at_s or now_s < self._rests_until_s or not self._is_time(now_s):
                return []
            due = self._due(now_s)
            if not due:
                self._rests_until_s = now_s + _REST_FACTOR * (time.monotonic() - now_s)
            due.sort(key=_number)
            batch = self._first_of(due)
            self._more = len(batch) < len(due)
            for inode in batch:
                inode.busy = True
            return self._frozen(batch)

    def _frozen(self, batch: Sequence[Inode]) -> list[FrozenFile]:
        frozen: list[FrozenFile] = []
        try:
            for inode in batch:
                layers = self._state.staging.freeze(inode)  # may wait, and any of the files may go meanwhile
                if layers and not layers[-1].stored:
                    frozen.append(FrozenFile(inode, layers))
                else:
                    inode.busy = False
        except BaseException:
            for file in frozen:
                self._release(file)
            for inode in batch:
                inode.busy = False
            raise
        return frozen

    def _is_time(self, now_s: float) -> bool:
        """Whether to look for files at all: not while programs are busy, unless it is pressing."""
        staging, settings = self._state.staging, self._state.settings
        pressing = (
            staging.is_full
            or staging.is_short_of_memory
            or staging.size_bytes >= staging.limit_now_bytes * _PRESSING_SHARE
            or bool(self._requests)
            or self._more
            or now_s - self._looked_at_s > settings.batch_wait_s
        )
        if not pressing and now_s - self._looked_at_s < min(settings.settle_s / 2, _LOOK_INTERVAL_S):
            return False
        busy = self._state.access.change_count - self._changes_seen > _BUSY_OPERATIONS
        self._changes_seen = self._state.access.change_count
        self._state.programs_busy = busy
        if pressing or not busy:
            self._looked_at_s = now_s
            return True
        return False

    def _due(self, now_s: float) -> list[Inode]:
        settings, staging = self._state.settings, self._state.staging
        free = [  # `unstored` spelled out: this passes over all that is staged, with the lock held
            inode
            for inode in staging.waiting.values()
            if not inode.busy and (layers := inode.layers) and not layers[-1].stored
        ]
        if any(inode.retry_at_s for inode in free):
            free = [inode for inode in free if inode.retry_at_s <= now_s or inode.touched_s > inode.retry_at_s]
        for request in self._requests:
            if wanted := [inode for inode in free if request.wants(inode)]:
                return wanted
        if staging.is_full:
            return free
        if staging.is_short_of_memory:
            # not those that are being written: what they have so far would be cut where nothing ends
            whole = [inode for inode in free if not inode.writers]
            return whole if _reach(whole, settings.pack_bytes) else []
        # what is in memory is smaller than any part
        large = [inode for inode in free if len(inode.layers) > 1 or isinstance(inode.layers[0].bytes, FileBytes)]
        parts = [inode for inode in large if grows(inode) and inode.unstored_bytes >= settings.part_bytes]
        settled = [inode for inode in free if not inode.writers and now_s - inode.touched_s >= settings.settle_s]
        return parts + [inode for inode in settled if inode not in parts] if self._is_worth(settled, now_s) else parts

    def _is_worth(self, settled: Sequence[Inode], now_s: float) -> bool:
        """Whether the settled files fill a pack, or have waited long enough."""
        settings = self._state.settings
        if not settled:
            return False
        oldest_s = min(inode.touched_s for inode in settled)
        if now_s - oldest_s >= settings.settle_s + settings.batch_wait_s:
            return True
        return _reach(settled, settings.pack_bytes)

    def _first_of(self, due: Sequence[Inode]) -> list[Inode]:
        batch: list[Inode] = []
        size_bytes = 0
        together = [inode for inode in due if not self._unstorable.is_alone(inode.number)]
        # any of those, lest the first are tried again and again before the last
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
                self._enter_all(cut[start : start + _SLICE_FILES])
            if refused:
                self._refuse(refused, by_store=True)
            if cut:
                self._succeeded()
        except (Cas3fsError, OSError) as error:
            self._failed(batch, error)
        except Exception as error:  # noqa: BLE001 - a storer that ended would leave everything unstored
            _log.exception("storing failed in a way that was not foreseen")
            self._failed(batch, error)
        self._state.metrics.counter("storer.jobs").add(1)

    def _upload(self, batch: list[FrozenFile]) -> tuple[list[FrozenFile], list[tuple[FrozenFile, BaseException]]]:
        """Cuts the files; when it returns, the blocks of the first that it gives are in confirmed packs. The others
        could be cut, and a block of theirs not stored.

        Raises:
            StoreError: a pack could not be stored, and no other one could be now.
        """
        cut = []
        with self._writer.session() as session:
            blocks = BlockUpload(self._state, self._writer, session)
            for file in batch:
                plain = file.whole(self._chunker.min_size)
                if plain is not None:
                    blocks.emit_later(file, plain)
                    cut.append(file)
                elif self._cut(file, blocks):
                    cut.append(file)
            blocks.emit_waiting()
        failures = blocks.wait()
        for failure in failures.values():
            if not is_of_one_file(failure):
                raise failure
        refused = {file: error for file in cut if (error := _first(failures, file)) is not None}
        return [file for file in cut if file not in refused], list(refused.items())

    def _cut(self, file: FrozenFile, blocks: BlockUpload) -> bool:
        """Cuts one file; when bytes cannot be read, that is the trouble of this file alone.

        Raises:
            StoreError: the store is away.
        """
        state = self._state
        try:
            try:
                rechunker = Rechunker(state, file, self._chunker, blocks.emit)
                file.replacements = list(rechunker.replacements())
            except Cas3fsError as error:
                if not is_of_one_file(error):
                    raise
                _log.error("inode %d: bytes next to new ones cannot be read: %s", file.inode.number, error)
                rechunker = Rechunker(state, file, self._chunker, blocks.emit, exact=True)
                file.replacements = list(rechunker.replacements())
            file.verify()
        except Exception as error:
            if not is_of_one_file(error):
                raise
            self._refuse([(file, error)], by_store=False)
            return False
        return True

    def _refuse(self, refused: Sequence[tuple[FrozenFile, BaseException]], *, by_store: bool) -> None:
        """These files could not be stored: one by itself is put off, several are stored each alone."""
        with self._state.lock:
            for file, _ in refused:
                self._release(file)
            if not self._unstorable.set_apart([file.inode.number for file, _ in refused]):
                for file, error in refused:
                    file.inode.retry_at_s = time.monotonic() + _LONGEST_RETRY_S
                    self._unstorable.add(file.inode.number, error, alone=by_store and len(refused) == 1)
                    _log.error(
                        "inode %d cannot be stored, next try in %.0f s: %s: %s",
                        file.inode.number,
                        _LONGEST_RETRY_S,
                        type(error).__name__,
                        error,
                    )
            self._finished.notify_all()

    def _enter_all(self, files: list[FrozenFile]) -> None:
        """Enters files; those of which the index refuses a row are put off, and all others entered."""
        try:
            self._enter_chunks(files)
        except IndexRowRefused as error:
            if error.group_lost:
                raise
            if len(files) == 1:
                self._refuse([(files[0], error)], by_store=False)
                return
            middle = len(files) // 2
            self._enter_all(files[:middle])
            self._enter_all(files[middle:])

    def _enter_chunks(self, files: list[FrozenFile]) -> None:
        """Enters what was stored in the index, in one operation."""
        state = self._state
        with state.lock:
            there = [file for file in files if not file.unstored[-1].dropped and not file.unstored[-1].stored]
            ids = state.index.blocks.find([new.hash for file in there for new in file.chunks])
            # a block that was known may have gone meanwhile: such a file stays dirty, and is stored anew
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
            for file in whole:
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
        if is_full:  # layers with rows go with the next commit
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
        """The job lets its file go, once: after that another job may hold it.  Needs the lock."""
        if file.release(self._state.staging):
            file.inode.busy = False

    # -- on request

    def store_all(
        self, timeout_s: float | None = None, *, settled: bool = False, skip_unstorable: bool = False
    ) -> None:
        """Returns when everything written before the call is in the store, and entered in the index.

        With `settled`, a file that was cut short and is being rewritten is left alone until it is closed; with
        `skip_unstorable`, files that cannot be stored, although others can, are left out once they were tried:
        `unstorable` gives them.

        Raises:
            Cas3fsError, OSError: what kept it from that; nothing is lost, and it goes on being tried.
        """
        state = self._state
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with state.lock:
            turn = self._unstorable.turn
            request = StoreRequest(
                state.staging.waiting,
                settled=settled,
                is_unstorable=lambda number: self._unstorable.after(number, turn),
            )
            self._retry_s = self._retry_at_s = 0.0  # who waits learns of an outage from the next few attempts
            for number in request:
                state.staging.files[number].retry_at_s = 0.0
            state.staging.store_requested.set()
            self._requests.append(request)
            try:
                self._await(request, deadline_s)
            finally:
                self._requests.remove(request)
            error = self._unstorable.first_after(turn)
        if error is not None and not skip_unstorable:
            raise error

    def unstorable(self) -> dict[int, str]:
        """By inode, why it cannot be stored.  Needs the lock."""
        return {number: _named(refusal.error) for number, refusal in self._unstorable.current().items()}

    def _await(self, request: StoreRequest, deadline_s: float | None) -> None:
        """Waits until all of `request` is in the index.  Needs the lock."""
        failures = self._failures
        while True:
            request.narrow(self._state.staging.files)
            if not request:
                return
            if self._failures >= failures + len(self._threads) and self._failure is not None:
                raise self._failure
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(request)} files are not in the store yet")
            self._finished.wait(_TICK_S)


def _first(failures: Mapping[BlockHash, BaseException], file: FrozenFile) -> BaseException | None:
    """What a block of the file met, if any did."""
    return next((failures[new.hash] for new in file.chunks if new.hash in failures), None) if failures else None


def _named(error: BaseException) -> str:
    """An error for people; one that is not of this project's or the system's tells its kind."""
    return str(error) if isinstance(error, Cas3fsError | OSError) else f"{type(error).__name__}: {error}"


def _reach(inodes: Sequence[Inode], size_bytes: int) -> bool:
    """Whether so much is dirty in them; counts no further than that."""
    return any(total >= size_bytes for total in accumulate(inode.unstored_bytes for inode in inodes))
