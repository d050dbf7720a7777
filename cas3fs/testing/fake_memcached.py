# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake memcached without a network: pymemcache's own client, connected to a server in memory.

The client is the real one, so it cannot differ. The server (`FakeMemcachedServer`) is fake, and its faults are those of
a connection: delays and timeouts, truncated responses, connections that are reset before or after a command was carried
out. Many clients may share a server, in any threads.
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from pymemcache.client.base import Client

from cas3fs.testing.fake_memcached_engine import MEMCACHED_FAULTS, MemcachedEngine
from cas3fs.testing.faults import Faults

DEFAULT_LIMIT_BYTES: Final = 64 * 1024 * 1024
DEFAULT_ITEM_BYTES: Final = 1024 * 1024


class FakeMemcachedServer:
    """A server for any number of clients, with at most `limit_bytes` of items of at most `item_bytes` each."""

    def __init__(
        self,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        item_bytes: int = DEFAULT_ITEM_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.faults = Faults(MEMCACHED_FAULTS)
        self.lock = threading.Lock()
        self.engine = MemcachedEngine(limit_bytes, item_bytes, self.faults)
        self.sleep = sleep

    @property
    def items(self) -> dict[bytes, bytes]:
        """A copy of all values by key, the least recently used first."""
        with self.lock:
            return {key: item.value for key, item in self.engine.items.items()}

    def corrupt(self, key: bytes, value: bytes) -> None:
        """Replace the value of an existing key, as faulty memory would."""
        with self.lock:
            self.engine.corrupt(key, value)


class FakeMemcached(Client):  # type: ignore[misc]
    """pymemcache's `Client`, of a `FakeMemcachedServer` that is passed in place of an address, or of its own."""

    def __init__(self, server: Any = ("fake", 11211), *args: Any, **options: Any) -> None:
        self.fake_server = server if isinstance(server, FakeMemcachedServer) else FakeMemcachedServer()
        address = ("fake", 11211) if isinstance(server, FakeMemcachedServer) else server
        super().__init__(address, *args, **{**options, "socket_module": _SocketModule(self.fake_server)})

    @property
    def faults(self) -> Faults:
        """The faults of the server."""
        return self.fake_server.faults

    def twin(self, address: Any = None, timeout_s: float | None = None) -> "FakeMemcached":
        """Another client of the same server; usable as `client_factory` of a `MemcachedCache`."""
        return FakeMemcached(
            self.fake_server, connect_timeout=timeout_s, timeout=timeout_s, no_delay=True, default_noreply=False
        )


class _SocketModule:
    """The part of the module `socket` that pymemcache uses."""

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
        """A socket that is connected to the server."""
        return _Socket(self._server)


class _Socket:
    """A connection: commands are carried out when they are sent, and their responses wait to be received."""

    def __init__(self, server: FakeMemcachedServer) -> None:
        self._server = server
        self._timeout_s: float | None = None
        self._received = b""
        self._answers = b""
        self._delay_s = 0.0
        self._is_open = False
        self._resets_connection = False
        """The connection is reset after the remaining responses."""

    def setsockopt(self, level: int, name: int, value: int) -> None:
        """Options have no effect."""

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def connect(self, address: object) -> None:
        self._is_open = True

    def close(self) -> None:
        self._is_open = False

    def sendall(self, data: bytes) -> None:
        """Carry out every complete command."""
        if not self._is_open:
            raise BrokenPipeError("the connection is closed")
        self._received += data
        with self._server.lock:
            while (step := self._server.engine.step(self._received)) is not None:
                self._received = self._received[step.used :]
                self._answers += step.answer
                self._delay_s += step.delay_s
                self._resets_connection = self._resets_connection or step.resets_connection
                self._is_open = self._is_open and not step.closes_connection
                if step.resets_connection or step.closes_connection:
                    break

    def recv(self, size: int) -> bytes:
        """Some of the responses; a timeout where the server takes longer, or has nothing to send."""
        delay_s, self._delay_s = self._delay_s, 0.0
        if delay_s:
            self._wait(delay_s)
        if self._answers:
            piece, self._answers = self._answers[:size], self._answers[size:]
            return piece
        if self._resets_connection:
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
