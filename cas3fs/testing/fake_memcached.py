# SPDX-License-Identifier: GPL-3.0-or-later
"""A memcached without a network: pymemcache's own client, whose sockets end in a server in memory.

So the client cannot drift from the real one: it is the real one. What is faked is the server (`FakeMemcachedServer`),
and the faults are those of a connection: delays and timeouts, answers that break off, connections that break before or
after the command was done. Many clients may share a server, in any threads.
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from pymemcache.client.base import Client

from cas3fs.testing.faults import Faults
from cas3fs.testing.memcached_engine import MEMCACHED_FAULTS, Engine

DEFAULT_LIMIT_BYTES: Final = 64 * 1024 * 1024
DEFAULT_ITEM_BYTES: Final = 1024 * 1024


class FakeMemcachedServer:
    """What the clients share: at most `limit_bytes` of items, none over `item_bytes`, and the faults."""

    def __init__(
        self,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        item_bytes: int = DEFAULT_ITEM_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.faults = Faults(MEMCACHED_FAULTS)
        self.lock = threading.Lock()
        self.engine = Engine(limit_bytes, item_bytes, self.faults)
        self.sleep = sleep

    @property
    def items(self) -> dict[bytes, bytes]:
        """A copy of all values by key, the longest unused first."""
        with self.lock:
            return {key: item.value for key, item in self.engine.items.items()}

    def corrupt(self, key: bytes, value: bytes) -> None:
        """Replace the value of a key that is there, as rotten memory would."""
        with self.lock:
            self.engine.corrupt(key, value)


class FakeMemcached(Client):  # type: ignore[misc]
    """pymemcache's `Client`; instead of an address it may be given the server, else it gets one of its own."""

    def __init__(self, server: Any = ("fake", 11211), *args: Any, **options: Any) -> None:
        self.fake_server = server if isinstance(server, FakeMemcachedServer) else FakeMemcachedServer()
        address = ("fake", 11211) if isinstance(server, FakeMemcachedServer) else server
        super().__init__(address, *args, **{**options, "socket_module": _SocketModule(self.fake_server)})

    @property
    def faults(self) -> Faults:
        """The faults of the server."""
        return self.fake_server.faults

    def twin(self, address: Any = None, timeout_s: float | None = None) -> "FakeMemcached":
        """Another client of the same server; fits as `client_factory` of a `MemcachedCache`."""
        return FakeMemcached(
            self.fake_server, connect_timeout=timeout_s, timeout=timeout_s, no_delay=True, default_noreply=False
        )


class _SocketModule:
    """What pymemcache needs of the module `socket`."""

    AF_UNIX = socket.AF_UNIX
    AF_UNSPEC = socket.AF_UNSPEC
    SOCK_STREAM = socket.SOCK_STREAM
    IPPROTO_TCP = socket.IPPROTO_TCP
    TCP_NODELAY = socket.TCP_NODELAY

    def __init__(self, server: FakeMemcachedServer) -> None:
        self._server = server

    def getaddrinfo(self, host: str, port: int, family: int, kind: int, protocol: int) -> list[Any]:
        """One address, whatever the name."""
        return [(socket.AF_INET, kind, protocol, "", ("192.0.2.1", port))]

    def socket(self, family: int, kind: int, protocol: int = 0) -> "_Socket":
        """A socket that leads to the server."""
        return _Socket(self._server)


class _Socket:
    """A connection: what is sent is carried out at once, the answers wait to be received."""

    def __init__(self, server: FakeMemcachedServer) -> None:
        self._server = server
        self._timeout_s: float | None = None
        self._received = b""
        self._answers = b""
        self._delay_s = 0.0
        self._is_open = False
        self._breaks = False
        """After the answers that are left, as the peer is gone."""

    def setsockopt(self, level: int, name: int, value: int) -> None:
        """Options mean nothing here."""

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def connect(self, address: object) -> None:
        self._is_open = True

    def close(self) -> None:
        self._is_open = False

    def sendall(self, data: bytes) -> None:
        """Carry out every command that is complete."""
        if not self._is_open:
            raise BrokenPipeError("the connection is closed")
        self._received += data
        with self._server.lock:
            while (step := self._server.engine.step(self._received)) is not None:
                self._received = self._received[step.used :]
                self._answers += step.answer
                self._delay_s += step.delay_s
                self._breaks = self._breaks or step.breaks
                self._is_open = self._is_open and not step.ends
                if step.breaks or step.ends:
                    break

    def recv(self, size: int) -> bytes:
        """Some of the answers; a timeout when the server is slower than that, or has nothing to say."""
        delay_s, self._delay_s = self._delay_s, 0.0
        if delay_s:
            self._wait(delay_s)
        if self._answers:
            piece, self._answers = self._answers[:size], self._answers[size:]
            return piece
        if self._breaks:
            raise ConnectionResetError("the server is gone")
        if not self._is_open:
            return b""
        self._wait(float("inf"))
        return b""

    def _wait(self, delay_s: float) -> None:
        if self._timeout_s is not None and delay_s > self._timeout_s:
            self._server.sleep(self._timeout_s)
            raise TimeoutError("timed out")
        if delay_s == float("inf"):
            raise TimeoutError("the server would never answer, and no timeout was set")
        self._server.sleep(delay_s)
