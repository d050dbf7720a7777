# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server as a cache."""

import base64
import time
import uuid
from collections.abc import Callable
from contextlib import closing

import pytest

from cas3fs.caches.web import WebCache
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from tests.caches.conftest import make_block
from tests.caches.web_server import WebServer

VOLUME = str(uuid.UUID(int=7))


def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_block_lies_under_the_volume_and_its_hash(web: WebServer, metrics: Metrics) -> None:
    block, plain = make_block(1)
    with closing(WebCache(f"{web.url}/a/b/", VOLUME, metrics=metrics)) as cache:
        cache.put(block, plain)
    assert web.files == {f"/a/b/{VOLUME}/{block.hex()[:2]}/{block.hex()}": plain}


def test_a_corrupt_block_is_a_miss_and_is_deleted(web: WebServer, metrics: Metrics) -> None:
    block, plain = make_block(1)
    with closing(WebCache(web.url, VOLUME, metrics=metrics)) as cache:
        for corrupt in (b"", plain[:-1], plain + b"x", plain[:100] + bytes(len(plain) - 100)):
            cache.put(block, plain)
            web.files = dict.fromkeys(web.files, corrupt)
            assert cache.get(block) is None
            assert web.files == {}
    assert metrics.snapshot()["cache.web.rotten"] == 4


@pytest.mark.parametrize("status", [500, 503])
def test_a_failing_server_gets_one_request_and_is_used_again_later(
    web: WebServer, metrics: Metrics, status: int
) -> None:
    block, plain = make_block(1)
    with closing(WebCache(web.url, VOLUME, metrics=metrics)) as cache:
        cache.put(block, plain)
        web.failure = status
        before = web.requests.count("GET")
        assert [cache.get(block) for _ in range(20)] == [None] * 20
        assert web.requests.count("GET") <= before + 2  # one, and perhaps a probe
        web.failure = None
        until(lambda: cache.get(block) == plain)


def test_a_server_that_refuses_to_store_blocks_is_not_down(web: WebServer, metrics: Metrics) -> None:
    block, plain = make_block(1)
    web.failure = 403
    with closing(WebCache(web.url, VOLUME, metrics=metrics)) as cache:
        cache.put(block, plain)
        assert cache.get(block) is None
        assert not cache.contains(block)
    assert metrics.snapshot()["cache.web.refused_puts"] == 1


def test_a_hanging_server_costs_one_timeout(web: WebServer, metrics: Metrics) -> None:
    block, plain = make_block(1)
    with closing(WebCache(web.url, VOLUME, metrics=metrics, timeout_s=0.1)) as cache:
        cache.put(block, plain)
        web.hold.clear()
        started_s = time.monotonic()
        assert [cache.get(block) for _ in range(100)] == [None] * 100
        assert time.monotonic() - started_s < 0.5
        web.hold.set()
        until(lambda: cache.get(block) == plain)


def test_the_password_is_sent_and_not_logged(
    web: WebServer, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    url = web.url.replace("http://", "http://me:s%40cret@")
    with closing(WebCache(url, VOLUME, metrics=metrics)) as cache:
        cache.get(make_block(1)[0])
        web.failure = 500
        cache.get(make_block(1)[0])
    expected = "Basic " + base64.b64encode(b"me:s@cret").decode()
    sent = [value for headers in web.seen_headers for name, value in headers.items() if name.lower() == "authorization"]
    assert set(sent) == {expected}
    assert "127.0.0.1" in caplog.text
    assert "cret" not in caplog.text


def test_of_very_many_blocks_only_the_first_are_checked(web: WebServer, metrics: Metrics) -> None:
    blocks = [make_block(seed, 10)[0] for seed in range(1000)]
    with closing(WebCache(web.url, VOLUME, metrics=metrics)) as cache:
        assert cache.contains_many(blocks) == set()
    assert web.requests.count("HEAD") == 64


@pytest.mark.parametrize("url", ["ftp://host/x", "http://", "http://host:port/x", "http://host/x#y"])
def test_an_invalid_url_is_refused(metrics: Metrics, url: str) -> None:
    with pytest.raises(UsageError):
        WebCache(url, VOLUME, metrics=metrics)
