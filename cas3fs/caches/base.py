# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of a block cache, open to other packages.

An implementation provides `get`, `put`, `contains`, `evict` and `size_bytes`. Everything else has a default that may be
overridden where the cache can do better. Two rules hold for every implementation:

- **A cache never fails.** When a server is down, a disk is full or a file has vanished, `get` returns None, `put` does
  nothing, and the next call tries again. A cache raises only for mistakes of its caller.
- **Any thread may call any method at any time**, also while `close` runs.

A cache that sets `verifies` promises that every byte it returns was checked by the `BlockCheck` of its context (or
against a checksum made from bytes that were). Blocks from any other cache are checked after `get`, and parts are cut
from whole blocks (`cas3fs.caches.wrappers`).

In an encrypted volume, a cache outside this machine never sees a block: it is given sealed bytes under names that are
no hashes (`cas3fs.caches.sealed`), and the check of its context accepts everything. It need not know.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cas3fs.objectstores.base import hash_plainly
from cas3fs.units import MIB
from cas3fs.values import BlockHash, Buffer

LARGEST_BLOCK_BYTES: Final = 16 * MIB
"""No block is longer."""
LARGEST_VALUE_BYTES: Final = 17 * MIB
"""Nothing that a cache is given is longer: a block that is padded and sealed has up to 4% more bytes.

A cache allocates nothing for a length beyond it, whatever a file or a server claims.
"""

BlockCheck = Callable[[BlockHash, Buffer], bool]
"""Whether bytes are those that were put under that name."""


def check_by(hash_content: Callable[[Buffer], bytes]) -> BlockCheck:
    """The check of blocks that are named by `hash_content`."""
    return lambda block, plain: hash_content(plain) == block


def check_plainly(block: BlockHash, plain: Buffer) -> bool:
    """The check of blocks in a volume that is not encrypted: their names are BLAKE3 of their bytes."""
    return hash_plainly(plain) == block


def accept_any(block: BlockHash, value: Buffer) -> bool:
    """The check of sealed values, which says yes: the caller opens them, and that shows whether they are right."""
    return True


class BlockCache(ABC):
    """A cache of blocks by hash."""

    name: str = "cache"
    """Short and lower case; names the tier in statistics."""

    verifies: bool = False
    """Whether every returned byte was checked against the block's hash."""

    remote: bool = False
    """Whether a read goes over a network. Then one thread at a time reads a block, however many want it."""

    @abstractmethod
    def get(self, block: BlockHash) -> bytes | None:
        """Return all bytes of the block, or None."""

    @abstractmethod
    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Store `plain`, which the caller knows to be the bytes of `block`; the cache may ignore it.

        A mutable buffer is copied before this returns.
        """

    @abstractmethod
    def contains(self, block: BlockHash) -> bool:
        """Return whether `get` is likely to find the block; cheaper than `get`."""

    @abstractmethod
    def evict(self, block: BlockHash) -> None:
        """Remove the block, if it is there."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """The size of the cache, in the unit of its limit; 0 where it is not known."""

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """Return `length` bytes of the block from `skip` on, or None; cut from the whole block unless overridden."""
        plain = self.get(block)
        return None if plain is None else part_of(plain, skip, length)

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        """Return those of `blocks` that are in the cache."""
        found = ((block, self.get(block)) for block in blocks)
        return {block: plain for block, plain in found if plain is not None}

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """`put` each block."""
        for block, plain in blocks.items():
            self.put(block, plain)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Return those of `blocks` for which `contains` is true."""
        return {block for block in blocks if self.contains(block)}

    def evict_many(self, blocks: Iterable[BlockHash]) -> None:
        """`evict` each block."""
        for block in blocks:
            self.evict(block)

    def free_disk_space(self) -> None:  # noqa: B027  (most caches use no local disk)
        """Free local disk space if little is left; called twice a second."""

    def close(self) -> None:  # noqa: B027  (most caches hold nothing that needs closing)
        """End threads and close connections; afterwards every `get` may miss. Closing twice is harmless."""


def part_of(plain: bytes, skip: int, length: int) -> Buffer:
    """Return `length` bytes of `plain` from `skip` on, without copying them."""
    if skip == 0 and length == len(plain):
        return plain
    return memoryview(plain)[skip : skip + length]
