# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks that one storing job needs: which of them have to be stored, and when all of them are.

A block that is being uploaded, or that the index has, is not stored again. The upload is asked first: a block only
moves from there to the index.
"""

from collections.abc import Sequence
from concurrent.futures import Future

from cas3fs.blockstore.writer import BlockWriter, PackSession
from cas3fs.errors import StoreError
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.writeback.rechunk import ChunkReplacement, FrozenFile
from cas3fs.values import BlockHash, Buffer, NewChunk

_CACHED_BYTES = 64 * 1024
"""Smaller blocks are not put in the caches as they are written: a file in the cache for each would cost more than
fetching the pack that has all of them, should they be read again."""
_WAITING_FILES = 256


class BlockUpload:
    """The blocks of one job; used by one thread, without the file system's lock."""

    def __init__(self, state: FileSystemState, writer: BlockWriter, session: PackSession) -> None:
        self._state = state
        self._writer = writer
        self._session = session
        self._futures: list[tuple[BlockHash, Future[None]]] = []
        self._failures: dict[BlockHash, BaseException] = {}
        self._waiting: list[tuple[FrozenFile, bytes]] = []

    def emit(self, blocks: Sequence[Buffer]) -> list[BlockHash]:
        """Has these blocks stored, unless they are already.

        Returns:
            their hashes.

        Raises:
            StoreError: the writer is closed.
        """
        self.emit_waiting()
        return self._emit(blocks)

    def emit_later(self, file: FrozenFile, plain: bytes) -> None:
        """Has a whole file stored as one block, together with others like it, and sets its chunk."""
        self._waiting.append((file, plain))
        if len(self._waiting) >= _WAITING_FILES:
            self.emit_waiting()

    def emit_waiting(self) -> None:
        """Emits the files of `emit_later`."""
        waiting, self._waiting = self._waiting, []
        hashes = self._emit([plain for _, plain in waiting])
        for (file, plain), block_hash in zip(waiting, hashes, strict=True):
            file.replacements = [ChunkReplacement(0, len(plain), [NewChunk(0, len(plain), block_hash)])]

    def _emit(self, blocks: Sequence[Buffer]) -> list[BlockHash]:
        hashes = [BlockHash(self._writer.hash_content(block)) for block in blocks]
        self._state.index.prepare_hashes()  # may take long the first time, so without the lock
        unknown: dict[BlockHash, Buffer] = {}
        for block_hash, block in zip(hashes, blocks, strict=True):
            future = self._writer.in_flight(block_hash)
            if future is None:
                unknown[block_hash] = block
            else:
                self._futures.append((block_hash, future))
        if unknown:
            with self._state.lock:
                known = self._state.index.blocks.find(list(unknown))
            for block_hash, block in unknown.items():
                if block_hash not in known:
                    self._store(block_hash, block)
        return hashes

    def _store(self, block_hash: BlockHash, block: Buffer) -> None:
        try:
            future = self._session.add(block_hash, block)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - it cannot be encoded, which says nothing about other blocks
            self._failures[block_hash] = error
            return
        self._futures.append((block_hash, future))
        if self._state.settings.cache_writes and not self._state.programs_busy and len(block) >= _CACHED_BYTES:
            self._state.reader.admit(block_hash, block)

    def wait(self) -> dict[BlockHash, BaseException]:
        """Waits until all blocks are stored and recorded; the session must be sealed.

        Returns:
            the blocks that could not be stored, with the error.
        """
        failures = self._failures
        for block_hash, future in self._futures:
            failure = future.exception()
            if failure is not None:
                failures[block_hash] = failure
        return failures
