# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks on a web server that supports GET and PUT, such as nginx with ``dav_methods PUT DELETE``.

The plain bytes of a block lie under ``<base path>/<volume uuid>/<first two digits of the hash>/<hash>``. They are
checked against the hash, so neither the server nor any proxy needs to be trusted. HEAD checks whether a block exists,
and DELETE removes a corrupt one; a server may refuse both. `cas3fs.caches.server_health` describes what a server that
is down or slow costs. The spec::

    web+http://[USER:PASSWORD@]HOST[:PORT]/PATH[?timeout=250ms][&slow=100ms]     or web+https://...
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from cas3fs.caches.base import LARGEST_VALUE_BYTES, BlockCache, BlockCheck, check_plainly
from cas3fs.caches.server_health import HealthMonitor, ServerHealth
from cas3fs.caches.specs import CacheContext, CacheSpec
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from cas3fs.units import parse_duration
from cas3fs.values import BlockHash, Buffer

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

DEFAULT_TIMEOUT_S = 0.25
DEFAULT_SLOW_S = 0.1
WRITE_TIMEOUT_S = 5.0
CONNECT_WAIT_S = 0.5
LONGEST_ANSWER_S = 10.0
_PIECE_BYTES = 256 * 1024
CONNECTIONS = 16
CHECKED_AT_ONCE = 64
"""`contains_many` checks only so many blocks; the rest of a longer list count as absent."""
_OK, _SERVER_ERROR = 200, 500


