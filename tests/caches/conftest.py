# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches, and blocks for them."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cas3fs.caches import DiskCache
from cas3fs.encryption.ciphers import AES_256_GCM
from cas3fs.encryption.disk_cache import DiskCacheSeal
from cas3fs.encryption.shared_caches import SharedCacheSeal
from cas3fs.metrics import Metrics
from cas3fs.testing.contracts.blockcache import Block, make_block
from cas3fs.testing.servers import MemcachedProcess, memcached
from tests.caches.web_server import WebServer, web_server

__all__ = ["Block", "make_block"]


def seal_of(volume: uuid.UUID, cipher: str = AES_256_GCM) -> SharedCacheSeal:
    """What seals the blocks of a volume for shared caches; the same for the same uuid."""
    return SharedCacheSeal(volume.bytes * 2, cipher)


def disk_seal_of(volume: uuid.UUID, cipher: str = AES_256_GCM) -> DiskCacheSeal:
    """What seals the disk cache of a volume; the same for the same uuid."""
    return DiskCacheSeal(volume.bytes * 2, cipher)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def open_disk(tmp_path: Path, metrics: Metrics) -> Iterator[Callable[..., DiskCache]]:
    """A function that opens the disk cache in one directory, ready to use; all are closed at the end."""
    opened: list[DiskCache] = []

    def open_cache(limit_bytes: int = 1 << 30, **options: Any) -> DiskCache:
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


@pytest.fixture(scope="session")
def real_memcached() -> Iterator[MemcachedProcess]:
    """A real memcached; each test uses the keys of its own volume."""
    with memcached() as server:
        yield server


@pytest.fixture(scope="session")
def other_memcached() -> Iterator[MemcachedProcess]:
    """A second one."""
    with memcached() as server:
        yield server


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server that stores what is PUT."""
    with web_server() as server:
        yield server
