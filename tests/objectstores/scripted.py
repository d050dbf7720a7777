# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP server that responds with the replies of a script, and records the requests."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Reply(NamedTuple):
    """A scripted response."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    missing_bytes: int = 0
    """How many more bytes are announced than sent before the connection is closed."""
    cut: bool = False
    """No response: the connection is closed."""


class Asked(NamedTuple):
    """A recorded request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Script:
    """The remaining replies, in order; the last one is repeated."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[Asked] = []
        self.endpoint_url = ""

    def next_reply(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def error(status: int, code: str, message: str = "said the server") -> Reply:
    """An error response of an S3 server."""
    return Reply(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())


@contextmanager
def serve() -> Iterator[Script]:
    """The server, on a free port, for the length of the context."""
    script = Script()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(script))
    script.endpoint_url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # the older one does not know "Expect: 100-continue"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = script.next_reply(Asked(self.command, self.path, headers, body))
            self.close_connection = True
            if reply.cut:
                return
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(reply.body) + reply.missing_bytes))
            self.send_header("Connection", "close")
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

    return Handler
