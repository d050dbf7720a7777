# SPDX-License-Identifier: GPL-3.0-or-later
"""Every cache passes the contract of caches, on fakes and on real servers."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.caches import BlockCache, DiskCache, MemoryCache, TieredCache, VerifyingCache
from cas3fs.caches.base import accept_any, check_plainly
from cas3fs.caches.memcached import MemcachedCache
from cas3fs.caches.registry import CacheSeals, make_caches, parse_caches
from cas3fs.caches.sealed import SealedCache
from cas3fs.caches.specs import CacheContext
from cas3fs.caches.web import WebCache
from cas3fs.caches.wrappers import FaultTolerantCache
from cas3fs.metrics import Metrics
from cas3fs.testing.contracts.blockcache import BlockCacheContract
from cas3fs.testing.fake_memcached import FakeMemcached
from cas3fs.testing.servers import MemcachedProcess
from tests.caches.conftest import disk_seal_of, seal_of
from tests.caches.nginx import nginx
from tests.caches.web_server import WebServer

PATIENT = {"timeout_s": 5.0, "slow_s": 2.0}
"""A busy machine must not fail a test."""


class TestMemory(BlockCacheContract):
    @pytest.fixture
    def cache(self) -> BlockCache:
        return MemoryCache(1 << 24)


class TestDisk(BlockCacheContract):
    @pytest.fixture
    def cache(self, disk: DiskCache) -> BlockCache:
        return disk


class TestSealedDisk(BlockCacheContract):
    @pytest.fixture
    def cache(self, open_disk: Callable[..., DiskCache]) -> BlockCache:
        return open_disk(seal=disk_seal_of(uuid.uuid4()))


class TestTiered(BlockCacheContract):
    @pytest.fixture
    def cache(self, open_disk: Callable[..., DiskCache]) -> BlockCache:
        return TieredCache([MemoryCache(1 << 24), open_disk()], metrics=Metrics())


class TestVerifying(BlockCacheContract):
    @pytest.fixture
    def cache(self) -> BlockCache:
        return VerifyingCache(MemoryCache(1 << 24))


class TestFaultTolerant(BlockCacheContract):
    @pytest.fixture
    def cache(self) -> BlockCache:
        return FaultTolerantCache(MemoryCache(1 << 24), "tolerant", Metrics())


class TestMemcachedOnTheFake(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self) -> Iterator[BlockCache]:
        fake = FakeMemcached()
        servers = [("127.0.0.1", 11211)]
        cache = MemcachedCache(servers, str(uuid.uuid4()), metrics=Metrics(), client_factory=fake.twin, slow_s=1)
        with closing(cache):
            yield cache


class TestMemcachedOnRealServers(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self, real_memcached: MemcachedProcess, other_memcached: MemcachedProcess) -> Iterator[BlockCache]:
        servers = [real_memcached.address, other_memcached.address]
        options = {"timeout_s": 2.0, "slow_s": 1.0}  # a busy machine must not fail the test
        with closing(MemcachedCache(servers, str(uuid.uuid4()), metrics=Metrics(), **options)) as cache:
            yield cache


class TestWeb(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self, web: WebServer) -> Iterator[BlockCache]:
        cache = WebCache(f"{web.url}/blocks", str(uuid.uuid4()), metrics=Metrics(), timeout_s=5, slow_s=2)
        with closing(cache):
            yield cache


class TestSealedMemory(BlockCacheContract):
    @pytest.fixture
    def cache(self) -> BlockCache:
        return sealed(MemoryCache(1 << 24))


class TestSealedMemcachedOnTheFake(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self) -> Iterator[BlockCache]:
        options = {"client_factory": FakeMemcached().twin, "check": accept_any, **PATIENT}
        with closing(MemcachedCache([("127.0.0.1", 11211)], "sealed", metrics=Metrics(), **options)) as cache:
            yield sealed(cache)


class TestSealedMemcachedOnRealServers(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self, real_memcached: MemcachedProcess, other_memcached: MemcachedProcess) -> Iterator[BlockCache]:
        servers = [real_memcached.address, other_memcached.address]
        with closing(MemcachedCache(servers, "sealed", metrics=Metrics(), check=accept_any, **PATIENT)) as cache:
            yield sealed(cache)


class TestSealedWeb(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self, web: WebServer) -> Iterator[BlockCache]:
        url = f"{web.url}/blocks"
        with closing(WebCache(url, "sealed", metrics=Metrics(), check=accept_any, **PATIENT)) as cache:
            yield sealed(cache)


class TestSealedNginx(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Iterator[BlockCache]:
        with nginx(tmp_path) as server:
            url = f"{server.url}/blocks"
            with closing(WebCache(url, "sealed", metrics=Metrics(), check=accept_any, **PATIENT)) as cache:
                yield sealed(cache)


def sealed(inner: BlockCache) -> BlockCache:
    """A cache as the registry wraps it in an encrypted volume, with keys of its own."""
    return SealedCache(
        FaultTolerantCache(inner, inner.name, Metrics()), seal_of(uuid.uuid4()), check_plainly, Metrics()
    )


class TestAList(BlockCacheContract):
    """Disk, memcached and web as one cache, as in a mount."""

    seals: CacheSeals | None = None

    @pytest.fixture
    def cache(self, web: WebServer, real_memcached: MemcachedProcess, tmp_path: Path) -> Iterator[BlockCache]:
        slow = "?timeout=2s&slow=1s"
        specs = ["memory:1MiB", "disk:64MiB", real_memcached.spec + slow, f"web+{web.url}/blocks{slow}"]
        context = CacheContext(str(uuid.uuid4()), tmp_path / "disk", Metrics())
        cache = make_caches(parse_caches(specs).tiers, context, self.seals)
        assert cache is not None
        with closing(cache):
            yield cache


class TestASealedList(TestAList):
    """The same in an encrypted volume."""

    seals = CacheSeals(seal_of(uuid.uuid4()), disk_seal_of(uuid.uuid4()))
