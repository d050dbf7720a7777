# SPDX-License-Identifier: GPL-3.0-or-later
"""A wrapper that checks each block a cache gives against its hash, for caches that do not vouch for their bytes."""

from collections.abc import Iterable, Mapping

from blake3 import blake3

from cas3fs.caches.base import BlockCache
from cas3fs.values import BlockHash, Buffer


class VerifiedCache(BlockCache):
    """`inner`, of which only bytes that match their hash are believed; what does not match is evicted."""

    verifies = True

    def __init__(self, inner: BlockCache) -> None:
        self._inner = inner
        self.name = inner.name
        self.remote = inner.remote

    def get(self, block: BlockHash) -> bytes | None:
        """The block, if the inner cache has it unspoilt."""
        return self._checked(block, self._inner.get(block))

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        """Those that the inner cache has unspoilt."""
        found = self._inner.get_many(blocks).items()
        return {block: plain for block, plain in found if self._checked(block, plain) is not None}

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """As the inner cache does."""
        self._inner.put(block, plain)

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """As the inner cache does."""
        self._inner.put_many(blocks)

    def contains(self, block: BlockHash) -> bool:
        """As the inner cache says."""
        return self._inner.contains(block)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """As the inner cache says."""
        return self._inner.contains_many(blocks)

    def evict(self, block: BlockHash) -> None:
        """As the inner cache does."""
        self._inner.evict(block)

    def evict_many(self, blocks: Iterable[BlockHash]) -> None:
        """As the inner cache does."""
        self._inner.evict_many(blocks)

    @property
    def size_bytes(self) -> int:
        """Of the inner cache."""
        return self._inner.size_bytes

    def give_way(self) -> None:
        self._inner.give_way()

    def close(self) -> None:
        """Closes the inner cache."""
        self._inner.close()

    def _checked(self, block: BlockHash, plain: bytes | None) -> bytes | None:
        if plain is None or blake3(plain).digest() == block:
            return plain
        self._inner.evict(block)
        return None


def verified(cache: BlockCache) -> BlockCache:
    """`cache` itself where it vouches for its bytes, else wrapped so that they are checked."""
    return cache if cache.verifies else VerifiedCache(cache)
