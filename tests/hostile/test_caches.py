# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches with arbitrary contents and replies: a miss, never a wrong byte, and bounded memory and time."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas3fs.caches import DiskCache, memcached_servers, web
from cas3fs.caches.base import BlockCache
from cas3fs.caches.memcached import MemcachedCache
from cas3fs.caches.web import WebCache
from cas3fs.metrics import Metrics
from cas3fs.testing.contracts.blockcache import make_block
from cas3fs.testing.fake_memcached import FakeMemcached, FakeMemcachedServer
from tests.hostile.mutations import Edit, edits, harmed

BLOCK, PLAIN = make_block(1, 70_000)
VOLUME = "00000000-0000-0000-0000-000000000001"
HUGE_BYTES = 1 << 40
DEADLINE_S = 30.0


def check(cache: BlockCache, skip: int, length: int) -> None:
    """Every read returns the right bytes, or None."""
    assert cache.get(BLOCK) in (None, PLAIN)
    part = cache.get_part(BLOCK, skip, length)
    assert part is None or bytes(part) == PLAIN[skip : skip + length]
    assert cache.get_many([BLOCK]) in ({}, {BLOCK: PLAIN})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskCache]:
    made = DiskCache(tmp_path / "cache", 1 << 30, metrics=Metrics(), keep_free_bytes=0)
    assert made.wait_ready(DEADLINE_S)
    yield made
    made.close()


def file_of_block(tmp_path: Path) -> Path:
    return tmp_path / "cache" / BLOCK.hex()[:2] / BLOCK.hex()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.none() | st.binary(max_size=200), changes=edits, skip=st.integers(0, 69_999))
def test_arbitrary_cache_files_are_misses_or_right(
    disk: DiskCache, tmp_path: Path, content: bytes | None, changes: list[Edit], skip: int
) -> None:
    disk.put(BLOCK, PLAIN)
    file = file_of_block(tmp_path)
    file.write_bytes(harmed(file.read_bytes(), changes) if content is None else content)
    check(disk, skip, min(1000, len(PLAIN) - skip))


def test_cache_folder_and_files_are_private(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        cache = DiskCache(tmp_path / "deep" / "cache", 1 << 30, metrics=Metrics(), keep_free_bytes=0)
        cache.put(BLOCK, PLAIN)
        cache.close()
    finally:
        os.umask(mask)
    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o077 == 0
    files = [path for path in (tmp_path / "deep" / "cache").rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o077 for path in files] == [0]


def sparse(path: Path) -> None:
    """A frame that declares, and seems to contain, more bytes than there is memory."""
    pieces = -(-HUGE_BYTES // 32768)
    with open(path, "wb") as file:
        file.write(b"c3cache\x01" + HUGE_BYTES.to_bytes(8, "little"))
        file.truncate(16 + 8 * pieces + HUGE_BYTES)


@pytest.mark.parametrize("make", [sparse, os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_cache_entry_that_is_no_file_is_a_miss_at_once(
    disk: DiskCache, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    disk.put(BLOCK, PLAIN)
    file_of_block(tmp_path).unlink()
    make(file_of_block(tmp_path))
    check(disk, 10, 1000)
    disk.put(BLOCK, PLAIN)
    check(disk, 10, 1000)


@given(number=st.integers(0, 5), content=st.none() | st.binary(max_size=200), changes=edits)
def test_arbitrary_memcached_items_are_misses_or_right(number: int, content: bytes | None, changes: list[Edit]) -> None:
    server = FakeMemcachedServer(item_bytes=20_000)
    cache = MemcachedCache(
        [("127.0.0.1", 1)],
        VOLUME,
        item_bytes=20_000,
        client_factory=FakeMemcached(server).twin,
        metrics=Metrics(),
    )
    wait_until_up(cache)
    try:
        cache.put(BLOCK, PLAIN)
        keys = sorted(server.items)
        assert keys
        key = keys[number % len(keys)]
        server.corrupt(key, harmed(server.items[key], changes) if content is None else content)
        check(cache, 10, 1000)
    finally:
        cache.close()


class RawServer:
    """Passes each request (a line, or lines up to an empty one) to `answer`, which sends arbitrary bytes."""

    def __init__(self, answer: Callable[[socket.socket, bytes], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while request := connection.recv(65536):
                    self._answer(connection, request)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)


@contextmanager
def serving(answer: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    server = RawServer(answer)
    try:
        yield server.port
    finally:
        server.close()


def drip(connection: socket.socket, byte: bytes) -> None:
    while True:
        connection.sendall(byte)
        time.sleep(0.02)


def flood(connection: socket.socket, _: bytes) -> None:
    while True:
        connection.sendall(bytes(1 << 20))


def memcached_that_answers(then: Callable[[socket.socket, bytes], None]) -> Callable[[socket.socket, bytes], None]:
    def answer(connection: socket.socket, request: bytes) -> None:
        if request.startswith(b"version"):
            connection.sendall(b"VERSION 1.6.18\r\n")
        elif request.startswith(b"get"):
            key = request.split()[1]
            connection.sendall(b"VALUE " + key + b" 0 99999999999\r\n")
            then(connection, b"x")
        else:
            connection.sendall(b"ERROR\r\n")

    return answer


@pytest.mark.parametrize("then", [drip, flood])
def test_an_endless_memcached_reply_times_out(
    then: Callable[[socket.socket, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached_servers, "LONGEST_ANSWER_S", 0.5)
    with serving(memcached_that_answers(then)) as port:
        cache = MemcachedCache([("127.0.0.1", port)], VOLUME, metrics=Metrics())
        wait_until_up(cache)
        started_s = time.monotonic()
        assert cache.get(BLOCK) is None
        assert time.monotonic() - started_s < DEADLINE_S
        cache.close()


def web_that_answers(
    head: bytes, then: Callable[[socket.socket, bytes], None]
) -> Callable[[socket.socket, bytes], None]:
    def answer(connection: socket.socket, request: bytes) -> None:
        if b"0" * 64 in request:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        connection.sendall(head)
        then(connection, b"x")

    return answer


HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
]


@pytest.mark.parametrize(
    ("head", "then"),
    [
        *((head, then) for head in HEADS for then in (drip, flood)),
        (b"nonsense", flood),
        (b"HTTP/1.1 200 OK\r\nA", flood),
    ],
)
def test_an_endless_http_reply_times_out(
    head: bytes, then: Callable[[socket.socket, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "LONGEST_ANSWER_S", 0.5)
    with serving(web_that_answers(head, then)) as port:
        cache = WebCache(f"http://127.0.0.1:{port}/", VOLUME, metrics=Metrics())
        wait_until_up(cache)
        started_s = time.monotonic()
        assert cache.get(BLOCK) is None
        assert time.monotonic() - started_s < DEADLINE_S
        cache.close()


def wait_until_up(cache: BlockCache) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_up(cache):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def is_up(cache: BlockCache) -> bool:
    if isinstance(cache, WebCache):
        return cache._health.up
    assert isinstance(cache, MemcachedCache)
    return all(server.is_up() for server in cache._servers)