class WebCache(BlockCache):
    """Blocks of `volume` below `url`; thread-safe. The server is down until it has answered for the first time."""

    name = "web"
    verifies = True
    remote = True

    def __init__(
        self,
        url: str,
        volume: str,
        *,
        metrics: Metrics,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        slow_s: float = DEFAULT_SLOW_S,
        check: BlockCheck = check_plainly,
    ) -> None:
        """Connect to `url`, which begins with ``http://`` or ``https://``.

        Raises:
            UsageError: it does not.
        """
        import urllib3

        self._check = check
        shown, self._headers = _split_url(url)
        self._base = shown + volume
        self._http = urllib3.PoolManager(CONNECTIONS, maxsize=CONNECTIONS, retries=False)
        self._reading = urllib3.Timeout(connect=timeout_s, read=timeout_s)
        self._writing = urllib3.Timeout(connect=timeout_s, read=WRITE_TIMEOUT_S)
        self._checkers = ThreadPoolExecutor(CONNECTIONS, "cas3fs-web-cache")
        self._corrupt = metrics.counter("cache.web.rotten")
        self._refused = metrics.counter("cache.web.refused_puts")
        self._monitor = HealthMonitor()
        self._health = ServerHealth(shown, self._probe, slow_s, self._monitor, metrics)
        self._monitor.start([self._health], CONNECT_WAIT_S)

    @classmethod
    def from_spec(cls, spec: CacheSpec, context: CacheContext) -> "WebCache":
        """Make the cache that the spec ``web+http://...`` or ``web+https://...`` describes.

        Raises:
            UsageError: the spec is invalid.
        """
        spec.allow_options("timeout", "slow")
        return cls(
            f"{spec.name.removeprefix('web+')}:{spec.argument}",
            context.volume,
            metrics=context.metrics,
            timeout_s=spec.option("timeout", parse_duration, DEFAULT_TIMEOUT_S),
            slow_s=spec.option("slow", parse_duration, DEFAULT_SLOW_S),
            check=context.check,
        )

    def get(self, block: BlockHash) -> bytes | None:
        """Return the block, checked against its hash; any other body is corrupt and is deleted."""
        answer = self._send("GET", block)
        if answer is None:
            return None
        status, body = answer
        if status != _OK:
            return None
        if self._check(block, body):
            return body
        self._corrupt.add()
        self.evict(block)
        return None

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """PUT the block, unless the server refuses it."""
        if len(plain) > LARGEST_VALUE_BYTES:
            return
        answer = self._send("PUT", block, plain if isinstance(plain, bytes) else bytes(plain))
        if answer is not None and answer[0] >= 300:
            self._refused.add()

    def contains(self, block: BlockHash) -> bool:
        """Return whether HEAD finds the block."""
        answer = self._send("HEAD", block)
        return answer is not None and answer[0] == _OK

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Return those of the first `CHECKED_AT_ONCE` blocks that HEAD finds; several requests run at once."""
        checked = list(blocks)[:CHECKED_AT_ONCE] if self._health.up else []
        try:
            return {
                block for block, found in zip(checked, self._checkers.map(self.contains, checked), strict=True) if found
            }
        except RuntimeError:  # the cache was closed
            return set()

    def evict(self, block: BlockHash) -> None:
        """DELETE the block, unless the server refuses."""
        self._send("DELETE", block)

    @property
    def size_bytes(self) -> int:
        """0: only the server knows."""
        return 0

    def close(self) -> None:
        """End the probes, and close all connections."""
        self._monitor.close()
        self._health.up = False
        self._checkers.shutdown(wait=True, cancel_futures=True)
        self._http.clear()

    def _send(self, method: str, block: BlockHash, body: bytes | None = None) -> tuple[int, bytes] | None:
        """Return status and body; None if the server is down, or this request has taken it down."""
        if not self._health.up:
            return None
        name = block.hex()
        try:
            answer, waited_s = self._request(method, f"{self._base}/{name[:2]}/{name}", body)
        except Exception as error:  # noqa: BLE001  (urllib3 raises its own errors, and those of sockets and codecs)
            self._health.record_failure(error)
            return None
        if answer[0] >= _SERVER_ERROR and method == "GET":
            self._health.record_failure(_server_error(answer[0]))
            return None
        if method == "GET":
            self._health.record_response(waited_s)
        return answer

    def _request(self, method: str, url: str, body: bytes | None) -> tuple[tuple[int, bytes], float]:
        """Return the answer, and the time until its first byte."""
        started_s = time.monotonic()
        timeout = self._reading if body is None else self._writing
        response = self._http.request(
            method,
            url,
            body=body,
            headers=self._headers,
            timeout=timeout,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        waited_s = time.monotonic() - started_s
        try:
            return (response.status, _limited_body(response)), waited_s
        finally:
            response.release_conn()

    def _probe(self) -> None:
        """Request a block that does not exist; any answer but a server error is good.

        Raises:
            OSError: the server answers with a server error.
            urllib3.exceptions.HTTPError: it does not answer.
        """
        (status, _), _ = self._request("GET", f"{self._base}/00/{'0' * 64}", None)
        if status >= _SERVER_ERROR:
            raise _server_error(status)


def _server_error(status: int) -> OSError:
    return OSError(f"it answers with status {status}")


def _limited_body(response: "BaseHTTPResponse") -> bytes:
    """Read the whole body.

    Raises:
        OSError: it is larger than any block, or does not end.
        urllib3.exceptions.HTTPError: it is incomplete.
    """
    deadline_s = time.monotonic() + LONGEST_ANSWER_S
    pieces, size_bytes = [], 0
    while piece := response.read1(_PIECE_BYTES):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > LARGEST_VALUE_BYTES or time.monotonic() > deadline_s:
            response.close()
            raise OSError("its answer is larger than any block, or takes too long")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _split_url(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL without user and password, and the headers that authenticate the user."""
    parts: Any = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.fragment:
        raise UsageError(f"{url!r} names no web server; write web+http://HOST/PATH")
    host = f"[{host}]" if ":" in host else host
    place = host if port is None else f"{host}:{port}"
    shown = urlunsplit((parts.scheme, place, f"{parts.path.rstrip('/')}/", "", ""))
    headers = {}
    if parts.username is not None:
        from urllib3.util import make_headers

        headers = dict(make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}"))
    return shown, headers
