# SPDX-License-Identifier: GPL-3.0-or-later
"""Transfers over a slow line take long, but do not time out."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest

from cas3fs.config import StoreSettings
from cas3fs.errors import StoreUnreachable
from cas3fs.metrics import Metrics
from cas3fs.objectstores import Body, open_store
from cas3fs.objectstores.s3 import S3Store
from cas3fs.testing.servers import REGION

LIMIT_S = 0.3
"""The timeout of the connection."""
SIZE = 6 << 20
STEP = 64 << 10
ANSWER = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'


class SlowServer:
    """Receives `bytes_per_s` of each request, and perhaps closes the connection near the end."""

    def __init__(self, bytes_per_s: int, *, breaks: bool) -> None:
        self.bytes_per_s = bytes_per_s
        self.breaks = breaks
        self._done = threading.Event()
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STEP)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.endpoint_url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(STEP)
        left = SIZE - len(head.partition(b"\r\n\r\n")[2])
        while left > 0:
            left -= len(connection.recv(min(STEP, left)))
            self._done.wait(STEP / self.bytes_per_s)
            if left < STEP and self.breaks:
                return
        connection.sendall(ANSWER)

    def close(self) -> None:
        self._done.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@contextmanager
def slow_store(server: SlowServer) -> Iterator[S3Store]:
    settings = StoreSettings("s3://bucket", server.endpoint_url, "key", "secret", REGION)
    with closing(server), closing(S3Store("bucket", "", settings)) as store:
        yield store


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas3fs.objectstores.s3._CONNECT_TIMEOUT_S", LIMIT_S)


@pytest.mark.promise("time-limits-are-for-standstill")
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, BytesIO])
def test_a_put_may_take_longer_than_any_step_of_it(make: Callable[[bytes], Body]) -> None:
    with slow_store(SlowServer(bytes_per_s=4 * SIZE // 3, breaks=False)) as store:
        store.put_if_absent("a", make(bytes(SIZE)))  # the connection alone would give it LIMIT_S


@pytest.mark.promise("time-limits-are-for-standstill")
def test_a_failed_put_reports_how_long_it_was_in_transfer() -> None:
    with slow_store(SlowServer(bytes_per_s=2 * SIZE, breaks=True)) as store, pytest.raises(StoreUnreachable) as caught:
        store.put_if_absent("a", bytes(SIZE))
    assert 0.2 < caught.value.transfer_s < 5


@contextmanager
def silent_after(answers: int, silence_s: float) -> Iterator[str]:
    """The endpoint of a server that responds at once to some requests, and to later ones after `silence_s`."""
    ended = threading.Event()
    left = [answers]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            left[0] -= 1
            if left[0] < 0:
                ended.wait(silence_s)
            self.send_response(200)
            for name, value in (("ETag", '"x"'), ("Last-Modified", "Sat, 01 Jan 2022 00:00:00 GMT")):
                self.send_header(name, value)
            self.send_header("Content-Length", "5")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


@pytest.mark.promise("commands-wait-for-signs-of-life")
def test_a_silent_server_is_given_up_after_the_time_for_the_first_response() -> None:
    with silent_after(0, 60) as endpoint_url:
        settings = StoreSettings("s3://bucket/v", endpoint_url, "key", "secret", REGION, first_response_s=1)
        with closing(open_store(settings, metrics=Metrics())) as store:
            begin_s = time.monotonic()
            with pytest.raises(StoreUnreachable, match="no response within 1 s"):
                store.head("key")
            assert time.monotonic() - begin_s < 20


@pytest.mark.promise("commands-wait-for-signs-of-life")
def test_after_the_first_response_the_usual_timeouts_hold() -> None:
    with silent_after(1, 2) as endpoint_url:
        settings = StoreSettings("s3://bucket", endpoint_url, "key", "secret", REGION, first_response_s=0.5)
        with closing(S3Store("bucket", settings=settings)) as store:
            assert [store.head("key").size for _ in range(2)] == [5, 5]
