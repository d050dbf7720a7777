# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy that stands before an S3 server and counts the requests that pass, by operation.

Every byte is forwarded as it came, so signatures stay good: a server that checks the host gets the client's. HTTP/1.1
with a content length is understood; that is what S3 clients send. One thread runs an event loop; the counters are
only written there.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

PIECE_BYTES = 1 << 18


class CountingProxy:
    """Made by `counting_proxy`; `endpoint_url` is what clients are pointed at."""

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        self._upstream = (upstream.hostname or "127.0.0.1", upstream.port or 80)
        self._counts: Counter[str] = Counter()
        self._connections: set[asyncio.Task[None]] = set()
        self.endpoint_url = ""

    def count(self) -> dict[str, int]:
        """Requests so far, by operation."""
        return dict(self._counts)

    async def start(self) -> asyncio.Server:
        """Listens on a free port of this machine."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=PIECE_BYTES)
        self.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def stop(self, server: asyncio.Server) -> None:
        """Ends listening, and every connection."""
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        answers = None
        try:
            server, to_server = await asyncio.open_connection(*self._upstream)
            answers = asyncio.create_task(_pass_on(server, to_client))
            while await self._forward_request(client, to_server):
                pass
            to_server.write_eof()
            await answers
        except (OSError, asyncio.IncompleteReadError):
            return  # one side hung up; the other sees its connection close
        finally:
            if answers is not None:
                answers.cancel()
                to_server.close()
            to_client.close()
            self._connections.discard(task)

    async def _forward_request(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> bool:
        """Forwards one request and counts it; False at the end of the connection."""
        try:
            head = await client.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        self._counts[operation_of(head)] += 1
        to_server.write(head)
        left = body_length(head)
        while left:
            piece = await client.read(min(left, PIECE_BYTES))
            if not piece:
                return False
            left -= len(piece)
            to_server.write(piece)
            await to_server.drain()
        return True


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE_BYTES):
            target.write(piece)
            await target.drain()
        target.close()


def operation_of(head: bytes) -> str:
    """What the request of this HTTP head is for: LIST, DELETE-MANY, or its method."""
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
        ValueError: the body comes in pieces of unknown number.
    """
    headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"transfer-encoding" in headers:
        raise ValueError("a body without a content length cannot be forwarded")
    return int(headers.get(b"content-length", b"0"))


@contextlib.contextmanager
def counting_proxy(upstream_url: str) -> Iterator[CountingProxy]:
    """A proxy before the server at `upstream_url`, for the length of the context."""
    proxy = CountingProxy(upstream_url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="counting-proxy", daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(proxy.start(), loop).result()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
