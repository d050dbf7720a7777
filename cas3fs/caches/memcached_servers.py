# SPDX-License-Identifier: GPL-3.0-or-later
"""One memcached server: connections, commands whose failure is a miss, and the probe that lets it up again.

A *reading* connection has the short timeout, as somebody waits for the answer; a *writing* one has a longer timeout, as
a mebibyte is sent in one go and mostly by a thread that nobody waits for. Names are resolved by the probe alone.

Locks: none; idle connections lie in a deque, whose ends are atomic.

Consistent hashing: which of several servers keeps a block.

Each server has `POINTS` places on a ring of 64-bit numbers, found by hashing its name; a block belongs to the server
whose place follows the first 8 bytes of its hash. Whoever lists the same servers, in whatever order, finds the same
server; adding one of n moves one block of n, and what a server that is left out would keep is shared by all others.
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

WRITE_TIMEOUT_S = 1.0
LONGEST_ANSWER_BYTES = 64 * MIB
"""More than any batch of items that is asked for."""
LONGEST_ANSWER_S = 10.0
_ANSWER_BYTES_PER_S = 100_000_000
"""Time that large answers may take by their size does not count as slowness."""
_RECEIVE_BYTES = 256 * 1024
_META_SINCE = 6
"""memcached 1.6 has the meta commands."""

_Answer = TypeVar("_Answer")
Address = tuple[str, int]
ClientFactory = Callable[[Address, float], Any]
"""Makes a client as pymemcache's of an address, with a timeout in seconds."""


class _WideSocket(socket.socket):
    """Receives much at once: pymemcache asks for 4 KiB at a time, which with large values is mostly waiting for the
    interpreter's lock. It copes with more than it asked for.

    An answer has an end in bytes and in time, whatever length the server announces.
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
            raise OSError("its answer has no end")
        return data


class _WideSockets:
    """What pymemcache needs of the module `socket`."""

    AF_UNIX, AF_UNSPEC, SOCK_STREAM = socket.AF_UNIX, socket.AF_UNSPEC, socket.SOCK_STREAM
    IPPROTO_TCP, TCP_NODELAY = socket.IPPROTO_TCP, socket.TCP_NODELAY
    getaddrinfo = staticmethod(socket.getaddrinfo)
    socket = _WideSocket


def make_client(address: Address, timeout_s: float) -> Any:
    """pymemcache's client; it connects at its first command."""
    from pymemcache.client.base import Client

    return Client(
        address,
        connect_timeout=timeout_s,
        timeout=timeout_s,
        no_delay=True,
        default_noreply=False,
        socket_module=_WideSockets,
    )


