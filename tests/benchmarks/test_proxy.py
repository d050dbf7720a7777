# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy that counts and delays requests."""

import http.client
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.proxy import body_length, operation_of, proxy


class Echo(http.server.BaseHTTPRequestHandler):
    """Replies to every request with its body."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture
def upstream_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_requests_are_forwarded_unchanged_and_counted(upstream_url: str) -> None:
    body = bytes(range(256)) * 4096
    with proxy(upstream_url) as front:
        connection = http.client.HTTPConnection(front.endpoint_url.removeprefix("http://"), timeout=10)
        for _ in range(2):
            connection.request("PUT", "/bucket/key", body)
            assert connection.getresponse().read() == body
        connection.request("GET", "/bucket?list-type=2&prefix=packs%2F")
        assert connection.getresponse().read() == b""
        connection.close()
        assert front.count() == {"PUT": 2, "LIST": 1}


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("GET /b/k HTTP/1.1", "GET"),
        ("GET /b?list-type=2 HTTP/1.1", "LIST"),
        ("POST /b?delete HTTP/1.1", "DELETE-MANY"),
        ("HEAD /b/k HTTP/1.1", "HEAD"),
    ],
)
def test_operations_are_recognized(line: str, operation: str) -> None:
    assert operation_of(f"{line}\r\nHost: x\r\n\r\n".encode()) == operation


def test_a_chunked_body_is_refused() -> None:
    assert body_length(b"PUT / HTTP/1.1\r\nContent-Length: 12\r\n\r\n") == 12
    with pytest.raises(ValueError, match="content length"):
        body_length(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_every_request_is_delayed(upstream_url: str) -> None:
    with proxy(upstream_url, delay_s=0.05) as front:
        connection = http.client.HTTPConnection(front.endpoint_url.removeprefix("http://"), timeout=10)
        started_s = time.monotonic()
        for _ in range(3):
            connection.request("GET", "/bucket/key")
            connection.getresponse().read()
        connection.close()
        assert time.monotonic() - started_s >= 0.15
