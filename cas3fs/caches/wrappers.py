# SPDX-License-Identifier: GPL-3.0-or-later
"""A wrapper that keeps the faults of a cache from whoever reads: an exception, or an answer of the wrong type, is a
miss, counted as ``cache.<name>.failures`` and logged the first time.

No lock: should two threads meet the first fault at once, it may be logged twice.

A wrapper that checks each block a cache gives against its hash, for caches that do not vouch for their bytes.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from blake3 import blake3

from cas3fs.caches.base import BlockCache
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, Buffer

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class FaultTolerantCache(BlockCache):
    """`inner`, which may misbehave, under the name `name`."""

    def __init__(self, inner: BlockCache, name: str, metrics: Metrics) -> None:
        self.name = name
        self._inner = inner
        self._failures = metrics.counter(f"cache.{name}.failures")
        self._told = False
        self.verifies = self._guard(lambda: bool(inner.verifies), False)
        self.remote = self._guard(lambda: bool(inner.remote), False)

    def get(self, block: BlockHash) -> bytes | None:
        """The block, if the inner cache gives bytes at all."""
        return self._guard(lambda: _bytes_or_none(self._inner.get(block)), None)

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """The part, if the inner cache gives as many bytes as were asked for."""
        return self._guard(lambda: _part(self._inner.get_part(block, skip, length), length), None)

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        """Those that the inner cache has."""
        wanted = list(blocks)
        return self._guard(lambda: _wanted_only(self._inner.get_many(wanted), wanted), {})

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """As the inner cache does."""
        self._guard(lambda: self._inner.put(block, plain), None)

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """As the inner cache does."""
        self._guard(lambda: self._inner.put_many(blocks), None)

    def contains(self, block: BlockHash) -> bool:
        """As the inner cache says."""
        return self._guard(lambda: bool(self._inner.contains(block)), False)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """As the inner cache says."""
        return self._guard(lambda: set(self._inner.contains_many(blocks)), set())

    def evict(self, block: BlockHash) -> None:
        """As the inner cache does."""
        self._guard(lambda: self._inner.evict(block), None)

    def evict_many(self, blocks: Iterable[BlockHash]) -> None:
        """As the inner cache does."""
        self._guard(lambda: self._inner.evict_many(blocks), None)

    @property
    def size_bytes(self) -> int:
        """As the inner cache says."""
        return self._guard(lambda: int(self._inner.size_bytes), 0)

    def free_disk_space(self) -> None:
        self._guard(self._inner.free_disk_space, None)

    def close(self) -> None:
        """Closes the inner cache."""
        self._guard(self._inner.close, None)

    def _guard(self, ask: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
        try:
            return ask()
        except Exception as fault:  # noqa: BLE001  (whatever a stranger's code raises)
            self._failures.add()
            if not self._told:
                self._told = True
                _log.warning("the cache %s fails, and counts as empty: %s: %s", self.name, type(fault).__name__, fault)
            return otherwise


def _bytes_or_none(answer: object) -> bytes | None:
    if answer is None or isinstance(answer, bytes):
        return answer
    if isinstance(answer, bytearray | memoryview):
        return bytes(answer)
    raise TypeError(f"a block has to be bytes, not {type(answer).__name__}")


def _part(answer: object, length: int) -> Buffer | None:
    if answer is None:
        return None
    if not isinstance(answer, bytes | bytearray | memoryview):
        raise TypeError(f"a part has to be bytes, not {type(answer).__name__}")
    if len(answer) != length:
        raise ValueError(f"a part has {len(answer)} bytes instead of {length}")
    return answer


def _wanted_only(answer: Mapping[BlockHash, object], wanted: list[BlockHash]) -> dict[BlockHash, bytes]:
    asked = set(wanted)
    found = ((block, _bytes_or_none(plain)) for block, plain in answer.items() if block in asked)
    return {block: plain for block, plain in found if plain is not None}


class VerifyingCache(BlockCache):
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

    def free_disk_space(self) -> None:
        self._inner.free_disk_space()

    def close(self) -> None:
        """Closes the inner cache."""
        self._inner.close()

    def _checked(self, block: BlockHash, plain: bytes | None) -> bytes | None:
        if plain is None or blake3(plain).digest() == block:
            return plain
        self._inner.evict(block)
        return None


def ensure_verified(cache: BlockCache) -> BlockCache:
    """`cache` itself where it vouches for its bytes, else wrapped so that they are checked."""
    return cache if cache.verifies else VerifyingCache(cache)
