# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks in memcached servers, shared by all machines that read the volume.

A block lies on one server, chosen by consistent hashing, in one or more *items* (a server takes no value over a limit,
1 MiB unless told otherwise). The key of an item::

    "c3:" <volume uuid, 32 hex digits> ":" <block hash, 64 hex digits> ":" <number of the item, decimal, from 0>

and its value, integers little-endian::

    offset  size  field
    0       4     magic and version, b"c3m" 0x01
    4       4     plain length of the block, L
    8       4     share S: bytes of the block in every item but the last
    12      n     the plain bytes of the block from number * S on; S of them, or fewer in the last item

So the first item tells how many others there are. They may be evicted one by one; a block that lacks one is a miss.
Whatever is read is checked against the block's hash: volumes, versions and machines cannot mix, and a server that is
wrong, or rotten, is a miss. What is wrong is deleted.

What servers cost when they are down or slow is told in `cas3fs.caches.server_health`. The spec::

    memcached://HOST[:PORT][,HOST[:PORT]...][?timeout=100ms][&slow=10ms][&item=500KiB]
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from blake3 import blake3

from cas3fs.caches.base import BlockCache
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
"""With its key, just under the largest piece of memory that memcached hands out in one."""
LARGEST_BLOCK_BYTES = 16 * MIB
FIRST_WAIT_S = 0.25
BATCH_BYTES = MIB
BATCH_KEYS = 256
GET_BATCH_KEYS = 16

MAGIC = b"c3m\x01"
_HEADER = struct.Struct("<4sII")

_Item = TypeVar("_Item")


