# SPDX-License-Identifier: GPL-3.0-or-later
"""Consistent hashing: which of several servers keeps a block.

Each server has `POINTS` places on a ring of 64-bit numbers, found by hashing its name; a block belongs to the server
whose place follows the first 8 bytes of its hash. Whoever lists the same servers, in whatever order, finds the same
server; adding one of n moves one block of n, and what a server that is left out would keep is shared by all others.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from blake3 import blake3

from cas3fs.values import BlockHash

POINTS = 128
_KEY_BYTES = 8
_Server = TypeVar("_Server")


class Ring(Generic[_Server]):
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
