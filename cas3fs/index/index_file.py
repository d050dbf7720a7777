# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of an open index: when the log's pages move into it, and how a snapshot reads it where it lies.

SQLite writes each commit to the write-ahead log; a *checkpoint of SQLite*, here called a *move*, copies the newest
version of each page from the log into the database file. Usually SQLite decides when. While an `IndexFile` is open it
decides, and nobody else: the writer's connection never moves anything by itself.

Two kinds of moves:

- Without the caller's lock (`move_most`): while operations go on, all pages that were in the log at one
  instant are copied and synced.
- Under the caller's lock (`pin`), right after a commit: the few pages that are left. Now the file holds exactly the
  state of that commit, and the log holds nothing that the file lacks. From here until the pin is closed nothing moves,
  so the file does not change: it *is* the state of that commit, and new commits go to the log.

Why this is right
    - A move syncs the log before it copies, and the file after it, before the log may be used from its start again;
      that is SQLite's own code. After a crash, at whatever step, the log and the file together hold all commits.
    - Before 3.51.3 SQLite could corrupt a database if a commit used the log from its start again during a move of
      another connection. During a move without the lock, a reader (the *guard*) holds a version of the log, so no
      commit can do that. The guard begins to read under the lock, and only if the log holds what the file lacks:
      otherwise it would hold nothing.
    - While a pin is open, a reader (`PinnedFile.ask`) is in a transaction that began when the log was empty. SQLite
      then allows no connection, of whatever process, to write into the file. That is one reason why the file does not
      change. The other is checked: when all was read, SQLite's shared memory must show that nothing has moved since
      (`PinnedFile.check`). If it shows something else, the snapshot is given up.
    - What an older reader still sees stays in the log, so `pin` fails while one is at work; the caller then copies the
      index (`cas3fs.index.index.PinnedIndex`).
    - A log that grows past `MAX_LOG_PAGES` ends the pin: the snapshot is given up, and the log can move.
    - A move that fails because the disk fails is final (`Database.sync`): the system reports lost pages once. A full
      disk is not: everything is as it was, and a later move tries again.
    - If the database, its log or its shared memory are not the files at their paths any more, or the log does not
      carry the numbers that the shared memory has, another process has interfered; that is final, too: what would be
      committed now would be lost. What another process commits is reported.

The file differs from a copy that SQLite makes in two bytes only, which say that there is a log; readers of `PinnedFile`
see the bytes of a database without one.

POSIX drops all of a process's locks on a file when it closes any descriptor of it. The descriptors of the file and of
the shared memory are therefore closed after SQLite's own, with the index.

Locks: the *caller's lock* is the one around the index. `IndexFile.mutex` makes moves and pins one at a time; it is
taken before the caller's lock, and held during a move, so whoever calls `pin` under the caller's lock already has it.
"""

import errno
import functools
import io
import logging
import os
import sqlite3
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

from cas3fs.errors import IndexDatabaseError, IndexFull, PinLost
from cas3fs.index.files import os_fault, remove_database
from cas3fs.index.reader import Counts, IndexReader
from cas3fs.index.running_counts import RunningCounts
from cas3fs.index.sqlite import CHECKPOINT_PAGES, PAGE_SIZE_BYTES, Database

MAX_LOG_PAGES: Final = 65_536
"""256 MiB: with so many pages in the log, no pin stays open."""
_HEADER: Final = struct.Struct("=16xI4x8x4s4s8x")
"""SQLite's header of the shared memory: the last frame of the log, and both salts."""
_MOVED: Final = struct.Struct("=I")
_MOVED_OFFSET: Final = 2 * _HEADER.size
_LOG_HEADER: Final = struct.Struct(">4s8xI4s4s")
_LOG_MAGIC: Final = b"\x37\x7f\x06"
_VERSIONS: Final = slice(18, 20)
_WITHOUT_LOG: Final = b"\1\1"
_COPY_BYTES: Final = 4 << 20
_CANNOT_COPY: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_ATTEMPTS: Final = 100
_PRIMARY_CODE: Final = 0xFF
_ROUNDS: Final = 3

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class LogState(NamedTuple):
    """What SQLite's shared memory says of the log."""

    frames: int
    """Pages in the log."""
    salts: bytes
    """Of the log since it was used from its start."""
    moved: int
    """How many of the frames are in the file."""
    restarts: int
    """How often it was used from its start, by the header that the log has; 0 if it has none yet."""

    @property
    def left(self) -> int:
        """Frames that are to be moved."""
        return self.frames - self.moved

    def follows(self, pinned: "LogState") -> bool:
        """Whether nothing has moved since `pinned`, when everything had."""
        if self.salts == pinned.salts:
            return self.moved == pinned.moved and self.restarts == pinned.restarts
        # a log that was empty was not even begun
        return self.moved == 0 and self.restarts == pinned.restarts + (1 if pinned.frames else 0)