class MemcachedCache(BlockCache):
    """Blocks of `volume` in `servers`, given as host and port; thread-safe.

    Until the servers were reached for the first time, which this waits for up to `FIRST_WAIT_S`, they count as down.
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
    ) -> None:
        self._prefix = f"c3:{volume.replace('-', '')}:".encode()
        self._share_bytes = item_bytes - _HEADER.size
        self._rotten = metrics.counter("cache.memcached.rotten")
        self._watch = HealthMonitor()
        self._servers = []
        for host, port in servers:
            server = MemcachedServer(host, port, timeout_s, client_factory, metrics)
            server.health = ServerHealth(f"memcached://{host}:{port}", server.probe, slow_s, self._watch, metrics)
            self._servers.append(server)
        self._ring = HashRing([(f"{server.host}:{server.port}", server) for server in self._servers])
        self._watch.begin([server.health for server in self._servers], FIRST_WAIT_S)

    @classmethod
    def from_spec(cls, spec: CacheSpec, context: CacheContext) -> "MemcachedCache":
        """The cache that ``memcached://...`` names.

        Raises:
            UsageError: the spec makes no sense.
        """
        spec.allow_options("timeout", "slow", "item")
        item_bytes = spec.option("item", parse_size, DEFAULT_ITEM_BYTES)
        if not KIB <= item_bytes <= LARGEST_BLOCK_BYTES:
            raise UsageError(f"{spec.text}: an item has 1KiB to 16MiB")
        return cls(
            spec.argument_as(parse_servers),
            context.volume,
            metrics=context.metrics,
            timeout_s=spec.option("timeout", parse_duration, DEFAULT_TIMEOUT_S),
            slow_s=spec.option("slow", parse_duration, DEFAULT_SLOW_S),
            item_bytes=item_bytes,
        )

    def get(self, block: BlockHash) -> bytes | None:
        """The block, checked against its hash, from the server that keeps it."""
        server = self._server_of(block)
        if server is None:
            return None
        key = self._key(block, 0)
        return self._complete(server, block, server.get_many([key]).get(key))

    def get_many(self, blocks: Iterable[BlockHash]) -> dict[BlockHash, bytes]:
        """Those that are there, some at a time from each server."""
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
        """Sent to its server; a server that refuses it is not asked again for this block."""
        self.put_many({block: plain})

    def put_many(self, blocks: Mapping[BlockHash, Buffer]) -> None:
        """Sent in as few round trips as their sizes allow."""
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
        """Whether the first item is there."""
        return block in self.contains_many([block])

    def contains_many(self, blocks: Iterable[BlockHash]) -> set[BlockHash]:
        """Those whose first item is there; some hundred are asked for in one round trip."""
        held: set[BlockHash] = set()
        for server, mine in self._by_server(blocks).items():
            for batch in _batches(mine, BATCH_KEYS):
                keys = {self._key(block, 0): block for block in batch}
                held.update(keys[key] for key in server.known(keys) if key in keys)
        return held

    def evict(self, block: BlockHash) -> None:
        """Delete the first item; without it the others are never read, and fall out by themselves."""
        server = self._server_of(block)
        if server is not None:
            server.delete(self._key(block, 0))

    @property
    def size_bytes(self) -> int:
        """0: the servers know, and keep other things, too."""
        return 0

    def close(self) -> None:
        """End the watch over servers, and close connections."""
        self._watch.close()
        for server in self._servers:
            server.close()

    def _server_of(self, block: BlockHash) -> MemcachedServer | None:
        return self._ring.server_of(block, MemcachedServer.serves)

    def _by_server(self, blocks: Iterable[BlockHash]) -> dict[MemcachedServer, list[BlockHash]]:
        shares: dict[MemcachedServer, list[BlockHash]] = {}
        for block in blocks:
            server = self._server_of(block)
            if server is not None:
                shares.setdefault(server, []).append(block)
        return shares

    def _key(self, block: BlockHash, number: int) -> bytes:
        return b"%b%b:%d" % (self._prefix, block.hex().encode(), number)

    def _items(self, block: BlockHash, plain: Buffer) -> Iterator[tuple[bytes, bytes]]:
        """The items of a block, the first one last: when it is there, the others were."""
        view, length = memoryview(plain), len(plain)
        header = _HEADER.pack(MAGIC, length, self._share_bytes)
        for number in reversed(range(_item_count(length, self._share_bytes))):
            start = number * self._share_bytes
            yield self._key(block, number), b"".join((header, view[start : start + self._share_bytes]))

    def _complete(self, server: MemcachedServer, block: BlockHash, first: bytes | None) -> bytes | None:
        """The block whose first item is `first`; what is rotten is deleted."""
        if first is None:
            return None
        parts = self._parts(server, block, first)
        if parts is None:
            return None
        plain = b"".join(parts)
        if blake3(plain).digest() == block:
            return plain
        self._rotten.add()
        server.delete(self._key(block, 0))
        return None

    def _parts(self, server: MemcachedServer, block: BlockHash, first: bytes) -> list[Buffer] | None:
        """The bytes of all items, not checked yet; None if some are missing. A header without sense gives nothing."""
        head = first[: _HEADER.size]
        if len(head) < _HEADER.size:
            return []
        magic, length, share_bytes = _HEADER.unpack(head)
        if magic != MAGIC or length > LARGEST_BLOCK_BYTES or share_bytes < min(KIB // 2, length):
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
    """Hosts and ports from ``//one:11211,two``; IPv6 addresses stand in brackets.

    Raises:
        UsageError: there are none, or one of them makes no sense.
    """
    if not argument.startswith("//"):
        raise UsageError("servers are written as //HOST:PORT,HOST:PORT")
    servers = [_parse_server(text) for text in argument[2:].rstrip("/").split(",")]
    if len(set(servers)) < len(servers):
        raise UsageError("a server is named twice")
    return servers


def _parse_server(text: str) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or port[:1] not in ("", ":"):
            raise UsageError(f"{text!r} is no server")
        port = port[1:]
    elif ":" in text:
        host, _, port = text.partition(":")
    if not host or any(char in host for char in "/@ ") or (port and not port.isdecimal()) or int(port or 1) > 65535:
        raise UsageError(f"{text!r} is no server; write HOST or HOST:PORT")
    return host, int(port or DEFAULT_PORT)
