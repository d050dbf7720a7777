# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks on memcached servers, shared by all machines that read the volume.

A block lies on one server, chosen by consistent hashing, in one or more *items*: a server limits the length of a value
(1 MiB by default). The key of an item::

    "c3:" <volume uuid, 32 hex digits> ":" <block hash, 64 hex digits> ":" <number of the item, decimal, from 0>

and its value, integers little-endian::

    offset  size  field
    0       4     magic and version, b"c3m" 0x01
    4       4     plain length of the block, L
    8       4     share S: bytes of the block in every item but the last
    12      n     the plain bytes of the block from number * S on; S of them, or fewer in the last item

So the first item determines the number of the others. Servers may evict them one by one; a block that lacks an item is
a miss. Every block is checked against its hash: volumes, versions and machines cannot be mixed up, and a wrong or
corrupt block is a miss and is deleted.

`cas3fs.caches.server_health` describes what a server that is down or slow costs. The spec::

    memcached://HOST[:PORT][,HOST[:PORT]...][?timeout=100ms][&slow=10ms][&item=500KiB]
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from cas3fs.caches.base import LARGEST_BLOCK_BYTES, LARGEST_VALUE_BYTES, BlockCache, BlockCheck, check_plainly
from cas3fs.caches.memcached_servers import ClientFactory, HashRing, MemcachedServer, make_client
from cas3fs.caches.server_health import HealthMonitor, ServerHealth
from cas3fs.caches.specs import CacheContext, CacheSpec
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from cas3fs.units import KIB, MIB, parse_duration, parse_size
from cas3fs.values import BlockHash, Buffer

DEFAULT_PORT = 11211
DEFAULT_TIMEOUT_S = 0.1
DEFAULT_SLOW_S = 0.01
DEFAULT_ITEM_BYTES = 500 * KIB
"""With its key, just under the largest piece of memory that memcached allocates at once."""
CONNECT_WAIT_S = 0.25
BATCH_BYTES = MIB
BATCH_KEYS = 256
GET_BATCH_KEYS = 16

MAGIC = b"c3m\x01"
_HEADER = struct.Struct("<4sII")

_Item = TypeVar("_Item")


