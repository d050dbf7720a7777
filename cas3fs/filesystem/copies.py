# SPDX-License-Identifier: GPL-3.0-or-later
"""copy_file_range(2): a range of a file takes on the content of another, without its bytes being read or written.

What the source has in the index is copied as rows: the destination gets chunks of the same blocks, in the open group,
so they become durable with it, and garbage collection finds the blocks in use from the same moment on. Holes stay
holes. This needs two things:

- the source has no staged bytes in the range; else a storer brings them to the store first;
- the destination has no staged bytes at all, since layers lie over the index. Layers without bytes (the file was made,
  cut, punched, or got new times) are entered in the index on the spot, as a storer does. A layer whose row has to stay
  until the commit is *hidden* from reads: the index is newer than it.

So after a copy the destination is as if a storer had just stored it. Until the next commit none of its later layers
gets a row: after a crash it would lie over an index that lacks what was copied.

Where bytes are staged and the range is short, or where they cannot be stored, the bytes are copied instead: read, and
written like any others.

A long copy is made in batches, each a state of its own, in ascending order: the size never passes what was copied. A
file that was cut first, to be replaced, gets all of one request at once, so that a snapshot shows it before or after.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from cas3fs.blockstore.reader import WaitGuard
from cas3fs.errors import Cas3fsError, FileSystemError
from cas3fs.filesystem.limits import SIZE_MAX
from cas3fs.filesystem.operations.files import Files
from cas3fs.filesystem.operations.ranges import ZERO_RANGE, Ranges
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layers import Layer, LayerLookup
from cas3fs.filesystem.writeback.rechunk import FrozenFile, enter_chunks
from cas3fs.index.chunks import NewRow

MOST_BYTES = 64 << 20
"""The longest range whose bytes are copied rather than stored first."""
LONGEST_REQUEST = 0xFFFFF000
"""The reply of the kernel's protocol has 32 bits; a program asks again for the rest."""
_NOW_CHUNKS = 256
_BATCH_CHUNKS = 1024
_REPLACED_CHUNKS = 8192
_PIECE_BYTES = 1 << 20
_PAUSE_S = 0.0005
"""Between two batches, so that others get the lock."""
_ATTEMPTS = 3


class _Copy(NamedTuple):
    """A request: handles, files, and the range, cut to the size of the source."""

    handle: int
    offset: int
    to_handle: int
    to_offset: int
    length: int
    source: Inode
    destination: Inode

    def after(self, done: int) -> "_Copy":
        """The request for the rest, when `done` bytes are copied."""
        return self._replace(offset=self.offset + done, to_offset=self.to_offset + done, length=self.length - done)