class IndexFile:
    """Moves pages from the log of an open index into its file, and pins the file.

    Args:
        database: the writer's connection, which moves nothing by itself from now on.

    Every method raises `IndexDatabaseError` and its kinds, and nothing else.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.path = database.path
        self.mutex = threading.Lock()
        self._running = RunningCounts(database)
        self._foreign_commits = database.foreign_commits
        self.max_log_pages = MAX_LOG_PAGES
        self._next_move_frames = CHECKPOINT_PAGES
        self._salts = b""
        self._pinned: PinnedFile | None = None
        self._descriptors: list[int] = []
        self._connections: list[Database] = []
        database.move_log_by_itself(0)
        try:
            self._mover = self._connect("mover")
            self._guard = self._connect("read")
            self._file = self._open(self.path, os.O_RDONLY)
            self._shared = self._open(Path(f"{self.path}-shm"), os.O_RDONLY)
            self._log = self._open(Path(f"{self.path}-wal"), os.O_RDONLY)
        except BaseException:
            self.close_connections()
            self.close_descriptors()
            raise

    def _connect(self, mode: str) -> Database:
        made = Database(self.path, mode)  # type: ignore[arg-type]
        self._connections.append(made)
        return made

    def _open(self, path: Path, flags: int) -> int:
        try:
            made = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise os_fault(path, error) from error
        self._descriptors.append(made)
        return made

    def state(self) -> LogState:
        """What the log holds; consistent at any time, and exact under the caller's lock."""
        for _ in range(_ATTEMPTS):
            try:
                raw = os.pread(self._shared, _MOVED_OFFSET + _MOVED.size, 0)
                magic, restarts, *_ = self._log_header()
            except OSError as error:
                raise os_fault(self.path, error) from error
            first, second = raw[: _HEADER.size], raw[_HEADER.size : _MOVED_OFFSET]
            if len(raw) == _MOVED_OFFSET + _MOVED.size and first == second:
                frames, salt, second_salt = _HEADER.unpack(first)
                (moved,) = _MOVED.unpack_from(raw, _MOVED_OFFSET)
                return LogState(frames, salt + second_salt, moved, restarts if magic.startswith(_LOG_MAGIC) else 0)
        raise self._interfered("its shared memory is being changed all the time")

    def _log_header(self) -> tuple[bytes, int, bytes, bytes]:
        """The magic of the log's header, how often the log was used from its start, and its salts."""
        magic, restarts, salt, second_salt = _LOG_HEADER.unpack(
            os.pread(self._log, _LOG_HEADER.size, 0).ljust(_LOG_HEADER.size, b"\0")
        )
        return magic, restarts, salt, second_salt

    # -- moving

    def move_in_time(self, lock: AbstractContextManager[object]) -> None:
        """Moves everything if the log is long, so that it is used from its start again; ends a pin that has kept a log
        for too long. To be called now and then, without the caller's lock, which is `lock`."""
        state = self.state()
        pinned = self._pinned
        if pinned is not None:
            if state.frames > self.max_log_pages:
                pinned.give_up(f"{state.frames:,} pages were written to the log before the snapshot was complete")
            return
        if state.salts != self._salts:  # it is used from its start again
            self._salts, self._next_move_frames = state.salts, CHECKPOINT_PAGES
        if state.frames < self._next_move_frames or not state.left:
            return
        with self.mutex:
            self.move_most(lock)
            with lock:
                if self._pinned is None and self.state().left <= CHECKPOINT_PAGES:
                    self._move()
                state = self.state()
        # a reader of an older state may have prevented it: it is tried again when there is as much again
        self._next_move_frames = CHECKPOINT_PAGES + (state.frames if state.left else 0)

    def move_most(self, lock: AbstractContextManager[object]) -> None:
        """Moves all but what is committed meanwhile. Needs the mutex, and not the caller's lock, which is `lock`: it is
        held for an instant at a time."""
        for _ in range(_ROUNDS):
            with lock:
                if self._pinned is not None or self.state().left == 0:
                    return
                self._guard.pin()
            try:
                self._move()
            finally:
                self._guard.unpin()

    def _move(self) -> bool:
        """Moves what can be moved; returns whether that is everything."""
        try:
            is_busy, frames, moved = self._mover.move_log()
        except IndexFull:
            raise
        except IndexDatabaseError as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) & _PRIMARY_CODE != sqlite3.SQLITE_IOERR:
                raise
            raise self._database.sync_failed(str(error)) from error
        return not is_busy and frames == moved

    # -- pinning

    def pin(self) -> "PinnedFile | None":
        """Moves what is left, and pins the file; None if a reader of an older state prevents it.

        Needs the mutex and the caller's lock, and nothing uncommitted.
        """
        self._check_files()
        totals = self._running.totals()
        reader = IndexReader(self.path)
        try:
            if not self._move():
                reader.close()
                return None
            reader.pin()
            state = self.state()
            size = os.fstat(self._file).st_size
            if state.left or size != (pages := reader.page_count()) * PAGE_SIZE_BYTES:
                raise self._interfered(f"it has {size:,} bytes instead of {pages:,} pages")
        except BaseException:
            reader.close()
            raise
        self._pinned = PinnedFile(
            self, self._file, size, reader, state, functools.partial(self._running.counts, totals)
        )
        return self._pinned

    def _check_files(self) -> None:
        """Raises a final error if another process has replaced or removed a file, or has put another log there."""
        try:
            for descriptor, suffix in zip(self._descriptors, ("", "-shm", "-wal"), strict=True):
                if not os.path.samestat(os.fstat(descriptor), Path(f"{self.path}{suffix}").stat()):
                    raise self._interfered(f"its file {self.path.name}{suffix} was replaced")
            state = self.state()
            magic, _, *salts = self._log_header()
        except FileNotFoundError as error:
            raise self._interfered(f"its file {error.filename} was removed") from error
        except OSError as error:
            raise os_fault(self.path, error) from error
        self._report_foreign_commits()
        if state.frames and not (magic.startswith(_LOG_MAGIC) and b"".join(salts) == state.salts):
            raise self._interfered("its log is another one")

    def _report_foreign_commits(self) -> None:
        version = self._database.foreign_commits
        if version != self._foreign_commits:
            self._foreign_commits = version
            _log.error("another program has changed %s: unmount, and check the volume with `cas3fs fsck`", self.path)

    def _interfered(self, detail: str) -> IndexDatabaseError:
        return self._database.sync_failed(f"another process has changed {self.path}: {detail}")

    def forget(self, pinned: "PinnedFile") -> None:
        """Notes that a pin is closed, so that the log can move again."""
        if self._pinned is pinned:
            self._pinned = None

    def unchanged_since(self, pinned: LogState) -> bool:
        """Whether nothing has moved since."""
        with suppress(FileNotFoundError):
            return self.state().follows(pinned) and os.path.samestat(os.fstat(self._file), self.path.stat())
        return False

    # -- closing

    def close_connections(self) -> None:
        """Comes before the writer's connection is closed."""
        if self._pinned is not None:
            self._pinned.close()
        while self._connections:
            self._connections.pop().close()

    def close_descriptors(self) -> None:
        """Comes after it."""
        while self._descriptors:
            os.close(self._descriptors.pop())


