# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes blocks into the object store: encodes them, collects them in packs, uploads these, and records them.

`add` waits until the block fits into the budget and registers it as in flight. An encoder thread compresses it (small
blocks are compressed at once, because another thread would cost more). The session appends it to its open pack. An
upload thread stores a sealed pack and then calls `on_stored`, where the index records the locations. Then the blocks
are no longer in flight, and their futures resolve. If storing or recording fails, the blocks are no longer in flight
either, and their futures fail with that error: the next attempt encodes them again, into another pack.

Memory: each block counts against the budget while it is in flight: its plain bytes first, and its encoded bytes once it
is encoded. The budget is the size of `uploads` packs and of one that is being filled. Bytes in open packs are idle:
they move on only when more blocks are added. Callers wait only for other bytes, so none waits for ever, however many
sessions there are.

Locks: `_lock` guards the table of blocks in flight, the names of packs that are being stored, and the flag for closing;
nothing else is locked, and nothing is waited for, under it. Upload threads call `on_stored` without any lock of this
package, perhaps several at once.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from cas3fs.blocks.codec import MAX_BLOCK_BYTES, Compression, encode_parts
from cas3fs.blockstore.budget import ByteBudget
from cas3fs.blockstore.pack_session import Encoded, OpenPack, PackSession, PendingBlock, StoredFuture
from cas3fs.blockstore.pack_store import PackStore
from cas3fs.errors import StoreError
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.values import BlockHash, Buffer, StoredPack

__all__ = ["BlockWriter", "PackSession", "StoredFuture"]

HASH_BYTES = 32
ENCODED_INLINE_BYTES = 16 * 1024
"""Up to this length, passing a block to another thread costs more than compressing it."""


