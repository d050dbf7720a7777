# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks on a web server that knows GET and PUT, such as nginx with ``dav_methods PUT DELETE``.

The plain bytes of a block lie under ``<base path>/<volume uuid>/<two first digits of the hash>/<hash>``; they are
checked against the hash, so neither the server nor anything in between has to be trusted. HEAD is used to ask
whether a block is there, DELETE to remove what is rotten; a server may refuse both. What a server costs that is down or
slow is told in `cas3fs.caches.server_health`. The spec::

    web+http://[USER:PASSWORD@]HOST[:PORT]/PATH[?timeout=250ms][&slow=100ms]     or web+https://...
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from blake3 import blake3

from cas3fs.caches.base import BlockCache
from cas3fs.caches.server_health import HealthMonitor, ServerHealth
from cas3fs.caches.specs import CacheContext, CacheSpec
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from cas3fs.units import MIB, parse_duration
from cas3fs.values import BlockHash, Buffer

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

DEFAULT_TIMEOUT_S = 0.25
DEFAULT_SLOW_S = 0.1
WRITE_TIMEOUT_S = 5.0
FIRST_WAIT_S = 0.5
LARGEST_BLOCK_BYTES = 16 * MIB
LONGEST_ANSWER_S = 10.0
_PIECE_BYTES = 256 * 1024
CONNECTIONS = 16
ASKED_AT_ONCE = 64
"""Of so many blocks the server is asked whether it has them; longer lists count as absent beyond that."""
_OK, _NOT_FOUND, _SERVER_ERROR = 200, 404, 500


class WebCache(BlockCache):
    """Blocks of `volume` below `url`; thread-safe. Until the server answered the first time it counts as down."""

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
    ) -> None:
        """`url` is ``http://`` or ``https://``.

        Raises:
            UsageError: it is neither.
        """
        import urllib3

        self._base, self._headers, shown = _split_url(url)
        self._base += volume
        self._http = urllib3.PoolManager(CONNECTIONS, maxsize=CONNECTIONS, retries=False)
        self._reading = urllib3.Timeout(connect=timeout_s, read=timeout_s)
        self._writing = urllib3.Timeout(connect=timeout_s, read=WRITE_TIMEOUT_S)
        self._askers = ThreadPoolExecutor(CONNECTIONS, "cas3fs-web-cache")
        self._rotten = metrics.counter("cache.web.rotten")
        self._refused = metrics.counter("cache.web.refused_puts")
        self._watch = HealthMonitor()
        self._health = ServerHealth(shown, self._probe, slow_s, self._watch, metrics)
        self._watch.begin([self._health], FIRST_WAIT_S)

    @classmethod
    def from_spec(cls, spec: CacheSpec, context: CacheContext) -> "WebCache":
        """The cache that ``web+http://...`` or ``web+https://...`` names.

        Raises:
            UsageError: the spec makes no sense.
        """
        spec.allow_options("timeout", "slow")
        return cls(
            f"{spec.name.removeprefix('web+')}:{spec.argument}",
            context.volume,
            metrics=context.metrics,
            timeout_s=spec.option("timeout", parse_duration, DEFAULT_TIMEOUT_S),
            slow_s=spec.option("slow", parse_duration, DEFAULT_SLOW_S),
        )

    def get(self, block: BlockHash) -> bytes | None:
        """The block, checked against its hash; another body of that name is rotten."""
        answer = self._ask("GET", block)
        if answer is None:
            return None
        status, body = answer
        if status != _OK:
            return None
        if blake3(body).digest() == block:
            return body
        self._rotten.add()
        self.evict(block)
        return None

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """PUT, if the server lets us."""
        if len(plain) > LARGEST_BLOCK_BYTES:
            return
        answer = self._ask("PUT", block, plain if isinstance(plain, bytes) else bytes(plain))
        if answer is not None and answer[0] >= 300:
            self._refused.add()

    def contains(self, block: BlockHash) -> bool:
        """Whether a HEAD finds it."""
        answer = self._ask("HEAD", block)
        return answer is not None and answer[0] == _OK

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Those that a HEAD finds; several at a time, and only the first `ASKED_AT_ONCE` are asked for."""
        asked = list(blocks)[:ASKED_AT_ONCE] if self._health.up else []
        try:
            return {block for block, held in zip(asked, self._askers.map(self.contains, asked), strict=True) if held}
        except RuntimeError:  # closed meanwhile
            return set()

    def evict(self, block: BlockHash) -> None:
        """DELETE, if the server lets us."""
        self._ask("DELETE", block)

    @property
    def size_bytes(self) -> int:
        """0: the server knows."""
        return 0

    def close(self) -> None:
        """End the watch over the server, and close connections."""
        self._watch.close()
        self._health.up = False
        self._askers.shutdown(wait=True, cancel_futures=True)
        self._http.clear()

    def _ask(self, method: str, block: BlockHash, body: bytes | None = None) -> tuple[int, bytes] | None:
        """Status and body; None if the server is down, or is so from now on."""
        if not self._health.up:
            return None
        name = block.hex()
        try:
            answer, waited_s = self._request(method, f"{self._base}/{name[:2]}/{name}", body)
        except Exception as error:  # noqa: BLE001  (urllib3 raises its own, its sockets', and codecs' errors)
            self._health.failed(error)
            return None
        if answer[0] >= _SERVER_ERROR and method == "GET":
            self._health.failed(OSError(f"it answers {answer[0]}"))
            return None
        if method == "GET":
            self._health.took(waited_s)
        return answer

    def _request(self, method: str, url: str, body: bytes | None) -> tuple[tuple[int, bytes], float]:
        """The answer, and how long its first byte took."""
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
        """Ask for a block that nobody has; anything but an error of the server will do.

        Raises:
            OSError: the server answers that it cannot.
            urllib3.exceptions.HTTPError: it does not answer.
        """
        (status, _), _ = self._request("GET", f"{self._base}/00/{'0' * 64}", None)
        if status >= _SERVER_ERROR:
            raise OSError(f"it answers {status}")


def _limited_body(response: "BaseHTTPResponse") -> bytes:
    """The whole body.

    Raises:
        OSError: it is larger than any block, or does not end.
        urllib3.exceptions.HTTPError: it breaks off.
    """
    deadline_s = time.monotonic() + LONGEST_ANSWER_S
    pieces, size_bytes = [], 0
    while piece := response.read1(_PIECE_BYTES):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > LARGEST_BLOCK_BYTES or time.monotonic() > deadline_s:
            response.close()
            raise OSError("its answer is larger, or takes longer, than that of any block")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _split_url(url: str) -> tuple[str, dict[str, str], str]:
    """The URL's part before the volume, the headers for its user, and what may be shown of it."""
    parts: Any = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.fragment:
        raise UsageError(f"{url!r} names no web server; write web+http://HOST/PATH")
    host = f"[{host}]" if ":" in host else host
    place = host if port is None else f"{host}:{port}"
    shown = urlunsplit((parts.scheme, place, f"{parts.path.rstrip('/')}/", "", ""))
    headers = {}
    if parts.username is not None:
        from urllib3.util import make_headers

        headers = dict(make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}"))
    return shown, headers, shown