class PinnedFile:
    """The file of an index, which does not change until this is closed.

    Attributes:
        size: in bytes.
        folder: where temporary files may be.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        owner: IndexFile,
        descriptor: int,
        size: int,
        reader: IndexReader,
        state: LogState,
        counts: Callable[[IndexReader], Counts],
    ) -> None:
        self._owner = owner
        self._descriptor = descriptor
        self._state = state
        self._lost = ""
        self._lock = threading.Lock()
        self._closed = False
        self.size = size
        self.folder = owner.path.parent
        self._reader = reader
        self._counts = counts

    def counts(self) -> Counts:
        """What the pinned state holds; the first time it takes as long as counting does.

        Raises:
            PinLost: it was given up.
        """
        return self.ask(self._counts)

    def ask(self, question: Callable[[IndexReader], Answer]) -> Answer:
        """Asks a reader of the pinned state; by any thread, one at a time.

        Raises:
            PinLost: it was given up.
        """
        with self._lock:
            self._refuse_if_lost()
            return question(self._reader)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the buffer with the bytes from `offset` on.

        Raises:
            PinLost: it was given up.
            IndexDatabaseError: the disk failed.
        """
        self._refuse_if_lost()
        _read_into(self._descriptor, buffer, offset, self._owner.path)
        if offset == 0:
            buffer[_VERSIONS] = _WITHOUT_LOG[: len(buffer[_VERSIONS])]

    def copy_to(self, destination: Path) -> None:
        """Writes it to a file that does not exist, which is not synced. The system copies it, by reference where the
        file system can do that."""
        self._refuse_if_lost()
        try:
            with open(destination, "xb", buffering=0) as file:
                try:
                    done = 0
                    while done < self.size:
                        done += self._copy_piece(file.fileno(), done)
                except OSError as error:
                    if error.errno not in _CANNOT_COPY:
                        raise
                    self._copy_by_hand(file)
                os.pwrite(file.fileno(), _WITHOUT_LOG, _VERSIONS.start)
        except OSError as error:
            raise os_fault(destination, error) from error
        self.check()

    def _copy_piece(self, target: int, offset: int) -> int:
        count = os.copy_file_range(self._descriptor, target, self.size - offset, offset, offset)
        if not count:
            raise PinLost(f"{self._owner.path}: it was cut while a snapshot was made of it")
        return count

    def _copy_by_hand(self, file: io.FileIO) -> None:
        buffer = memoryview(bytearray(min(_COPY_BYTES, self.size)))
        file.seek(0)
        for offset in range(0, self.size, _COPY_BYTES):
            piece = buffer[: self.size - offset]
            self.read_into(piece, offset)
            while piece:
                piece = piece[file.write(piece) :]

    def check(self) -> None:
        """Makes sure that all that was read so far is the pinned state.

        Raises:
            PinLost: it is not known, or it is not so.
        """
        self._refuse_if_lost()
        if not self._owner.unchanged_since(self._state):
            raise PinLost(f"{self._owner.path}: another process wrote into it while a snapshot was made of it")

    def _refuse_if_lost(self) -> None:
        if self._closed or self._lost:
            raise PinLost(f"{self._owner.path}: {self._lost or 'the snapshot is closed'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def give_up(self, why: str) -> None:
        """Ends it for a reason that its reader is to be told."""
        self._lost = self._lost or why
        self.close()

    def close(self) -> None:
        """Lets the log move again. A second call does nothing; any thread may call it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._reader.close()
        self._owner.forget(self)


def _read_into(descriptor: int, buffer: memoryview, offset: int, path: Path) -> None:
    try:
        while buffer:
            count = os.preadv(descriptor, [buffer], offset)
            if not count:
                raise PinLost(f"{path}: it was cut while a snapshot was made of it")
            buffer, offset = buffer[count:], offset + count
    except OSError as error:
        raise os_fault(path, error) from error


class CopiedFile:
    """A copy of an index, one file that is deleted when this is closed; used as a `PinnedFile` is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = IndexReader(path)
        self.folder = path.parent
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            self._reader.close()
            raise os_fault(path, error) from error

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """As `PinnedFile.read_into`."""
        _read_into(self._file.fileno(), buffer, offset, self._path)

    def counts(self) -> Counts:
        """As `PinnedFile.counts`."""
        return self._reader.counts()

    def ask(self, question: Callable[[IndexReader], Answer]) -> Answer:
        """As `PinnedFile.ask`."""
        return question(self._reader)

    def check(self) -> None:
        """As `PinnedFile.check`: nobody else writes to the copy."""

    def close(self) -> None:
        """Deletes it."""
        self._reader.close()
        self._file.close()
        remove_database(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