class Copies:
    """Copies ranges of files; takes the lock itself."""

    def __init__(
        self, state: FileSystemState, files: Files, ranges: Ranges, store: Callable[[Sequence[Inode], WaitGuard], None]
    ) -> None:
        """Makes the operation.

        Args:
            state: what it changes.
            files: reads and writes where bytes have to be copied.
            ranges: finds the holes then.
            store: returns when what is staged of some files is in the store, and waits in the context that it is given;
                raises where that fails.
        """
        self._state = state
        self._lock = state.lock
        self._files = files
        self._ranges = ranges
        self._store = store

    def copy_now(
        self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, *, flags: int = 0
    ) -> int | None:
        """As `copy` where it takes a few milliseconds, else None. Never waits."""
        with self._lock:
            wanted = self._checked(handle, offset, to_handle, to_offset, length, flags=flags)
            if not wanted.length:
                return 0
            if self._in_the_way(wanted):
                return None
            return self._copy_chunks(wanted, _NOW_CHUNKS, whole=True) or None

    def copy(
        self,
        handle: int,
        offset: int,
        to_handle: int,
        to_offset: int,
        length: int,
        *,
        flags: int = 0,
        wait_guard: WaitGuard = nullcontext,
        pause: WaitGuard = nullcontext,
    ) -> int:
        """Copies up to `length` bytes; may wait for the store, and for space in staging.

        `wait_guard` is the context in which it waits for blocks, where bytes are copied, and `pause` the one in which
        it waits for anything; an InterruptedError of that ends the copy where it is.

        Returns:
            how many bytes were copied: 0 at the end of the source; fewer than asked for where it says so above.

        Raises:
            FileSystemError: EBADF, EINVAL (an overlap within one file, too), EFBIG, EROFS, ENOSPC; EPERM, a flag
                forbids it.
            BlockError, StoreError, OSError: bytes of the source are lost, or cannot be read.
        """
        for attempt in range(_ATTEMPTS):
            with self._lock:
                wanted = self._checked(handle, offset, to_handle, to_offset, length, flags=flags)
                in_the_way = self._in_the_way(wanted)
            if not wanted.length:
                return 0
            if not in_the_way:
                if copied := self._copy_in_batches(wanted):
                    return copied
            elif wanted.length <= MOST_BYTES or attempt == _ATTEMPTS - 1 or not self._stored(in_the_way, pause):
                break
        return self._copy_bytes(wanted, wait_guard, pause)

    def _stored(self, inodes: Sequence[Inode], pause: WaitGuard) -> bool:
        try:
            self._store(inodes, pause)
        except InterruptedError:
            raise
        except (Cas3fsError, OSError):
            return False  # it was logged, and is tried again in the background
        return True

    def _checked(self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, *, flags: int) -> _Copy:
        """The request, cut to what there is to copy.  Needs the lock."""
        self._state.access.check_change()
        source = self._files.opened(handle)
        if not source.readable or not self._files.opened(to_handle).writable:
            raise FileSystemError(errno.EBADF)
        if flags or min(offset, to_offset, length) < 0:
            raise FileSystemError(errno.EINVAL)
        length = max(0, min(length, LONGEST_REQUEST, source.inode.size - offset))
        if length and to_offset >= SIZE_MAX:
            raise FileSystemError(errno.EFBIG)
        length = min(length, SIZE_MAX - to_offset)
        destination = self._files.opened(to_handle).inode
        if source.inode is destination and abs(to_offset - offset) < length:
            raise FileSystemError(errno.EINVAL)
        if length:
            self._files.begin_change_from(to_handle, to_offset)
        return _Copy(handle, offset, to_handle, to_offset, length, source.inode, destination)

    @staticmethod
    def _in_the_way(wanted: _Copy) -> list[Inode]:
        """The files of which bytes have to be stored before chunks can be copied.  Needs the lock."""
        start, end = wanted.offset, wanted.offset + wanted.length
        found = []
        if any(layer.bytes.overlaps(start, end) for layer in _unstored(wanted.source)):
            found.append(wanted.source)
        if any(layer.bytes.size_bytes or layer.writers for layer in _unstored(wanted.destination)):
            found.append(wanted.destination)
        return found

    # -- chunks

    def _copy_in_batches(self, wanted: _Copy) -> int:
        """Copies chunks until all is copied, or something has come in the way; returns how many bytes."""
        copied = 0
        while copied < wanted.length:
            rest = wanted.after(copied)
            with self._lock:
                if self._in_the_way(rest) or (copied and self._state.access.refusal):
                    break
                was_cut = any(layer.floor < layer.initial_size for layer in _unstored(wanted.destination))
                try:
                    batch = self._copy_chunks(rest, _REPLACED_CHUNKS if was_cut else _BATCH_CHUNKS)
                except Cas3fsError:
                    if not copied:
                        raise
                    break  # the next request raises it
            if not batch:
                break
            copied += batch
            time.sleep(_PAUSE_S)
        return copied

    def _copy_chunks(self, wanted: _Copy, limit: int, *, whole: bool = False) -> int:
        """Copies as far as about `limit` chunks reach; with `whole`, all or nothing.  Needs the lock.

        Returns:
            how many bytes were copied.
        """
        state, destination = self._state, wanted.destination
        rows, length = self._rows(wanted, limit)
        if length <= 0 or (whole and length < wanted.length):
            return 0
        unentered = self._freeze(destination)
        seq = (destination.stored_seq if unentered is None else unentered.seq) + 1
        size = max(destination.size, wanted.to_offset + length)
        mtime_ns, ctime_ns = self._files.times_of_change(destination)
        chunks = state.index.chunks
        try:
            with state.operation():
                if unentered is not None:
                    enter_chunks(state.index, unentered, {})
                chunks.replace(destination.number, wanted.to_offset, wanted.to_offset + length, rows)
                chunks.stored(destination.number, size, mtime_ns, ctime_ns, seq)
                in_chunks = chunks.size_bytes(destination.number)
        finally:
            if unentered is not None:
                unentered.release(state.staging)
        destination.stored_seq, destination.size = seq, size
        destination.chunk_bytes = in_chunks
        destination.mtime_ns, destination.ctime_ns = mtime_ns, ctime_ns
        if unentered is not None:
            state.staging.mark_stored(destination, unentered.unstored)
        state.staging.hide_stored(destination)
        state.inodes.mark_dirty(destination)
        return length

    def _rows(self, wanted: _Copy, limit: int) -> tuple[list[NewRow], int]:
        """The chunks of the destination, and how many bytes they are for.

        Raises:
            BlockMissing: a block of them is lost.
        """
        source, start = wanted.source, wanted.offset
        end = min(start + wanted.length, source.size)
        rows: list[NewRow] = []
        for begin, stop in LayerLookup(_unstored(source), start, end).gaps:
            found = self._state.index.chunks.whole_chunks(source.number, begin, stop, limit - len(rows))
            for offset, length, block, skip in found:
                low, high = max(offset, begin), min(offset + length, stop)
                rows.append((low - start + wanted.to_offset, high - low, block, skip + low - offset))
            if len(rows) >= limit:
                end = rows[-1][0] + rows[-1][1] - wanted.to_offset + start
                break
        return rows, end - start

    def _freeze(self, destination: Inode) -> FrozenFile | None:
        """The layers without bytes, which the index has to have before it gets chunks; None where there are none."""
        unstored = _unstored(destination)
        for layer in unstored:
            layer.frozen = True  # nothing is being written to it
        return FrozenFile(destination, destination.layers) if unstored else None

    # -- bytes

    def _copy_bytes(self, wanted: _Copy, wait_guard: WaitGuard, pause: WaitGuard) -> int:
        """Copies bytes, `MOST_BYTES` at most; returns how many."""
        copied, length = 0, min(wanted.length, MOST_BYTES)
        try:
            while copied < length:
                rest = wanted.after(copied)
                piece = self._copy_piece(rest, min(length - copied, _PIECE_BYTES), wait_guard, pause)
                if not piece:
                    break
                copied += piece
        except (Cas3fsError, OSError):
            if not copied:
                raise
        return copied

    def _copy_piece(self, wanted: _Copy, length: int, wait_guard: WaitGuard, pause: WaitGuard) -> int:
        start = wanted.offset
        data_ranges = self._ranges.data_ranges(wanted.source.number, start, start + length)
        data = memoryview(self._files.read(wanted.handle, start, length, lambda: _within(pause, wait_guard)))
        end, position, to_offset = start + len(data), start, wanted.to_offset - start
        pieces = [(begin, min(stop, end)) for begin, stop in data_ranges if begin < end]
        try:
            for begin, stop in [*pieces, (end, end)]:
                if position < begin:
                    self._ranges.allocate(wanted.to_handle, position + to_offset, begin - position, ZERO_RANGE)
                    position = begin
                if begin < stop:
                    self._files.write(
                        wanted.to_handle, begin + to_offset, data[begin - start : stop - start], pause=pause
                    )
                position = stop
        except InterruptedError:
            raise
        except (Cas3fsError, OSError):
            if position == start:
                raise
        return position - start


@contextmanager
def _within(pause: WaitGuard, wait_guard: WaitGuard) -> Iterator[None]:
    with pause(), wait_guard():
        yield


def _unstored(inode: Inode) -> list[Layer]:
    return [layer for layer in inode.layers if not layer.stored]
