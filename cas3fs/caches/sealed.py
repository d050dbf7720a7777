# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches outside this machine, for encrypted volumes: they receive sealed blocks, under names that reveal nothing.

`cas3fs.encryption.shared_caches` has the format. The inner cache stores and returns values as it does blocks, and must
not compare their hash with the name (`cas3fs.caches.base.accept_any`); everything that it returns is opened and
compared here.
"""

from collections.abc import Iterable, Mapping

from cas3fs.caches.base import BlockCache, BlockCheck
from cas3fs.encryption.ciphers import SealBroken
from cas3fs.encryption.shared_caches import SharedCacheSeal
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, Buffer


class SealedCache(BlockCache):
    """`inner`, which sees sealed blocks only.

    A value that cannot be opened, or has other bytes than those of the block, is a miss; it is counted as
    ``cache.<name>.rotten`` and evicted.

    Args:
        inner: the cache, which never raises.
        seal: names, seals and opens.
        check: whether opened bytes are those of the block.
        metrics: for the counter.
    """

    verifies = True

    def __init__(self, inner: BlockCache, seal: SharedCacheSeal, check: BlockCheck, metrics: Metrics) -> None:
        self.name = inner.name
        self.remote = inner.remote
        self._inner = inner
        self._seal = seal
        self._check = check
        self._corrupt = metrics.counter(f"cache.{inner.name}.rotten")

    def get(self, block: BlockHash) -> bytes | None:
        name = self._name_of(block)
        return self._opened(block, name, self._inner.get(name))

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        names = {self._name_of(block): block for block in blocks}
        opened = (
            (names[name], self._opened(names[name], name, value)) for name, value in self._inner.get_many(names).items()
        )
        return {block: plain for block, plain in opened if plain is not None}

    def put(self, block: BlockHash, plain: Buffer) -> None:
        name = self._name_of(block)
        self._inner.put(name, self._seal.seal(name, plain))

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        named = [(self._name_of(block), plain) for block, plain in blocks.items()]
        self._inner.put_many({name: self._seal.seal(name, plain) for name, plain in named})

    def contains(self, block: BlockHash) -> bool:
        return self._inner.contains(self._name_of(block))

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        names = {self._name_of(block): block for block in blocks}
        return {names[name] for name in self._inner.contains_many(names) if name in names}

    def evict(self, block: BlockHash) -> None:
        self._inner.evict(self._name_of(block))

    def evict_many(self, blocks: Iterable[BlockHash]) -> None:
        self._inner.evict_many([self._name_of(block) for block in blocks])

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    def free_disk_space(self) -> None:
        self._inner.free_disk_space()

    def close(self) -> None:
        self._inner.close()

    def _name_of(self, block: BlockHash) -> BlockHash:
        return BlockHash(self._seal.name_of(block))

    def _opened(self, block: BlockHash, name: BlockHash, value: bytes | None) -> bytes | None:
        if value is None:
            return None
        try:
            plain = self._seal.open(name, value)
        except SealBroken:
            plain = None
        if plain is not None and self._check(block, plain):
            return plain
        self._corrupt.add()
        self._inner.evict(name)
        return None
