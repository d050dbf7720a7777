# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrappers around a cache, one concern each: its failures are misses, and its blocks are checked."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from cas3fs.caches.base import BlockCache, BlockCheck, check_plainly
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, Buffer

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class FaultTolerantCache(BlockCache):
    """`inner`, under the name `name`, with its faults turned into misses.

    A fault is an exception, or a result of the wrong type. Faults are counted as ``cache.<name>.failures``, and the
    first is logged. There is no lock: when two threads meet the first fault at once, it may be logged twice.
    """

    def __init__(self, inner: BlockCache, name: str, metrics: Metrics) -> None:
        self.name = name
        self._inner = inner
        self._failures = metrics.counter(f"cache.{name}.failures")
        self._is_logged = False
        self.verifies = self._guard(lambda: bool(inner.verifies), False)
        self.remote = self._guard(lambda: bool(inner.remote), False)

    def get(self, block: BlockHash) -> bytes | None:
        return self._guard(lambda: _bytes_or_none(self._inner.get(block)), None)

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """Return the part, if the inner cache returns exactly `length` bytes."""
        return self._guard(lambda: _part_or_none(self._inner.get_part(block, skip, length), length), None)

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        wanted = list(blocks)
        return self._guard(lambda: _requested_only(self._inner.get_many(wanted), wanted), {})

    def put(self, block: BlockHash, plain: Buffer) -> None:
        self._guard(lambda: self._inner.put(block, plain), None)

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        self._guard(lambda: self._inner.put_many(blocks), None)

    def contains(self, block: BlockHash) -> bool:
        return self._guard(lambda: bool(self._inner.contains(block)), False)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        return self._guard(lambda: set(self._inner.contains_many(blocks)), set())

    def evict(self, block: BlockHash) -> None:
        self._guard(lambda: self._inner.evict(block), None)

    def evict_many(self, blocks: Iterable[BlockHash]) -> None:
        self._guard(lambda: self._inner.evict_many(blocks), None)

    @property
    def size_bytes(self) -> int:
        return self._guard(lambda: int(self._inner.size_bytes), 0)

    def free_disk_space(self) -> None:
        self._guard(self._inner.free_disk_space, None)

    def close(self) -> None:
        self._guard(self._inner.close, None)

    def _guard(self, call: Callable[[], _Result], default: _Result) -> _Result:
        try:
            return call()
        except Exception as fault:  # noqa: BLE001  (code of another package may raise anything)
            self._failures.add()
            if not self._is_logged:
                self._is_logged = True
                _log.warning("cache %s failed and is treated as empty: %s: %s", self.name, type(fault).__name__, fault)
            return default


class VerifyingCache(BlockCache):
    """`inner`, with each block checked against its hash; a block that does not match is evicted."""

    verifies = True

    def __init__(self, inner: BlockCache, check: BlockCheck = check_plainly) -> None:
        self._inner = inner
        self._check = check
        self.name = inner.name
        self.remote = inner.remote

    def get(self, block: BlockHash) -> bytes | None:
        return self._checked(block, self._inner.get(block))

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        found = self._inner.get_many(blocks).items()
        return {block: plain for block, plain in found if self._checked(block, plain) is not None}

    def put(self, block: BlockHash, plain: Buffer) -> None:
        self._inner.put(block, plain)

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        self._inner.put_many(blocks)

    def contains(self, block: BlockHash) -> bool:
        return self._inner.contains(block)

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        return self._inner.contains_many(blocks)

    def evict(self, block: BlockHash) -> None:
        self._inner.evict(block)

    def evict_many(self, blocks: Iterable[BlockHash]) -> None:
        self._inner.evict_many(blocks)

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    def free_disk_space(self) -> None:
        self._inner.free_disk_space()

    def close(self) -> None:
        self._inner.close()

    def _checked(self, block: BlockHash, plain: bytes | None) -> bytes | None:
        if plain is None or self._check(block, plain):
            return plain
        self._inner.evict(block)
        return None


def ensure_verified(cache: BlockCache, check: BlockCheck = check_plainly) -> BlockCache:
    """Return `cache` itself if it verifies its blocks, else wrapped so that they are checked."""
    return cache if cache.verifies else VerifyingCache(cache, check)


def _bytes_or_none(result: object) -> bytes | None:
    if result is None or isinstance(result, bytes):
        return result
    if isinstance(result, bytearray | memoryview):
        return bytes(result)
    raise TypeError(f"a block must be bytes, not {type(result).__name__}")


def _part_or_none(result: object, length: int) -> Buffer | None:
    if result is None:
        return None
    if not isinstance(result, bytes | bytearray | memoryview):
        raise TypeError(f"a part must be bytes, not {type(result).__name__}")
    if len(result) != length:
        raise ValueError(f"a part of {length} bytes was requested, and {len(result)} bytes were returned")
    return result


def _requested_only(result: Mapping[BlockHash, object], requested: list[BlockHash]) -> dict[BlockHash, bytes]:
    wanted = set(requested)
    found = ((block, _bytes_or_none(plain)) for block, plain in result.items() if block in wanted)
    return {block: plain for block, plain in found if plain is not None}
