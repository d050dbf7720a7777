# SPDX-License-Identifier: GPL-3.0-or-later
"""The open interface of a block cache.

Whoever writes a cache implements `get`, `put`, `contains`, `evict` and `size_bytes`; the rest has a working default
that may be overridden where the cache can do better. Two rules bind every implementation:

- **A cache never fails.** A server that is down, a full disk, a file that vanished: `get` returns None, `put` does
  nothing, and the next attempt is a new one. No exception leaves a cache but for a mistake of the caller.
- **Any thread may call anything at any time**, also while `close` runs.

A cache that sets `verifies` promises that it hands out no byte that was not checked against the block's hash (or
against a checksum made from bytes that were). Of all others every block is checked after `get`, and parts are cut
from whole blocks (see `cas3fs.caches.wrappers`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from cas3fs.values import BlockHash, Buffer


class BlockCache(ABC):
    """Plain bytes of blocks by hash; see the module for what binds an implementation."""

    name: str = "cache"
    """Short and lower case; names the tier in statistics."""

    verifies: bool = False
    """Whether every byte handed out was checked against the hash."""

    remote: bool = False
    """Whether asking it goes over a network: then it is asked for a block by one thread, however many want it."""

    @abstractmethod
    def get(self, block: BlockHash) -> bytes | None:
        """All bytes of the block, or None."""

    @abstractmethod
    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Keep `plain`, which the caller knows to be the bytes of `block`; a cache may decline silently.

        A mutable buffer is copied before this returns.
        """

    @abstractmethod
    def contains(self, block: BlockHash) -> bool:
        """Whether `get` is likely to find the block; cheaper than `get`."""

    @abstractmethod
    def evict(self, block: BlockHash) -> None:
        """Forget the block, if it is there."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """What the cache takes up, in the unit of its bound; 0 where it cannot tell."""

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """`length` bytes of the block from `skip` on, or None; cut from the whole block unless overridden."""
        plain = self.get(block)
        return None if plain is None else part_of(plain, skip, length)

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        """Those of `blocks` that are here."""
        found = ((block, self.get(block)) for block in blocks)
        return {block: plain for block, plain in found if plain is not None}

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """`put` for each."""
        for block, plain in blocks.items():
            self.put(block, plain)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Those of `blocks` that `contains` is true for."""
        return {block for block in blocks if self.contains(block)}

    def evict_many(self, blocks: Iterable[BlockHash]) -> None:
        """`evict` for each."""
        for block in blocks:
            self.evict(block)

    def free_disk_space(self) -> None:  # noqa: B027  (most caches take no room on the local disk)
        """Free room on the local disk if it has little left; called twice a second."""

    def close(self) -> None:  # noqa: B027  (most caches hold nothing that needs closing)
        """Let go of threads and connections; afterwards every `get` may miss. Calling it twice is harmless."""


def part_of(plain: bytes, skip: int, length: int) -> Buffer:
    """`length` bytes of `plain` from `skip` on, without copying them."""
    if skip == 0 and length == len(plain):
        return plain
    return memoryview(plain)[skip : skip + length]
