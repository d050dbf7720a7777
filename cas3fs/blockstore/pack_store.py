# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs in the object store: the one place that names, stores and reads them.

The key of a pack is ``packs/<folder>/<hash of its bytes, 64 hex digits>``, where the folder is the epoch in eight
digits; after `FOLDER_PACKS` packs a process goes on in another one, ``<epoch>.0001``, as a store in a directory reads a
folder whole to list a part of it. The *name* of a pack is its key without ``packs/``, and locations in the index refer
to it by that name. A pack is an object of its own format (`cas3fs.blocks.packs`) without metadata.

Everything that concerns the PUT of every pack is decided in `PackStore.put`: key, condition, metadata and what counts
as success. The block writer, gc's compaction and fsck's recovery all store packs through it. Retries, and answers that
leave open whether an object was stored, are the part of the object store's wrappers
(`cas3fs.objectstores.wrappers.retry`).

Blocks are decoded and verified here as well; errors name the block and its pack. A `PackStore` has no state beside
counters, so any thread may call any method.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Final

from cas3fs.blocks.codec import decode_verified
from cas3fs.blocks.packs import (
    FOOTER_BYTES,
    GUESSED_TAIL_BYTES,
    FinishedPack,
    PackBuilder,
    read_contents,
    tail_length,
)
from cas3fs.blockstore.pack_ranges import PackRange, is_stored_plain
from cas3fs.errors import (
    BlockCorrupt,
    BlockMissing,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectTooLong,
    ObjectTooShort,
    PackCorrupt,
)
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectInfo, ObjectStore
from cas3fs.units import MIB
from cas3fs.values import BlockLocation, Buffer, StoredPack

Decode = Callable[[], bytes]
"""Returns the plain bytes of a block that has arrived; raises BlockCorrupt if they are not the block."""

PACKS_PREFIX = "packs/"
FOLDER_PACKS: Final = 10_000
"""How many packs a process puts into one folder."""
LONGEST_RANGE_BYTES: Final = 64 * MIB
"""More than any block or range: a location in the index that claims more is not believed."""
LONGEST_PACK_BYTES: Final = 1280 * MIB
"""The largest pack of any volume, and a block."""


_NAME = re.compile(r"([0-9]{8,})(?:\.[0-9]{4,})?/[0-9a-f]{64}\Z")


def pack_name(epoch: int, content_hash: str, folder: int = 0) -> str:
    """The name by which locations refer to a pack of that epoch, in one of its folders."""
    return f"{epoch:08d}.{folder:04d}/{content_hash}" if folder else f"{epoch:08d}/{content_hash}"


def pack_key(name: str) -> str:
    """The key of the object that holds the pack of that name."""
    return PACKS_PREFIX + name


def pack_name_in(key: str) -> str:
    """The name of the pack in the object of that key."""
    return key.removeprefix(PACKS_PREFIX)


def epoch_of_pack(name: str) -> int | None:
    """The epoch in the name of a pack; None if it is not the name of a pack."""
    found = _NAME.match(name)
    return int(found[1]) if found else None


