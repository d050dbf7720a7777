# SPDX-License-Identifier: GPL-3.0-or-later
"""A real nginx as a cache, with the configuration that the documentation gives."""

import time
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from cas3fs.caches import BlockCache
from cas3fs.caches.web import WebCache
from cas3fs.metrics import Metrics
from cas3fs.testing.contracts.blockcache import BlockCacheContract
from tests.caches.conftest import make_block
from tests.caches.nginx import Nginx, nginx

VOLUME = str(uuid.UUID(int=7))
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture
def cache(server: Nginx, metrics: Metrics) -> Iterator[BlockCache]:
    with closing(WebCache(f"{server.url}/blocks", VOLUME, metrics=metrics, timeout_s=5, slow_s=2)) as cache:
        yield cache


class TestNginx(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self, server: Nginx) -> Iterator[BlockCache]:
        cache = WebCache(f"{server.url}/blocks", str(uuid.uuid4()), metrics=Metrics(), timeout_s=5, slow_s=2)
        with closing(cache):
            yield cache


def test_a_block_of_the_largest_size_can_be_stored(cache: BlockCache, metrics: Metrics) -> None:
    block, plain = make_block(1, 16 * MIB)
    cache.put(block, plain)
    assert cache.get(block) == plain
    assert metrics.snapshot()["cache.web.refused_puts"] == 0


def test_a_corrupt_file_on_the_server_is_a_miss_and_is_deleted(server: Nginx, cache: BlockCache) -> None:
    block, plain = make_block(2, 100_000)
    cache.put(block, plain)
    (file,) = [path for path in server.files() if path.name == block.hex() and VOLUME in path.parts]
    file.write_bytes(plain[:-1] + bytes([plain[-1] ^ 1]))
    assert cache.get(block) is None
    assert not file.exists()
    cache.put(block, plain)
    assert cache.get(block) == plain


def test_a_hanging_server_costs_one_timeout(server: Nginx, metrics: Metrics) -> None:
    block, plain = make_block(3)
    with closing(WebCache(f"{server.url}/blocks", VOLUME, metrics=metrics, timeout_s=0.2, slow_s=2)) as cache:
        cache.put(block, plain)
        server.pause()
        try:
            started_s = time.monotonic()
            assert [cache.get(block) for _ in range(100)] == [None] * 100
            assert time.monotonic() - started_s < 1
        finally:
            server.resume()
        deadline_s = time.monotonic() + 10
        while cache.get(block) != plain:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