class MemcachedServer:
    """See the module. `health` has to be set before use."""

    health: ServerHealth

    def __init__(self, host: str, port: int, timeout_s: float, client_factory: ClientFactory, metrics: Metrics) -> None:
        self.host = host
        self.port = port
        self._timeout_s = timeout_s
        self._client_factory = client_factory
        self._address: Address | None = None
        self._has_meta = False
        self._reading: deque[Any] = deque()
        self._writing: deque[Any] = deque()
        self._refused = metrics.counter("cache.memcached.refused_items")

    def serves(self) -> bool:
        """Whether it is up."""
        return self.health.up

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Values by key, of those that are there."""
        values: dict[bytes, bytes] = self._ask(lambda client: client.get_many(keys), {})
        return {key: value for key, value in values.items() if isinstance(value, bytes)}

    def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the items, if the server wants to."""
        self._refused.add(len(self._ask(lambda client: client.set_many(items, noreply=False), [], writes=True)))

    def delete(self, key: bytes) -> None:
        """Forget an item."""
        self._ask(lambda client: client.delete(key, noreply=False), False)

    def known(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of `keys` that are there, without their values."""
        if not self._has_meta:
            return [key for key in keys if self._touch(key)]
        # "mg KEY k" answers "HD kKEY" or "EN". The client's public `raw_command` loses bytes of answers that come in
        # several pieces; what it is made of reads a line for each command.
        commands = [b"mg %b k\r\n" % key for key in keys]
        answers: list[bytes] = self._ask(lambda client: client._misc_cmd(commands, b"mg", False), [])
        return [line[4:] for line in answers if line.startswith(b"HD k")]

    def _touch(self, key: bytes) -> bool:
        return self._ask(lambda client: bool(client.touch(key, noreply=False)), False)

    def probe(self) -> None:
        """Find an address that answers.

        Raises:
            OSError, MemcacheError: there is none.
        """
        error: Exception = OSError("it has no address")
        for *_, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            client = self._client_factory((str(address[0]), int(address[1])), max(self._timeout_s, 0.2))
            try:
                self._has_meta = _minor_version(client.version()) >= _META_SINCE
            except Exception as trouble:  # noqa: BLE001  (the next address may do)
                error = trouble
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

    def _ask(self, command: Callable[[Any], _Answer], otherwise: _Answer, *, writes: bool = False) -> _Answer:
        """The answer to a command; `otherwise` if there is none, which is the server's fault or says it is full."""
        idle = self._writing if writes else self._reading
        client = self._take(idle, WRITE_TIMEOUT_S if writes else self._timeout_s)
        if client is None:
            return otherwise
        started_s = time.monotonic()
        try:
            answer = command(client)
        except Exception as error:  # noqa: BLE001  (the client raises what its socket does, and more)
            client.close()
            if _is_refusal(error):
                self._refused.add()
            else:
                self.health.failed(error)
                self._close_idle()
            return otherwise
        if not writes:
            waited_s = time.monotonic() - started_s - _size_of(answer) / _ANSWER_BYTES_PER_S
            self.health.took(waited_s)
        idle.append(client)
        if not self.health.up:
            self._close_idle()
        return answer

    def _take(self, idle: deque[Any], timeout_s: float) -> Any:
        if self._address is None or not self.health.up:
            return None
        try:
            return idle.pop()
        except IndexError:
            return self._client_factory(self._address, timeout_s)

    def _close_idle(self) -> None:
        for idle in (self._reading, self._writing):
            while True:
                try:
                    client = idle.pop()
                except IndexError:
                    break
                client.close()


def _is_refusal(error: Exception) -> bool:
    """Whether the server answered, and only this command cannot be done, as when an item is too large."""
    from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError

    return isinstance(error, MemcacheServerError) and not isinstance(error, MemcacheUnexpectedCloseError)


def _size_of(answer: object) -> int:
    return sum(map(len, answer.values())) if isinstance(answer, dict) else 0


def _minor_version(version: bytes) -> int:
    """6 of ``1.6.18``; 0 of what does not look like that, such as other programs that speak the protocol."""
    match = re.match(rb"1\.(\d+)\.", version)
    return int(match.group(1)) if match else 0


POINTS = 128
_KEY_BYTES = 8
_Server = TypeVar("_Server")


class HashRing(Generic[_Server]):
    """The ring of `servers`, given with their names."""

    def __init__(self, servers: Sequence[tuple[str, _Server]]) -> None:
        points = sorted(
            (blake3(f"{name}#{number}".encode()).digest(_KEY_BYTES), place)
            for place, (name, _) in enumerate(servers)
            for number in range(POINTS)
        )
        self._keys = [key for key, _ in points]
        self._servers = [servers[place][1] for _, place in points]

    def server_of(self, block: BlockHash, serves: Callable[[_Server], bool]) -> _Server | None:
        """The first server from the block's place on that `serves`; None if none does."""
        start = bisect_left(self._keys, block[:_KEY_BYTES])
        count = len(self._servers)
        refused: set[int] = set()
        for step in range(count):
            server = self._servers[(start + step) % count]
            if id(server) not in refused:
                if serves(server):
                    return server
                refused.add(id(server))
        return None
