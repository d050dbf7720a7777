# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks into the object store: encoded, put together to packs, uploaded, recorded.

A block's way: `add` waits for room in the budget and enters it as in flight; an encoder thread compresses it (small
blocks are compressed on the spot, as handing over costs more); the session appends it to its open pack; a sealed pack
is put by an upload thread, which then calls `on_stored`, where the index records the locations; then the blocks leave
the table of what is in flight, and their futures resolve. If the put or `on_stored` fails, the blocks leave the table
and the futures fail with that error: the next attempt encodes anew, into another pack.

Memory: each block is in the budget from `add` until it leaves the table: with its plain bytes first, and once it is
encoded with those. The budget has room for `uploads` packs and one that is being filled. What lies in open packs
rests: it moves on only when more is added, so only what moves is waited for, and however many sessions there are, none
waits for ever.

Locks: `_lock` guards the table of what is in flight, the names of packs that are being put, and the flag of closing;
nothing else is locked, and nobody waits, under it. `on_stored` is called from upload threads, perhaps from several at
once, without any lock of this room.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from cas3fs.blocks.codec import MAX_BLOCK_BYTES, Compression, encode_parts
from cas3fs.blockstore.budget import ByteBudget
from cas3fs.blockstore.pack_session import Encoded, OpenPack, PackSession, PendingBlock, StoredFuture
from cas3fs.blockstore.pack_store import PackStore, pack_name
from cas3fs.errors import StoreError
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.values import BlockHash, Buffer, StoredPack

__all__ = ["BlockWriter", "PackSession", "StoredFuture"]

HASH_BYTES = 32
ENCODED_INLINE_BYTES = 16 * 1024
"""Up to this length, handing a block to another thread costs more than compressing it."""


class BlockWriter:
    """Stores blocks in packs of about `pack_size_bytes` under `epoch`; thread-safe.

    Who wants to store a block asks `in_flight` first and the index second: between the two answers a block can only
    move from the first into the second. A block stored twice all the same is a waste, no error; `on_stored` takes it.
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
        """A new line of blocks with packs of its own."""
        return PackSession(self)

    def in_flight(self, block: BlockHash) -> StoredFuture | None:
        """The future of a block that some session added and whose pack is not yet recorded."""
        pending = self._in_flight.get(block)
        return None if pending is None else pending.future

    @property
    def last_response_at_s(self) -> float:
        """When the store last gave a sign of life, by the monotonic clock, in seconds."""
        return self._packs.last_response_at_s

    @property
    def unrecorded(self) -> frozenset[str]:
        """The names of packs that are being put, or were and are not recorded yet."""
        with self._lock:
            return frozenset(self._unrecorded)

    def close(self) -> None:
        """Complete the running uploads and fail everything else in flight; to lose nothing, seal and wait before."""
        with self._lock:
            self._closed = True
        self._budget.close()
        self._encoders.shutdown(wait=True, cancel_futures=True)
        self._uploads.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            left = list(self._in_flight.values())
        self.fail(left, _closed())

    # What sessions call

    def begin(self, session: PackSession, block: BlockHash, plain: Buffer) -> StoredFuture:
        """Take a block in for `session`."""
        if len(plain) > MAX_BLOCK_BYTES or len(block) != HASH_BYTES:
            raise ValueError(f"no block: {len(plain)} bytes under a hash of {len(block)}")
        known = self.in_flight(block)
        if known is not None:
            return known
        self._budget.take(len(plain))
        pending, is_new = self._enter(PendingBlock(block, len(plain)))
        if not is_new:
            self._budget.release(len(plain))
            return pending.future
        session.enqueue(pending)
        self._encode(session, pending, plain)
        return pending.future

    def rest(self, more_bytes: int) -> None:
        """So many more bytes than before lie in some session's open pack."""
        self._budget.rest(more_bytes)

    def upload(self, pack: OpenPack) -> None:
        """Store a sealed pack in the background."""
        blocks = pack.blocks
        try:
            done = self._uploads.submit(self._store_pack, pack)
        except RuntimeError:  # shut down
            self.fail(blocks, _closed())
            return
        done.add_done_callback(lambda done: self._uploaded(blocks, done))

    def fail(self, blocks: list[PendingBlock], error: BaseException) -> None:
        """Give up blocks: they can be added again at once."""
        for pending in self._leave(blocks):
            pending.future.set_exception(error)

    # Encoding

    def _encode(self, session: PackSession, pending: PendingBlock, plain: Buffer) -> None:
        if len(plain) > ENCODED_INLINE_BYTES and self._encode_elsewhere(session, pending, plain):
            return
        try:
            encoded = encode_parts(plain, self._compression)
        except BaseException as error:
            session.encoded(pending, None, error)
            raise
        self._pass_on(session, pending, encoded)

    def _encode_elsewhere(self, session: PackSession, pending: PendingBlock, plain: Buffer) -> bool:
        """Has another thread encode the block; whether there is one: not after the end, nor on a machine without."""
        try:
            done = self._encoders.submit(encode_parts, plain, self._compression)
        except RuntimeError:
            return False
        done.add_done_callback(lambda done: self._encoded(session, pending, done))
        return True

    def _encoded(self, session: PackSession, pending: PendingBlock, done: "Future[Encoded]") -> None:
        error = _closed() if done.cancelled() else done.exception()
        if error is not None:
            session.encoded(pending, None, error)
        else:
            self._pass_on(session, pending, done.result())

    def _pass_on(self, session: PackSession, pending: PendingBlock, encoded: Encoded) -> None:
        plain_bytes, pending.held_bytes = pending.held_bytes, sum(map(len, encoded))
        self._budget.resize(plain_bytes, pending.held_bytes)
        session.encoded(pending, encoded, None)

    # Uploading

    def _store_pack(self, pack: OpenPack) -> None:
        image = pack.builder.finish()
        name = pack_name(self._epoch, image.name)
        with self._lock:
            self._unrecorded.add(name)
        try:
            self._on_stored(self._packs.put(image, self._epoch))
        finally:
            with self._lock:
                self._unrecorded.discard(name)

    def _uploaded(self, blocks: list[PendingBlock], done: "Future[None]") -> None:
        error = _closed() if done.cancelled() else done.exception()
        if error is not None:
            self._failed_packs.add()
            self.fail(blocks, error)
            return
        self._stored_packs.add()
        self._blocks.add(len(blocks))
        self._plain_bytes.add(sum(pending.plain_length for pending in blocks))
        for pending in self._leave(blocks):
            pending.future.set_result(None)

    # The table of what is in flight

    def _enter(self, pending: PendingBlock) -> tuple[PendingBlock, bool]:
        """The block of that hash that is in flight, and whether it is this one."""
        with self._lock:
            if self._closed:
                raise _closed()
            known = self._in_flight.setdefault(pending.hash, pending)
            return known, known is pending

    def _leave(self, blocks: list[PendingBlock]) -> list[PendingBlock]:
        """Take blocks off the table; those that were still on it, whose futures the caller has to resolve."""
        with self._lock:
            leaving = [pending for pending in blocks if self._in_flight.get(pending.hash) is pending]
            for pending in leaving:
                del self._in_flight[pending.hash]
        self._budget.release(sum(pending.held_bytes for pending in leaving))
        return leaving


def _closed() -> StoreError:
    return StoreError("the block was not stored: the block writer was closed")
