# SPDX-License-Identifier: GPL-3.0-or-later
"""Storing: dirty files become blocks in packs, and chunk rows in the index, in the background.

What is stored when:

- a file that is closed and has been quiet for `settle_s`, together with others, in the order of their numbers, once
  they fill a pack or the first of them has waited for `batch_wait_s`;
- a file that only grows or is overwritten in place, in parts of `part_bytes`, also while it is being written.  Each
  part is a state that the whole file had.  One that was cut short and is being rewritten waits until it settles, so
  that the index goes from the old content to the new in one transaction;
- everything, when staging runs full (`Staging.hungry`), or when somebody waits in `store_all`.

One job: freeze the files' layers (under the lock); cut, hash, compress and upload (without it); when every pack that
is needed is confirmed, enter the chunks (under the lock, in the open group).  What changed meanwhile is in newer
layers, and stays there.  A job that fails leaves all as it was, and is tried again.

A block that the index knows, or that is on its way, is not stored again.  Since what the index knows may go before
the job ends, each block is looked up once more in the transaction that enters the chunk; if one is gone, the file is
stored anew.

Locks: jobs are picked and entered under the file system's lock.  `Inode.busy` keeps a file to one job at a time.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from cas3fs.blocks.codec import hash_block
from cas3fs.blockstore.writer import BlockWriter, PackSession
from cas3fs.errors import Cas3fsError
from cas3fs.filesystem.base import Base
from cas3fs.filesystem.commits import Commits
from cas3fs.filesystem.cutting import Cutter, FrozenFile
from cas3fs.filesystem.inodes import Inode
from cas3fs.values import BlockHash

_TICK_S = 0.25
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_BATCH_FILES = 4096

_log = logging.getLogger(__name__)


class Storer:
    """Stores the dirty files of one file system; see the module."""

    def __init__(self, base: Base, writer: BlockWriter, commits: Commits) -> None:
        self._base = base
        self._writer = writer
        self._commits = commits
        self._stopping = False
        self._all_before_s = 0.0  # whatever was touched before this instant is wanted in the store now
        self._waiting_since_s: float | None = None
        self._retry_s = 0.0
        self._retry_at_s = 0.0
        self._finished = threading.Condition(base.lock)
        self._failure: BaseException | None = None
        self._failures = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"storer-{n}", daemon=True) for n in range(base.settings.storers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads, when their jobs are done or have failed."""
        self._stopping = True
        self._base.staging.hungry.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    # -- picking

    def _run(self) -> None:
        hungry = self._base.staging.hungry
        while not self._stopping:
            batch = self._pick()
            if not batch:
                hungry.wait(_TICK_S)
                hungry.clear()
                continue
            self._store(batch)

    def _pick(self) -> list[FrozenFile]:
        """Takes files for one job, freezes and marks them; none when nothing is due."""
        base = self._base
        with base.lock:
            now_s = time.monotonic()
            if now_s < self._retry_at_s:
                return []
            due = self._due(now_s)
            due.sort(key=lambda inode: inode.number)
            batch = self._first_of(due)
            for inode in batch:
                inode.busy = True
            return list(self._frozen(batch))

    def _frozen(self, batch: Sequence[Inode]) -> Iterator[FrozenFile]:
        for inode in batch:
            layers = self._base.staging.freeze(inode)  # may wait, and the file may go meanwhile
            if layers:
                yield FrozenFile(inode, layers)
            else:
                inode.busy = False

    def _due(self, now_s: float) -> list[Inode]:
        settings, staging = self._base.settings, self._base.staging
        free = [inode for inode in staging.files.values() if not inode.busy and inode.unstored]
        wanted = [inode for inode in free if inode.touched_s <= self._all_before_s]
        if wanted:
            return wanted
        if staging.is_full:
            return free
        if staging.memory_bytes > staging.memory_limit_bytes // 2:
            return [inode for inode in free if not inode.writers or _grows(inode)]
        parts = [inode for inode in free if _grows(inode) and _dirty_bytes(inode) >= settings.part_bytes]
        settled = [inode for inode in free if not inode.writers and now_s - inode.touched_s >= settings.settle_s]
        return parts + [inode for inode in settled if inode not in parts] if self._is_worth(settled, now_s) else parts

    def _is_worth(self, settled: Sequence[Inode], now_s: float) -> bool:
        """Whether the settled files fill a pack, or have waited long enough."""
        settings = self._base.settings
        if not settled:
            return False
        oldest_s = min(inode.touched_s for inode in settled)
        if now_s - oldest_s >= settings.settle_s + settings.batch_wait_s:
            return True
        return sum(map(_dirty_bytes, settled)) >= settings.pack_bytes

    def _first_of(self, due: Sequence[Inode]) -> list[Inode]:
        batch: list[Inode] = []
        size_bytes = 0
        for inode in due[:_BATCH_FILES]:
            batch.append(inode)
            size_bytes += _dirty_bytes(inode)
            if size_bytes >= self._base.settings.batch_bytes:
                break
        return batch

    # -- one job

    def _store(self, batch: list[FrozenFile]) -> None:
        try:
            self._upload(batch)
            self._enter(batch)
        except (Cas3fsError, OSError, EOFError) as error:
            self._failed(batch, error)
        except Exception as error:  # noqa: BLE001 - a storer that ended would leave everything unstored
            _log.exception("storing failed in a way that was not foreseen")
            self._failed(batch, error)
        self._base.metrics.counter("storer.jobs").add(1)

    def _upload(self, batch: list[FrozenFile]) -> None:
        """Cuts the files; when it returns, all their blocks are in confirmed packs.

        Raises:
            BlockError, StoreError, OSError, EOFError: some byte cannot be read or some pack not stored.
        """
        with self._writer.session() as session:
            blocks = _Blocks(self._base, self._writer, session)
            for file in batch:
                cutter = Cutter(self._base, file, self._base.chunker, blocks.emit)
                file.replacements = list(cutter.replacements())
        blocks.wait()

    def _enter(self, batch: list[FrozenFile]) -> None:
        """Enters what was stored in the index."""
        base = self._base
        with base.lock:
            for file in batch:
                self._enter_file(file)
            self._retry_s = self._retry_at_s = 0.0
            self._failure = None
            self._finished.notify_all()
            is_full = base.staging.is_full
        if is_full:  # layers with rows go with the next commit
            self._commits.commit()

    def _enter_file(self, file: FrozenFile) -> None:
        base, inode = self._base, file.inode
        inode.busy = False
        if file.unstored[-1].dropped or file.unstored[-1].stored:
            return  # removed meanwhile
        ids = base.index.blocks.find([chunk.hash for part in file.replacements for chunk in part.chunks])
        if any(chunk.hash not in ids for part in file.replacements for chunk in part.chunks):
            return  # a block that was known went meanwhile: the file stays dirty, and is stored anew
        with base.operation():
            base.index.chunks.truncate(inode.number, min(file.floor, file.size))
            for part in file.replacements:
                rows = [(chunk.offset, chunk.length, ids[chunk.hash], 0) for chunk in part.chunks]
                base.index.chunks.replace(inode.number, part.start, part.end, rows)
            base.index.chunks.stored(inode.number, file.size, file.mtime_ns, file.ctime_ns, file.seq)
        inode.stored_seq = file.seq
        base.staging.stored(inode, file.unstored)

    def _failed(self, batch: list[FrozenFile], error: BaseException) -> None:
        base = self._base
        with base.lock:
            for file in batch:
                file.inode.busy = False
            self._retry_s = min(max(2 * self._retry_s, _FIRST_RETRY_S), _LONGEST_RETRY_S)
            self._retry_at_s = time.monotonic() + self._retry_s
            self._failure = error
            self._failures += 1
            self._finished.notify_all()
        _log.error("storing %d files failed, next try in %.0f s: %s", len(batch), self._retry_s, error)

    # -- on demand

    def store_all(self, timeout_s: float | None = None) -> None:
        """Returns when everything written before the call is in the store, and entered in the index.

        Raises:
            Cas3fsError, OSError: what kept it from that; nothing is lost, and it goes on being tried.
        """
        base = self._base
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with base.lock:
            wanted = {number: inode.layers[-1].seq for number, inode in base.staging.files.items() if inode.unstored}
            self._all_before_s = time.monotonic()
            self._retry_at_s = 0.0
            failures = self._failures
            base.staging.hungry.set()
            while True:
                wanted = {number: seq for number, seq in wanted.items() if self._is_unstored(number, seq)}
                if not wanted:
                    return
                if self._failures >= failures + len(self._threads) and self._failure is not None:
                    raise self._failure
                if deadline_s is not None and time.monotonic() > deadline_s:
                    raise TimeoutError(f"{len(wanted)} files are not in the store yet")
                # a file may be touched again and again: it is wanted as of now whatever comes
                self._all_before_s = time.monotonic()
                self._finished.wait(_TICK_S)

    def _is_unstored(self, number: int, seq: int) -> bool:
        inode = self._base.staging.files.get(number)
        return inode is not None and any(not layer.stored and layer.seq <= seq for layer in inode.layers)


