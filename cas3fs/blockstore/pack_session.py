# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks that one job stores, in order, divided into packs.

Several threads encode blocks at once and finish in any order, but blocks enter a pack in the order in which they were
added, so that files that were written together lie together. A session therefore keeps a queue of the added blocks;
when the first one is encoded it moves into the open pack. A call of `seal` is a mark in the queue.

Locks: the session's `_lock` guards the queue and the open pack. Under it only memory is accessed; the pipeline's locks
are never taken under it.
"""

import threading
from collections import deque
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from cas3fs.blocks.packs import PackBuilder
from cas3fs.values import BlockHash, Buffer

Encoded = tuple[bytes, Buffer]
"""Codec byte and payload; the payload may be the plain bytes themselves, so that they are copied only once."""

StoredFuture = Future[None]
"""Resolves when the block's pack is stored and recorded, and fails if it could not be."""


class PendingBlock:
    """A block on its way into a pack."""

    __slots__ = ("encoded", "error", "future", "hash", "held_bytes", "plain_length")

    def __init__(self, block: BlockHash, plain_length: int) -> None:
        self.hash = block
        self.plain_length = plain_length
        self.held_bytes = plain_length
        """What it uses of the writer's budget: the plain bytes, and once it is encoded, the encoded bytes."""
        self.future: StoredFuture = Future()
        self.future.set_running_or_notify_cancel()  # several threads may wait for it, so none can cancel it
        self.encoded: Encoded | None = None
        self.error: BaseException | None = None


class OpenPack:
    """A pack that is being filled through `builder`, and its blocks."""

    def __init__(self, builder: PackBuilder) -> None:
        self.builder = builder
        self.blocks: list[PendingBlock] = []
        self.held_bytes = 0

    def add(self, pending: PendingBlock, encoded: Encoded) -> None:
        """Append an encoded block."""
        self.builder.add_parts(pending.hash, encoded, pending.plain_length)
        self.blocks.append(pending)
        self.held_bytes += pending.held_bytes


class Pipeline(Protocol):
    """What a session needs from the writer."""

    pack_size_bytes: int

    def open_pack(self) -> OpenPack:
        """A new pack."""

    def accept(self, session: "PackSession", block: BlockHash, plain: Buffer) -> StoredFuture:
        """Accept the block, and later call `enqueue` and then `on_encoded` of the session; may block."""

    def add_idle(self, more_bytes: int) -> None:
        """The session's open pack has grown by so many bytes, or shrunk if negative."""

    def upload(self, pack: OpenPack) -> None:
        """Store a sealed pack in the background."""

    def fail(self, blocks: list[PendingBlock], error: BaseException) -> None:
        """Fail blocks."""


class PackSession:
    """Made by `BlockWriter.session` and used by one thread. ``with`` seals it at the end, also after an exception."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._queue: deque[PendingBlock | None] = deque()
        """None is the mark of `seal`."""
        self._open = pipeline.open_pack()
        self._idle_bytes = 0  # of the open pack, as reported to the pipeline

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seal()

    def add(self, block: BlockHash, plain: Buffer) -> StoredFuture:
        """Store `plain`, whose hash is `block`; waits while too many bytes are being stored.

        `plain` must not change until the future is done. If any session has the same block in flight, the future of
        that block is returned and nothing is stored twice. Seal before waiting for a future: until then the last blocks
        may stay in an open pack.

        Raises:
            ValueError: the block is too long, or the hash has a wrong length.
            StoreError: the writer is closed.
        """
        return self._pipeline.accept(self, block, plain)

    def seal(self) -> None:
        """Upload the blocks added so far, without waiting for it."""
        with self._lock:
            self._queue.append(None)
        self._advance()

    def enqueue(self, pending: PendingBlock) -> None:
        """Append a block to the queue; called by the pipeline in the order of `add`."""
        with self._lock:
            self._queue.append(pending)

    def on_encoded(self, pending: PendingBlock, encoded: Encoded | None, error: BaseException | None) -> None:
        """A queued block is encoded, or could not be; called by the pipeline from any thread."""
        pending.error = error
        pending.encoded = encoded
        self._advance()

    def _advance(self) -> None:
        """Move encoded blocks from the head of the queue into packs, and upload the packs that are complete."""
        sealed: list[OpenPack] = []
        failed: list[PendingBlock] = []
        with self._lock:
            while self._queue and self._is_encoded_or_failed(self._queue[0]):
                pending = self._queue.popleft()
                if pending is None:
                    self._seal_open_pack(sealed)
                elif pending.encoded is not None:
                    self._append(pending, pending.encoded, sealed)
                else:
                    failed.append(pending)
            new_idle_bytes = self._open.held_bytes - self._idle_bytes
            self._idle_bytes += new_idle_bytes
        if new_idle_bytes:
            self._pipeline.add_idle(new_idle_bytes)
        for pack in sealed:
            self._pipeline.upload(pack)
        for pending in failed:
            self._pipeline.fail([pending], pending.error or RuntimeError("a block was not encoded"))

    @staticmethod
    def _is_encoded_or_failed(pending: PendingBlock | None) -> bool:
        return pending is None or pending.encoded is not None or pending.error is not None

    def _append(self, pending: PendingBlock, encoded: Encoded, sealed: list[OpenPack]) -> None:
        """Append to the open pack; a block that fills a pack gets one of its own, and the open pack stays open."""
        pending.encoded = None
        limit = self._pipeline.pack_size_bytes
        if pending.held_bytes >= limit:
            alone = self._pipeline.open_pack()
            alone.add(pending, encoded)
            sealed.append(alone)
            return
        if self._open.builder.size_bytes + pending.held_bytes > limit:
            self._seal_open_pack(sealed)
        self._open.add(pending, encoded)

    def _seal_open_pack(self, sealed: list[OpenPack]) -> None:
        if self._open.blocks:
            sealed.append(self._open)
            self._open = self._pipeline.open_pack()