class BlockWriter:
    """Stores blocks in packs of about `pack_size_bytes` under `epoch`; thread-safe.

    To find out whether a block has to be stored, check `in_flight` first and the index second: between the two checks a
    block can only move from the first to the second. A block that is stored twice all the same is a waste but no error;
    `on_stored` accepts it.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        epoch: int,
        pack_size_bytes: int,
        compression: Compression,
        on_stored: Callable[[StoredPack], None],
        metrics: Metrics,
        uploads: int = 3,
        encoders: int = 2,
    ) -> None:
        self.pack_size_bytes = pack_size_bytes
        self.hash_content = store.hash_content
        """Gives the hash of a block."""
        self._packs = PackStore(store, metrics)
        self._epoch = epoch
        self._compression = compression
        self._on_stored = on_stored
        self._budget = ByteBudget(pack_size_bytes * (uploads + 1))
        self._lock = threading.Lock()
        self._closed = False
        self._in_flight: dict[BlockHash, PendingBlock] = {}
        self._unrecorded: set[str] = set()
        self._encoders = ThreadPoolExecutor(encoders, "cas3fs-encode")
        self._uploads = ThreadPoolExecutor(uploads, "cas3fs-upload")
        self._blocks = metrics.counter("writer.blocks")
        self._plain_bytes = metrics.counter("writer.plain_bytes")
        self._stored_packs = metrics.counter("writer.packs")
        self._failed_packs = metrics.counter("writer.failed_packs")
        metrics.watch("writer.under_way_bytes", lambda: self._budget.used_bytes)

    def session(self) -> PackSession:
        """A new session, with packs of its own."""
        return PackSession(self)

    def in_flight(self, block: BlockHash) -> StoredFuture | None:
        """The future of a block that some session added and whose pack is not yet recorded."""
        pending = self._in_flight.get(block)
        return None if pending is None else pending.future

    @property
    def last_response_at_s(self) -> float:
        """When the store last sent something, by the monotonic clock, in seconds."""
        return self._packs.last_response_at_s

    @property
    def unrecorded(self) -> frozenset[str]:
        """The names of packs that are being stored, or are stored but not recorded yet."""
        with self._lock:
            return frozenset(self._unrecorded)

    def close(self) -> None:
        """Complete running uploads and fail everything else in flight; to lose nothing, seal and wait first."""
        with self._lock:
            self._closed = True
        self._budget.close()
        self._encoders.shutdown(wait=True, cancel_futures=True)
        self._uploads.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            left = list(self._in_flight.values())
        self.fail(left, _closed())

    # What sessions call

    def open_pack(self) -> OpenPack:
        """A new pack, which the session fills."""
        return OpenPack(self._packs.builder())

    def accept(self, session: PackSession, block: BlockHash, plain: Buffer) -> StoredFuture:
        """Accept a block of `session`."""
        if len(plain) > MAX_BLOCK_BYTES or len(block) != HASH_BYTES:
            raise ValueError(f"not a block: {len(plain)} bytes with a hash of {len(block)} bytes")
        known = self.in_flight(block)
        if known is not None:
            return known
        self._budget.take(len(plain))
        pending, is_new = self._register(PendingBlock(block, len(plain)))
        if not is_new:
            self._budget.release(len(plain))
            return pending.future
        session.enqueue(pending)
        self._encode(session, pending, plain)
        return pending.future

    def add_idle(self, more_bytes: int) -> None:
        """The open pack of some session has grown by so many bytes, or shrunk if negative."""
        self._budget.add_idle(more_bytes)

    def upload(self, pack: OpenPack) -> None:
        """Store a sealed pack in the background."""
        blocks = pack.blocks
        try:
            done = self._uploads.submit(self._store_pack, pack)
        except RuntimeError:  # shut down
            self.fail(blocks, _closed())
            return
        done.add_done_callback(lambda done: self._on_uploaded(blocks, done))

    def fail(self, blocks: list[PendingBlock], error: BaseException) -> None:
        """Fail blocks; they can be added again at once."""
        for pending in self._unregister(blocks):
            pending.future.set_exception(error)

    # Encoding

    def _encode(self, session: PackSession, pending: PendingBlock, plain: Buffer) -> None:
        if len(plain) > ENCODED_INLINE_BYTES and self._encode_in_background(session, pending, plain):
            return
        try:
            encoded = encode_parts(plain, self._compression)
        except BaseException as error:
            session.on_encoded(pending, None, error)
            raise
        self._report_encoded(session, pending, encoded)

    def _encode_in_background(self, session: PackSession, pending: PendingBlock, plain: Buffer) -> bool:
        """Let another thread encode the block; False if none can start: after closing, or for lack of threads."""
        try:
            done = self._encoders.submit(encode_parts, plain, self._compression)
        except RuntimeError:
            return False
        done.add_done_callback(lambda done: self._on_encoded(session, pending, done))
        return True

    def _on_encoded(self, session: PackSession, pending: PendingBlock, done: "Future[Encoded]") -> None:
        error = _closed() if done.cancelled() else done.exception()
        if error is not None:
            session.on_encoded(pending, None, error)
        else:
            self._report_encoded(session, pending, done.result())

    def _report_encoded(self, session: PackSession, pending: PendingBlock, encoded: Encoded) -> None:
        plain_bytes, pending.held_bytes = pending.held_bytes, sum(map(len, encoded))
        self._budget.resize(plain_bytes, pending.held_bytes)
        session.on_encoded(pending, encoded, None)

    # Uploading

    def _store_pack(self, pack: OpenPack) -> None:
        image = pack.builder.finish()
        name = self._packs.new_name(image, self._epoch)
        with self._lock:
            self._unrecorded.add(name)
        try:
            self._on_stored(self._packs.put(image, name))
        finally:
            with self._lock:
                self._unrecorded.discard(name)

    def _on_uploaded(self, blocks: list[PendingBlock], done: "Future[None]") -> None:
        error = _closed() if done.cancelled() else done.exception()
        if error is not None:
            self._failed_packs.add()
            self.fail(blocks, error)
            return
        self._stored_packs.add()
        self._blocks.add(len(blocks))
        self._plain_bytes.add(sum(pending.plain_length for pending in blocks))
        for pending in self._unregister(blocks):
            pending.future.set_result(None)

    # The blocks in flight

    def _register(self, pending: PendingBlock) -> tuple[PendingBlock, bool]:
        """The block in flight with that hash, and whether it is this one."""
        with self._lock:
            if self._closed:
                raise _closed()
            known = self._in_flight.setdefault(pending.hash, pending)
            return known, known is pending

    def _unregister(self, blocks: list[PendingBlock]) -> list[PendingBlock]:
        """Remove blocks; returns those that were in flight, whose futures the caller has to resolve."""
        with self._lock:
            leaving = [pending for pending in blocks if self._in_flight.get(pending.hash) is pending]
            for pending in leaving:
                del self._in_flight[pending.hash]
        self._budget.release(sum(pending.held_bytes for pending in leaving))
        return leaving


def _closed() -> StoreError:
    return StoreError("the block was not stored: the block writer is closed")
