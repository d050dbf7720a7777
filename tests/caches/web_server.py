# SPDX-License-Identifier: GPL-3.0-or-later
"""A small web server that supports GET, HEAD, PUT and DELETE, as nginx with WebDAV does, and can fail or hang."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebServer(ThreadingHTTPServer):
    """Stores what is PUT in `files`; answers every request with the status `failure` when that is set."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.seen_headers: list[dict[str, str]] = []
        self.failure: int | None = None
        self.hold = threading.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Handles the requests of one connection in turn."""

    server: WebServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer_with_body(self.command == "GET")

    do_HEAD = do_GET  # noqa: N815

    def _answer_with_body(self, with_body: bool) -> None:
        body = self.server.files.get(self.path)
        self._answer(404 if body is None else 200, body or b"", with_body)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.failure is None:
            self.server.files[self.path] = body
        self._answer(201, b"")

    def do_DELETE(self) -> None:
        self._answer(204 if self.server.files.pop(self.path, None) is not None else 404, b"")

    def _answer(self, status: int, body: bytes, with_body: bool = True) -> None:
        self.server.requests.append(self.command)
        self.server.seen_headers.append(dict(self.headers))
        self.server.hold.wait(5)
        if self.server.failure is not None:
            status, body = self.server.failure, b""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Tests say what they have to say."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A server on a free port."""
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