class MemcachedCache(BlockCache):
    """Blocks of `volume` on `servers`, given as host and port; thread-safe.

    The constructor waits up to `CONNECT_WAIT_S` for the servers; a server is down until it was reached.
    """

    name = "memcached"
    verifies = True
    remote = True

    def __init__(
        self,
        servers: list[tuple[str, int]],
        volume: str,
        *,
        metrics: Metrics,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        slow_s: float = DEFAULT_SLOW_S,
        item_bytes: int = DEFAULT_ITEM_BYTES,
        client_factory: ClientFactory = make_client,
        check: BlockCheck = check_plainly,
    ) -> None:
        self._check = check
        self._prefix = f"c3:{volume.replace('-', '')}:".encode()
        self._share_bytes = item_bytes - _HEADER.size
        self._corrupt = metrics.counter("cache.memcached.rotten")
        self._monitor = HealthMonitor()
        self._servers = []
        for host, port in servers:
            server = MemcachedServer(host, port, timeout_s, client_factory, metrics)
            server.health = ServerHealth(f"memcached://{host}:{port}", server.probe, slow_s, self._monitor, metrics)
            self._servers.append(server)
        self._ring = HashRing([(f"{server.host}:{server.port}", server) for server in self._servers])
        self._monitor.start([server.health for server in self._servers], CONNECT_WAIT_S)

    @classmethod
    def from_spec(cls, spec: CacheSpec, context: CacheContext) -> "MemcachedCache":
        """Make the cache that the spec ``memcached://...`` describes.

        Raises:
            UsageError: the spec is invalid.
        """
        spec.allow_options("timeout", "slow", "item")
        item_bytes = spec.option("item", parse_size, DEFAULT_ITEM_BYTES)
        if not KIB <= item_bytes <= LARGEST_BLOCK_BYTES:
            raise UsageError(f"{spec.text}: item must be from 1KiB to 16MiB")
        return cls(
            spec.argument_as(parse_servers),
            context.volume,
            metrics=context.metrics,
            timeout_s=spec.option("timeout", parse_duration, DEFAULT_TIMEOUT_S),
            slow_s=spec.option("slow", parse_duration, DEFAULT_SLOW_S),
            item_bytes=item_bytes,
            check=context.check,
        )

    def get(self, block: BlockHash) -> bytes | None:
        """Return the block, checked against its hash."""
        server = self._server_of(block)
        if server is None:
            return None
        key = self._key(block, 0)
        return self._complete(server, block, server.get_many([key]).get(key))

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        """Return the blocks that the servers have; each server is asked for a few at a time."""
        found = {}
        for server, mine in self._by_server(blocks).items():
            for batch in _batches(mine, GET_BATCH_KEYS):
                values = server.get_many([self._key(block, 0) for block in batch])
                for block in batch:
                    plain = self._complete(server, block, values.get(self._key(block, 0)))
                    if plain is not None:
                        found[block] = plain
        return found

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Send the block to its server; it is not sent again if the server refuses it."""
        self.put_many({block: plain})

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """Send the blocks in as few round trips as their sizes allow."""
        for server, mine in self._by_server(blocks).items():
            items: dict[bytes, bytes] = {}
            size_bytes = 0
            for key, value in (item for block in mine for item in self._items(block, blocks[block])):
                items[key] = value
                size_bytes += len(value)
                if size_bytes >= BATCH_BYTES:
                    server.set_many(items)
                    items, size_bytes = {}, 0
            if items:
                server.set_many(items)

    def contains(self, block: BlockHash) -> bool:
        """Return whether the first item of the block is there."""
        return block in self.contains_many([block])

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Return the blocks whose first item is there; one round trip asks for some hundred."""
        found: set[BlockHash] = set()
        for server, mine in self._by_server(blocks).items():
            for batch in _batches(mine, BATCH_KEYS):
                keys = {self._key(block, 0): block for block in batch}
                found.update(keys[key] for key in server.contained(keys) if key in keys)
        return found

    def evict(self, block: BlockHash) -> None:
        """Delete the first item; without it the others are never read, and expire."""
        server = self._server_of(block)
        if server is not None:
            server.delete(self._key(block, 0))

    @property
    def size_bytes(self) -> int:
        """0: only the servers know, and they store other items too."""
        return 0

    def close(self) -> None:
        """End the probes, and close all connections."""
        self._monitor.close()
        for server in self._servers:
            server.close()

    def _server_of(self, block: BlockHash) -> MemcachedServer | None:
        return self._ring.server_of(block, MemcachedServer.is_up)

    def _by_server(self, blocks: Iterable[BlockHash]) -> dict[MemcachedServer, list[BlockHash]]:
        grouped: dict[MemcachedServer, list[BlockHash]] = {}
        for block in blocks:
            server = self._server_of(block)
            if server is not None:
                grouped.setdefault(server, []).append(block)
        return grouped

    def _key(self, block: BlockHash, number: int) -> bytes:
        return b"%b%b:%d" % (self._prefix, block.hex().encode(), number)

    def _items(self, block: BlockHash, plain: Buffer) -> Iterator[tuple[bytes, bytes]]:
        """Yield the items of a block, the first one last: once it is stored, all others were."""
        view, length = memoryview(plain), len(plain)
        header = _HEADER.pack(MAGIC, length, self._share_bytes)
        for number in reversed(range(_item_count(length, self._share_bytes))):
            start = number * self._share_bytes
            yield self._key(block, number), b"".join((header, view[start : start + self._share_bytes]))

    def _complete(self, server: MemcachedServer, block: BlockHash, first: bytes | None) -> bytes | None:
        """Return the block whose first item is `first`, or None; a corrupt block is deleted."""
        if first is None:
            return None
        parts = self._parts(server, block, first)
        if parts is None:
            return None
        plain = b"".join(parts)
        if self._check(block, plain):
            return plain
        self._corrupt.add()
        server.delete(self._key(block, 0))
        return None

    def _parts(self, server: MemcachedServer, block: BlockHash, first: bytes) -> list[Buffer] | None:
        """Return the bytes of all items, unchecked; None if some are missing, an empty list for an invalid header."""
        head = first[: _HEADER.size]
        if len(head) < _HEADER.size:
            return []
        magic, length, share_bytes = _HEADER.unpack(head)
        if magic != MAGIC or length > LARGEST_VALUE_BYTES or share_bytes < min(KIB // 2, length):
            return []
        parts: list[Buffer] = [memoryview(first)[_HEADER.size :]]
        keys = [self._key(block, number) for number in range(1, _item_count(length, share_bytes))]
        for batch in _batches(keys, max(1, BATCH_BYTES // max(share_bytes, 1))):
            values = server.get_many(batch)
            if len(values) < len(batch):
                return None
            if any(values[key][: _HEADER.size] != head for key in batch):
                return []
            parts.extend(memoryview(values[key])[_HEADER.size :] for key in batch)
        return parts


def _item_count(length: int, share_bytes: int) -> int:
    return max(1, -(-length // max(share_bytes, 1)))


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def parse_servers(argument: str) -> list[tuple[str, int]]:
    """Parse hosts and ports from ``//one:11211,two``; IPv6 addresses are in brackets.

    Raises:
        UsageError: there are none, or one is invalid.
    """
    if not argument.startswith("//"):
        raise UsageError("write the servers as //HOST:PORT,HOST:PORT")
    servers = [_parse_server(text) for text in argument[2:].rstrip("/").split(",")]
    if len(set(servers)) < len(servers):
        raise UsageError("the same server is listed twice")
    return servers


def _parse_server(text: str) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or port[:1] not in ("", ":"):
            raise UsageError(f"{text!r} is not a server; write [ADDRESS] or [ADDRESS]:PORT")
        port = port[1:]
    elif ":" in text:
        host, _, port = text.partition(":")
    if not host or any(char in host for char in "/@ ") or (port and not port.isdecimal()) or int(port or 1) > 65535:
        raise UsageError(f"{text!r} is not a server; write HOST or HOST:PORT")
    return host, int(port or DEFAULT_PORT)
