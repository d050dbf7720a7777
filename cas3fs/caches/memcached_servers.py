# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers of the memcached cache: which one stores a block, their connections and commands.

*Ring.* A block belongs to one server by consistent hashing. Each server has `POINTS` places on a ring of 64-bit
numbers, the hashes of its name; a block belongs to the server whose place follows the first 8 bytes of its hash. Every
client with the same servers, in any order, finds the same server. Adding a server to n - 1 others moves one block in n;
the blocks of a server that is down are spread over all others.

*Connections.* Readers use connections with a short timeout, because somebody waits for them. Writers use connections
with a longer timeout: a mebibyte is sent in one go, mostly by a background thread. Only the probe resolves names. A
command that fails is a miss, and takes the server down (`cas3fs.caches.server_health`).

*Why not pymemcache's HashClient:* it was measured, with three local servers, blocks of 16 KiB and 8 threads. It made
2,600 reads/s, or 8,900 with this ring as its hasher; this module makes 12,800. HashClient retries a dead server in the
reader: while one server hung for 10 s, 48 reads took more than 90 ms (here 8, one for each thread). Its table of dead
servers is not thread-safe and raised ValueError 35 times in those 10 s. It does not notice slow responses.

Locks: none; idle connections are in a deque, and both of its ends are atomic.
"""

import re
import socket
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from blake3 import blake3

from cas3fs.caches.server_health import ServerHealth
from cas3fs.metrics import Metrics
from cas3fs.units import MIB
from cas3fs.values import BlockHash

POINTS = 128
_POINT_BYTES = 8

WRITE_TIMEOUT_S = 1.0
LONGEST_ANSWER_BYTES = 64 * MIB
"""More than any requested batch of items."""
LONGEST_ANSWER_S = 10.0
_TRANSFER_BYTES_PER_S = 100_000_000
"""The transfer time of a large answer, at this rate, does not count as slowness."""
_RECEIVE_BYTES = 256 * 1024
_META_SINCE = 6
"""memcached 1.6 introduced the meta commands."""

_Server = TypeVar("_Server")
_Result = TypeVar("_Result")
Address = tuple[str, int]
ClientFactory = Callable[[Address, float], Any]
"""Makes a client with the interface of pymemcache's for an address and a timeout in seconds."""


class HashRing(Generic[_Server]):
    """A ring of `servers`, given as pairs of name and server."""

    def __init__(self, servers: Sequence[tuple[str, _Server]]) -> None:
        points = sorted(
            (blake3(f"{name}#{number}".encode()).digest(_POINT_BYTES), place)
            for place, (name, _) in enumerate(servers)
            for number in range(POINTS)
        )
        self._keys = [key for key, _ in points]
        self._servers = [servers[place][1] for _, place in points]

    def server_of(self, block: BlockHash, is_up: Callable[[_Server], bool]) -> _Server | None:
        """Return the first server from the block's place on that `is_up`; None if none is."""
        start = bisect_left(self._keys, block[:_POINT_BYTES])
        count = len(self._servers)
        down: set[int] = set()
        for step in range(count):
            server = self._servers[(start + step) % count]
            if id(server) not in down:
                if is_up(server):
                    return server
                down.add(id(server))
        return None


