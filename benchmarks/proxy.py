# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy before an S3 server: it counts requests by operation, and delays each of them.

Every byte is forwarded unchanged, so signatures stay valid: a server that checks the host gets the client's. The proxy
understands HTTP/1.1 with a content length, which is what S3 clients send. Replies are passed from socket to socket
inside the kernel (splice), so the proxy is no bottleneck. For each connection one thread reads requests and another
passes replies back. One lock guards the counts and the set of open sockets, and nothing else is done under it.
"""

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from typing import Any
from urllib.parse import parse_qs, urlsplit

PIECE_BYTES = 1 << 20


class Proxy:
    """Made by `proxy`; clients use `endpoint_url`."""

    def __init__(self, upstream_url: str, delay_s: float) -> None:
        upstream = urlsplit(upstream_url)
        self.delay_s = delay_s
        self._upstream = (upstream.hostname or "127.0.0.1", upstream.port or 80)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    def count(self) -> dict[str, int]:
        """Requests so far, by operation."""
        with self._lock:
            return dict(self._counts)

    def close(self) -> None:
        """Close the listener and every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._accepting.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._upstream) as server:
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            replies = threading.Thread(target=_pass_back, args=(server, client), daemon=True)
            replies.start()
            try:
                with BufferedReader(client.makefile("rb", 0), PIECE_BYTES) as requests:
                    while head := _read_head(requests):
                        self._pass_on(head, requests, server)
            finally:
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                replies.join()
                with self._lock:
                    self._open -= {client, server}

    def _pass_on(self, head: bytes, requests: "BufferedReader[Any]", server: socket.socket) -> None:
        with self._lock:
            self._counts[operation_of(head)] += 1
        time.sleep(self.delay_s)
        server.sendall(head)
        left = body_length(head)
        while left:
            piece = requests.read1(min(left, PIECE_BYTES))
            if not piece:
                return
            left -= len(piece)
            server.sendall(piece)


def _read_head(requests: "BufferedReader[Any]") -> bytes:
    """The head of the next request; empty at the end."""
    lines = []
    while line := requests.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _pass_back(server: socket.socket, client: socket.socket) -> None:
    reading, writing = os.pipe()
    try:
        with contextlib.suppress(OSError):
            while count := os.splice(server.fileno(), writing, PIECE_BYTES):
                while count:
                    count -= os.splice(reading, client.fileno(), count)
            client.shutdown(socket.SHUT_WR)
    finally:
        os.close(reading)
        os.close(writing)


def operation_of(head: bytes) -> str:
    """The operation of the request with this HTTP head: LIST, DELETE-MANY, or its method."""
    method, target = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    if method == "GET" and query.keys() & {"list-type", "prefix", "delimiter", "max-keys"}:
        return "LIST"
    if method == "POST" and "delete" in query:
        return "DELETE-MANY"
    return method


def body_length(head: bytes) -> int:
    """How many bytes follow the HTTP head.

    Raises:
        ValueError: the body is chunked, so its length is unknown.
    """
    headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"transfer-encoding" in headers:
        raise ValueError("a body without a content length cannot be forwarded")
    return int(headers.get(b"content-length", b"0"))


@contextlib.contextmanager
def proxy(upstream_url: str, delay_s: float = 0.0) -> Iterator[Proxy]:
    """A proxy before the server at `upstream_url` that delays each request, for the duration of the context."""
    server = Proxy(upstream_url, delay_s)
    try:
        yield server
    finally:
        server.close()
