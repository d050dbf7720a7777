# SPDX-License-Identifier: GPL-3.0-or-later
"""One storing job's line of blocks, cut into packs.

Blocks are encoded by several threads at once and finish in any order, but enter the pack in the order in which they
were added: files that were written together lie together. So a session keeps a line of what was added; whenever the
head of the line is encoded it moves into the open pack. A call of `seal` is a mark in the line.

Locks: `_lock` of the session guards line and open pack. Under it only memory is touched; the pipeline's locks are never
taken under it.
"""

import threading
from collections import deque
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from cas3fs.blocks.packs import PackBuilder
from cas3fs.values import BlockHash, Buffer

Encoded = tuple[bytes, Buffer]
"""Codec byte and payload; the payload may be the plain bytes themselves, which are copied into the pack alone."""

StoredFuture = Future[None]
"""Resolves when the block's pack was stored and recorded; fails with what kept it from that."""


class PendingBlock:
    """A block on its way into a pack."""

    __slots__ = ("encoded", "error", "future", "hash", "held_bytes", "plain_length")

    def __init__(self, block: BlockHash, plain_length: int) -> None:
        self.hash = block
        self.plain_length = plain_length
        self.held_bytes = plain_length
        """What it takes of the writer's budget: the plain bytes, and once it is encoded, these."""
        self.future: StoredFuture = Future()
        self.future.set_running_or_notify_cancel()  # others wait for it, too: nobody can cancel it
        self.encoded: Encoded | None = None
        self.error: BaseException | None = None


class OpenPack:
    """A pack being filled, and the blocks that wait for it."""

    def __init__(self) -> None:
        self.builder = PackBuilder()
        self.blocks: list[PendingBlock] = []
        self.held_bytes = 0

    def add(self, pending: PendingBlock, encoded: Encoded) -> None:
        """Append an encoded block."""
        self.builder.add_parts(pending.hash, encoded, pending.plain_length)
        self.blocks.append(pending)
        self.held_bytes += pending.held_bytes


class Pipeline(Protocol):
    """What a session needs of the writer."""

    pack_size_bytes: int

    def begin(self, session: "PackSession", block: BlockHash, plain: Buffer) -> StoredFuture:
        """Take the block in, and see that `enqueue` and then `encoded` are called; may block."""

    def rest(self, more_bytes: int) -> None:
        """So many more bytes than before lie in the session's open pack."""

    def upload(self, pack: OpenPack) -> None:
        """Store a sealed pack in the background."""

    def fail(self, blocks: list[PendingBlock], error: BaseException) -> None:
        """Give up blocks."""


class PackSession:
    """Made by `BlockWriter.session`; used by one thread. A ``with`` seals it at the end, also after an exception."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._queue: deque[PendingBlock | None] = deque()
        """None is the mark that `seal` leaves."""
        self._open = OpenPack()
        self._resting_bytes = 0  # of the open pack, as the pipeline was told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seal()

    def add(self, block: BlockHash, plain: Buffer) -> StoredFuture:
        """Store `plain`, whose hash is `block`; blocks while too many bytes are under way.

        `plain` must not change until the future is done. If any session has the same block in flight, its future is
        returned and nothing is stored twice. Seal before waiting for a future: until then the last ones may stay in an
        open pack.

        Raises:
            ValueError: longer than any block may be, or no hash.
            StoreError: the writer is closed.
        """
        return self._pipeline.begin(self, block, plain)

    def seal(self) -> None:
        """Upload what was added so far, without waiting for it."""
        with self._lock:
            self._queue.append(None)
        self._advance()

    def enqueue(self, pending: PendingBlock) -> None:
        """Put a block in the line; called by the pipeline in the order of `add`."""
        with self._lock:
            self._queue.append(pending)

    def encoded(self, pending: PendingBlock, encoded: Encoded | None, error: BaseException | None) -> None:
        """A block of the line is encoded, or could not be; called by the pipeline from any thread."""
        pending.error = error
        pending.encoded = encoded
        self._advance()

    def _advance(self) -> None:
        """Move what is encoded from the head of the line into packs, and send those on that are complete."""
        sealed: list[OpenPack] = []
        failed: list[PendingBlock] = []
        with self._lock:
            while self._queue and self._is_settled(self._queue[0]):
                pending = self._queue.popleft()
                if pending is None:
                    self._cut(sealed)
                elif pending.encoded is not None:
                    self._place(pending, pending.encoded, sealed)
                else:
                    failed.append(pending)
            rested_bytes = self._open.held_bytes - self._resting_bytes
            self._resting_bytes += rested_bytes
        if rested_bytes:
            self._pipeline.rest(rested_bytes)
        for pack in sealed:
            self._pipeline.upload(pack)
        for pending in failed:
            self._pipeline.fail([pending], pending.error or RuntimeError("a block was not encoded"))

    @staticmethod
    def _is_settled(pending: PendingBlock | None) -> bool:
        return pending is None or pending.encoded is not None or pending.error is not None

    def _place(self, pending: PendingBlock, encoded: Encoded, sealed: list[OpenPack]) -> None:
        """Add to the open pack; a block that fills a pack by itself goes alone, and the open pack stays open."""
        pending.encoded = None
        limit = self._pipeline.pack_size_bytes
        if pending.held_bytes >= limit:
            alone = OpenPack()
            alone.add(pending, encoded)
            sealed.append(alone)
            return
        if self._open.builder.size_bytes + pending.held_bytes > limit:
            self._cut(sealed)
        self._open.add(pending, encoded)

    def _cut(self, sealed: list[OpenPack]) -> None:
        if self._open.blocks:
            sealed.append(self._open)
            self._open = OpenPack()