class MemcachedServer:
    """One server. `health` must be set before use."""

    health: ServerHealth

    def __init__(self, host: str, port: int, timeout_s: float, client_factory: ClientFactory, metrics: Metrics) -> None:
        self.host = host
        self.port = port
        self._timeout_s = timeout_s
        self._client_factory = client_factory
        self._address: Address | None = None
        self._has_meta = False
        self._idle_readers: deque[Any] = deque()
        self._idle_writers: deque[Any] = deque()
        self._refused = metrics.counter("cache.memcached.refused_items")

    def is_up(self) -> bool:
        return self.health.up

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that the server has."""
        values: dict[bytes, bytes] = self._run(lambda client: client.get_many(keys), {})
        return {key: value for key, value in values.items() if isinstance(value, bytes)}

    def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Store the items; the server may refuse some."""
        self._refused.add(len(self._run(lambda client: client.set_many(items, noreply=False), [], writes=True)))

    def delete(self, key: bytes) -> None:
        """Delete an item."""
        self._run(lambda client: client.delete(key, noreply=False), False)

    def contained(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of `keys` that the server has, without reading their values."""
        if not self._has_meta:
            return [key for key in keys if self._touch(key)]
        # "mg KEY k" answers "HD kKEY" or "EN". The client's public `raw_command` loses bytes of answers that arrive in
        # several pieces; the private method behind it reads one line for each command.
        commands = [b"mg %b k\r\n" % key for key in keys]
        answers: list[bytes] = self._run(lambda client: client._misc_cmd(commands, b"mg", False), [])
        return [line[4:] for line in answers if line.startswith(b"HD k")]

    def probe(self) -> None:
        """Find an address of the server that answers.

        Raises:
            OSError, MemcacheError: none does.
        """
        error: Exception = OSError("the host has no address")
        for *_, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            client = self._client_factory((str(address[0]), int(address[1])), max(self._timeout_s, 0.2))
            try:
                self._has_meta = _minor_version(client.version()) >= _META_SINCE
            except Exception as failure:  # noqa: BLE001  (the next address may work)
                error = failure
            else:
                self._address = (str(address[0]), int(address[1]))
                return
            finally:
                client.close()
        raise error

    def close(self) -> None:
        """Close all idle connections."""
        self.health.up = False
        self._close_idle()

    def _touch(self, key: bytes) -> bool:
        return self._run(lambda client: bool(client.touch(key, noreply=False)), False)

    def _run(self, command: Callable[[Any], _Result], default: _Result, *, writes: bool = False) -> _Result:
        """Return the result of a command; `default` if the server is down, fails or refuses the command."""
        idle = self._idle_writers if writes else self._idle_readers
        client = self._take_client(idle, WRITE_TIMEOUT_S if writes else self._timeout_s)
        if client is None:
            return default
        started_s = time.monotonic()
        try:
            result = command(client)
        except Exception as error:  # noqa: BLE001  (the client raises errors of its socket, and others)
            client.close()
            if _is_refusal(error):
                self._refused.add()
            else:
                self.health.record_failure(error)
                self._close_idle()
            return default
        if not writes:
            waited_s = time.monotonic() - started_s - _size_of(result) / _TRANSFER_BYTES_PER_S
            self.health.record_response(waited_s)
        idle.append(client)
        if not self.health.up:
            self._close_idle()
        return result

    def _take_client(self, idle: deque[Any], timeout_s: float) -> Any:
        if self._address is None or not self.health.up:
            return None
        try:
            return idle.pop()
        except IndexError:
            return self._client_factory(self._address, timeout_s)

    def _close_idle(self) -> None:
        for idle in (self._idle_readers, self._idle_writers):
            while True:
                try:
                    client = idle.pop()
                except IndexError:
                    break
                client.close()


class _BufferedSocket(socket.socket):
    """Receives large pieces: pymemcache asks for 4 KiB at a time, and with large values that mostly waits for the
    interpreter's lock. pymemcache accepts more bytes than it asked for.

    An answer is limited in bytes and in time, whatever length the server announces.
    """

    _sent_s = 0.0
    _received_bytes = 0

    def sendall(self, data: Any, flags: int = 0) -> None:
        super().sendall(data, flags)
        self._sent_s, self._received_bytes = time.monotonic(), 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(max(size, _RECEIVE_BYTES), flags)
        self._received_bytes += len(data)
        if self._received_bytes > LONGEST_ANSWER_BYTES or time.monotonic() - self._sent_s > LONGEST_ANSWER_S:
            raise OSError("its answer does not end")
        return data


class _BufferedSocketModule:
    """What pymemcache uses of the module `socket`."""

    AF_UNIX, AF_UNSPEC, SOCK_STREAM = socket.AF_UNIX, socket.AF_UNSPEC, socket.SOCK_STREAM
    IPPROTO_TCP, TCP_NODELAY = socket.IPPROTO_TCP, socket.TCP_NODELAY
    getaddrinfo = staticmethod(socket.getaddrinfo)
    socket = _BufferedSocket


def make_client(address: Address, timeout_s: float) -> Any:
    """Make pymemcache's client; it connects at its first command."""
    from pymemcache.client.base import Client

    return Client(
        address,
        connect_timeout=timeout_s,
        timeout=timeout_s,
        no_delay=True,
        default_noreply=False,
        socket_module=_BufferedSocketModule,
    )


def _is_refusal(error: Exception) -> bool:
    """Return whether the server works and only this command cannot be done, as when an item is too large."""
    from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError

    return isinstance(error, MemcacheServerError) and not isinstance(error, MemcacheUnexpectedCloseError)


def _size_of(result: object) -> int:
    return sum(map(len, result.values())) if isinstance(result, dict) else 0


def _minor_version(version: bytes) -> int:
    """Return 6 for ``1.6.18``; 0 for anything else, such as other programs that speak the protocol."""
    match = re.match(rb"1\.(\d+)\.", version)
    return int(match.group(1)) if match else 0
