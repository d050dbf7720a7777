# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches to test, and blocks to put in them."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from cas3fs.caches import DiskCache
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash

Block = tuple[BlockHash, bytes]


def make_block(seed: int, length: int = 4096) -> Block:
    plain = random.Random(seed).randbytes(length)
    return BlockHash(blake3(plain).digest()), plain


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def open_disk(tmp_path: Path, metrics: Metrics) -> Iterator[Callable[..., DiskCache]]:
    """Opens (again and again) the disk cache in one directory, ready to use; all are closed at the end."""
    opened: list[DiskCache] = []

    def open_cache(limit_bytes: int = 1 << 30, **options: int) -> DiskCache:
        cache = DiskCache(tmp_path / "cache", limit_bytes, metrics=metrics, **({"keep_free_bytes": 0} | options))
        assert cache.wait_ready(30)
        opened.append(cache)
        return cache

    yield open_cache
    for cache in opened:
        cache.close()


@pytest.fixture
def disk(open_disk: Callable[..., DiskCache]) -> DiskCache:
    return open_disk()