class _Blocks:
    """The blocks that one job needs."""

    def __init__(self, base: Base, writer: BlockWriter, session: PackSession) -> None:
        self._base = base
        self._writer = writer
        self._session = session
        self._futures: list[Future[None]] = []

    def emit(self, blocks: Sequence[memoryview]) -> list[BlockHash]:
        """Sees to it that these blocks get stored."""
        hashes = [hash_block(block) for block in blocks]
        under_way = {block_hash: self._writer.in_flight(block_hash) for block_hash in hashes}
        self._futures += [future for future in under_way.values() if future is not None]
        unknown = [block_hash for block_hash, future in under_way.items() if future is None]
        if not unknown:
            return hashes
        with self._base.lock:
            known = self._base.index.blocks.find(unknown)
        for block_hash, block in dict(zip(hashes, blocks, strict=True)).items():
            if under_way[block_hash] is None and block_hash not in known:
                self._futures.append(self._session.add(block_hash, block))
                self._base.reader.admit(block_hash, block)
        return hashes

    def wait(self) -> None:
        """Returns when all of them are stored and recorded; the session must be sealed.

        Raises:
            StoreError: one could not be stored.
        """
        failure: BaseException | None = None
        for future in self._futures:
            failure = future.exception() or failure
        if failure is not None:
            raise failure


def _dirty_bytes(inode: Inode) -> int:
    return sum(layer.bytes.size_bytes for layer in inode.layers if not layer.stored)


def _grows(inode: Inode) -> bool:
    """Whether no unstored layer has cut off bytes that the file had."""
    return all(layer.floor >= layer.base for layer in inode.layers if not layer.stored)
