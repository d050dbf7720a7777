# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoded blocks out of the object store, decoded and verified; errors name the block and its pack.

No state beside counters, so any thread may call anything.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from cas3fs.blocks.codec import decode_verified, hash_block
from cas3fs.blockstore.keys import pack_key
from cas3fs.blockstore.plans import Run, is_stored_plain
from cas3fs.errors import BlockCorrupt, BlockMissing, ObjectMissing, ObjectTooLong, ObjectTooShort
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.units import MIB
from cas3fs.values import BlockLocation, Buffer

Unpack = Callable[[], bytes]
"""Gives the plain bytes of a block that has arrived; raises BlockCorrupt if they are not the block."""

LONGEST_RANGE_BYTES: Final = 64 * MIB
"""More than any block or run: a place in the index that claims it is not believed."""
LONGEST_PACK_BYTES: Final = 1280 * MIB
"""The largest pack of any volume, and a block."""


class Retrieval:
    """GETs of blocks, runs and packs.

    Every method that asks the store raises BlockMissing where the pack, or that range of it, does not exist, and
    another StoreError as the store does.
    """

    def __init__(self, store: ObjectStore, metrics: Metrics) -> None:
        self._store = store
        self._gets = metrics.counter("reader.gets")
        self._got_bytes = metrics.counter("reader.got_bytes")
        self._corrupt = metrics.counter("reader.corrupt_blocks")

    def block(self, block: BlockLocation) -> bytes:
        """The plain bytes of one block, by a GET of its own.

        A block that is one byte shorter plain than encoded is stored as it is, behind the byte that says so. Asked for
        without that byte it needs no copy, and its hash proves that it is the block, whatever the byte is.

        Raises:
            BlockCorrupt: what lies there is not the block.
        """
        if is_stored_plain(block):
            plain = self._range(block.pack, block.offset + 1, block.plain_length)
            if hash_block(plain) == block.hash:
                return plain
        return self.decode(self._range(block.pack, block.offset, block.stored_length), block.offset, block)

    def run(self, run: Run) -> bytes:
        """The bytes of a run, still encoded."""
        return self._range(run.pack, run.start, run.length)

    def blocks(self, run: Run, take: Callable[[BlockLocation, Unpack], None]) -> None:
        """The blocks of a run, by one GET; `take` is called with each as soon as it has arrived."""
        pieces = list(run.pieces())
        _check_range(run.pack, run.start, run.length)
        coming = iter(pieces)
        before = b""

        def arrived(piece: bytes) -> None:
            nonlocal before
            _, block = next(coming)
            if block is None:
                before = piece
            else:
                take(block, partial(self._unpack, before, piece, block))

        with _told_as_missing(run.pack):
            self._store.get_pieces(pack_key(run.pack), run.start, [length for length, _ in pieces], arrived)
        self._count(run.length)

    def pack(self, pack: str) -> bytes:
        """All bytes of a pack."""
        with _told_as_missing(pack):
            body = self._store.get_within(pack_key(pack), LONGEST_PACK_BYTES)
        self._count(len(body))
        return body

    def _unpack(self, before: bytes, piece: bytes, block: BlockLocation) -> bytes:
        """The plain bytes of a block from the piece that it is, and the one before it."""
        if not is_stored_plain(block):
            return self.decode(piece, block.offset, block)
        if hash_block(piece) == block.hash:
            return piece
        return self.decode(before[-1:] + piece, block.offset, block)

    def decode(self, body: Buffer, start: int, block: BlockLocation) -> bytes:
        """The plain bytes of `block` from `body`, the bytes of its pack from `start` on.

        Raises:
            BlockMissing: `body` ends before the block does.
            BlockCorrupt: what lies there is not the block.
        """
        skip = block.offset - start
        if skip + block.stored_length > len(body):
            raise BlockMissing(f"block {block.hash.hex()} is lost: pack {block.pack} ends before it does")
        encoded = memoryview(body)[skip : skip + block.stored_length]
        try:
            return decode_verified(encoded, block.plain_length, block.hash)
        except BlockCorrupt as error:
            self._corrupt.add()
            place = f"{block.offset} of {pack_key(block.pack)}"
            raise BlockCorrupt(f"block {block.hash.hex()} at {place} is damaged: {error}") from error

    def _range(self, pack: str, start: int, length: int) -> bytes:
        _check_range(pack, start, length)
        with _told_as_missing(pack):
            body = self._store.get_range(pack_key(pack), start, length)
        self._count(len(body))
        return body

    def _count(self, size_bytes: int) -> None:
        self._gets.add()
        self._got_bytes.add(size_bytes)


def _check_range(pack: str, start: int, length: int) -> None:
    if start < 0 or not 0 < length <= LONGEST_RANGE_BYTES:
        raise BlockCorrupt(f"the index claims {length} bytes from {start} on of pack {pack}: nothing is that long")


@contextmanager
def _told_as_missing(pack: str) -> Iterator[None]:
    try:
        yield
    except (ObjectMissing, ObjectTooShort, ObjectTooLong) as error:
        raise BlockMissing(f"blocks of pack {pack} are lost: {error}") from error