class PackStore:
    """Stores and reads the packs of one volume.

    Every method that sends a request raises BlockMissing where the pack, or that range of it, does not exist, and
    another StoreError as the object store does.
    """

    def __init__(self, store: ObjectStore, metrics: Metrics | None = None, *, folder_packs: int = FOLDER_PACKS) -> None:
        """Use the packs in `store`.

        Args:
            store: the volume's object store.
            metrics: where requests and bytes are counted; nowhere if None.
            folder_packs: how many packs are put into a folder before the next one is begun.
        """
        metrics = metrics or Metrics()
        self._store = store
        self._folder_packs = folder_packs
        self._names = count()
        self._put_bytes = metrics.counter("writer.stored_bytes")
        self._gets = metrics.counter("reader.gets")
        self._got_bytes = metrics.counter("reader.got_bytes")
        self._corrupt = metrics.counter("reader.corrupt_blocks")

    @property
    def last_response_at_s(self) -> float:
        """When the store last sent something, by the monotonic clock, in seconds."""
        return self._store.last_response_at_s

    # Storing

    def builder(self) -> PackBuilder:
        """A new pack of this volume."""
        return PackBuilder(self._store.name_content, pads=self._store.pads)

    def new_name(self, pack: FinishedPack, epoch: int) -> str:
        """The name under which `put` may store a new pack of that epoch."""
        return pack_name(epoch, pack.name, next(self._names) // self._folder_packs)

    def put(self, pack: FinishedPack, name: str) -> StoredPack:
        """Store a pack under that name, and return when the store has confirmed it.

        An object that already has the name counts as stored: the name is a hash of the content with its random
        nonce, so it is this very pack, put by an earlier attempt.

        Raises:
            StoreError: it could not be stored.
        """
        with suppress(ObjectExists):
            self._store.put_if_absent(pack_key(name), pack.body)
        self._put_bytes.add(len(pack.body))
        return StoredPack(name, len(pack.body), pack.blocks)

    # Reading

    def list_objects(self) -> Iterator[ObjectInfo]:
        """Every object below the prefix of packs."""
        return self._store.list(PACKS_PREFIX)

    def size_bytes(self, name: str) -> int:
        """The size of a pack.

        Raises:
            ObjectMissing: it does not exist.
        """
        return self._store.head(pack_key(name)).size

    def exists(self, name: str) -> bool:
        """Whether the pack exists, by a request of its own."""
        try:
            self.size_bytes(name)
        except ObjectMissing:
            return False
        return True

    def get_block(self, block: BlockLocation) -> bytes:
        """The plain bytes of one block, by one GET.

        A block that is one byte shorter plain than encoded is stored as it is, behind the byte that says so. Requested
        without that byte it needs no copy, and its hash proves that it is the block, whatever the byte is.

        Raises:
            BlockCorrupt: the bytes there are not the block.
        """
        if is_stored_plain(block):
            plain = self._get(block.pack, block.offset + 1, block.plain_length)
            if self._store.hash_content(plain) == block.hash:
                return plain
        return self.decode(self._get(block.pack, block.offset, block.stored_length), block.offset, block)

    def get_range(self, wanted: PackRange) -> bytes:
        """The encoded bytes of a range."""
        return self._get(wanted.pack, wanted.start, wanted.length)

    def get_blocks(self, wanted: PackRange, take: Callable[[BlockLocation, Decode], None]) -> None:
        """The blocks of a range, by one GET; `take` is called with each as soon as it has arrived."""
        pieces = list(wanted.pieces())
        _check_range(wanted.pack, wanted.start, wanted.length)
        expected = iter(pieces)
        before = b""

        def arrived(piece: bytes) -> None:
            nonlocal before
            _, block = next(expected)
            if block is None:
                before = piece
            else:
                take(block, partial(self._decode_piece, before, piece, block))

        with _as_missing_block(wanted.pack):
            self._store.get_pieces(pack_key(wanted.pack), wanted.start, [length for length, _ in pieces], arrived)
        self._count(wanted.length)

    def get_pack(self, name: str) -> bytes:
        """All bytes of a pack."""
        with _as_missing_block(name):
            body = self._store.get_within(pack_key(name), LONGEST_PACK_BYTES)
        self._count(len(body))
        return body

    def get_contents(self, name: str, size_bytes: int) -> tuple[BlockLocation, ...]:
        """The table of contents of a pack, by a GET of its last bytes, and a second one if those are too few.

        They are read by their place: where a sealed object ends would take one more request to learn.

        Args:
            name: of the pack.
            size_bytes: of the pack.

        Raises:
            ObjectMissing: the pack does not exist.
            PackCorrupt: there is no valid table of contents, or the pack has another size.
            StoreError: the store failed.
        """
        tail = self._get_tail(name, size_bytes, min(size_bytes, GUESSED_TAIL_BYTES))
        if len(tail) >= FOOTER_BYTES:
            needed = tail_length(tail, size_bytes)
            if needed > len(tail):
                tail = self._get_tail(name, size_bytes, needed)
        return tuple(BlockLocation(one.hash, name, *one[1:]) for one in read_contents(tail, size_bytes))

    def _get_tail(self, name: str, size_bytes: int, length: int) -> bytes:
        try:
            return self._store.get_range(pack_key(name), size_bytes - length, length)
        except (ObjectDamaged, ObjectTooShort) as error:
            raise PackCorrupt(str(error)) from error

    def decode(self, body: Buffer, start: int, block: BlockLocation) -> bytes:
        """The plain bytes of `block` from `body`, the bytes of its pack from `start` on.

        Raises:
            BlockMissing: `body` ends before the block does.
            BlockCorrupt: the bytes there are not the block.
        """
        skip = block.offset - start
        if skip + block.stored_length > len(body):
            raise BlockMissing(f"block {block.hash.hex()} is lost: pack {block.pack} ends before it does")
        encoded = memoryview(body)[skip : skip + block.stored_length]
        try:
            return decode_verified(encoded, block.plain_length, block.hash, self._store.hash_content)
        except BlockCorrupt as error:
            self._corrupt.add()
            place = f"{block.offset} of {pack_key(block.pack)}"
            raise BlockCorrupt(f"block {block.hash.hex()} at {place} is damaged: {error}") from error

    def _decode_piece(self, before: bytes, piece: bytes, block: BlockLocation) -> bytes:
        """The plain bytes of a block from its own piece of a range, and the piece before it."""
        if not is_stored_plain(block):
            return self.decode(piece, block.offset, block)
        if self._store.hash_content(piece) == block.hash:
            return piece
        return self.decode(before[-1:] + piece, block.offset, block)

    def _get(self, name: str, start: int, length: int) -> bytes:
        _check_range(name, start, length)
        with _as_missing_block(name):
            body = self._store.get_range(pack_key(name), start, length)
        self._count(len(body))
        return body

    def _count(self, size_bytes: int) -> None:
        self._gets.add()
        self._got_bytes.add(size_bytes)


def _check_range(name: str, start: int, length: int) -> None:
    if start < 0 or not 0 < length <= LONGEST_RANGE_BYTES:
        raise BlockCorrupt(f"the index claims {length} bytes from {start} on of pack {name}: nothing is that long")


@contextmanager
def _as_missing_block(name: str) -> Iterator[None]:
    try:
        yield
    except (ObjectMissing, ObjectTooShort, ObjectTooLong) as error:
        raise BlockMissing(f"blocks of pack {name} are lost: {error}") from error
    except ObjectDamaged as error:
        raise BlockCorrupt(f"blocks of pack {name} cannot be read: {error}") from error
