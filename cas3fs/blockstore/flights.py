# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks being fetched, and how much may be fetched ahead.

A flight is *claimed* by the thread that fetches it, once. One that a hint made waits unclaimed until a worker gets to
it; a reader who needs the block earlier claims it and fetches it at once, and the worker then passes over it.

Hints beyond the share of memory for blocks fetched ahead are kept, and take off as earlier ones are read.

Nothing here is thread-safe: the fetcher's lock guards it. A flight's future is waited for, and resolved, outside of it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice

from cas3fs.errors import TransientStoreError
from cas3fs.values import BlockHash, BlockLocation

STALE_AFTER_S = 10.0
"""A block fetched ahead that nobody read for so long loses its share; a hint that old is forgotten."""
REMEMBERED_HINTS = 1024
BATCHES = 4
REPEATED_WITHIN_S = 2.0
"""The kernel asks again at once, page by page, for what it did not get. Where the store was asked in vain for longer
than this, for minutes perhaps, such a repetition fails in the same way, without being tried."""


class Flight:
    """A block being fetched; `future` resolves to its plain bytes, or fails for all who wait."""

    __slots__ = ("ahead", "began_s", "block", "claimed", "future", "hinted")

    def __init__(self, block: BlockLocation, began_s: float, *, hinted: bool) -> None:
        self.block = block
        self.began_s = began_s
        self.hinted = hinted
        """Made by a hint: the caches were not asked yet."""
        self.ahead = hinted
        """Nobody waits for it so far."""
        self.claimed = not hinted
        self.future: Future[bytes] = Future()

    def claim(self) -> bool:
        """Whether the caller has to fetch it: true once."""
        first = not self.claimed
        self.claimed = True
        return first


class FlightTable:
    """Flights by hash; at most `ahead_bytes` of blocks are fetched ahead and not read yet."""

    def __init__(self, ahead_bytes: int, clock: Callable[[], float]) -> None:
        self._limit_bytes = ahead_bytes
        self._ahead_bytes = 0
        self._clock = clock
        self._flights: dict[BlockHash, Flight] = {}
        self._hints: deque[tuple[BlockLocation, float]] = deque()
        self.unread: OrderedDict[BlockHash, tuple[int, float]] = OrderedDict()
        """Fetched ahead and not read yet: length, and when it came."""

    @property
    def ahead_bytes(self) -> int:
        """How much is being fetched ahead, or was and is not read yet."""
        return self._ahead_bytes

    def __contains__(self, block: BlockHash) -> bool:
        return block in self._flights

    def take_all(self) -> list[Flight]:
        """End every flight and forget every hint."""
        left = list(self._flights.values())
        self._hints.clear()
        return [flight for flight in left if self.end(flight, arrived=False)]

    def demand(self, block: BlockLocation) -> tuple[Flight, bool]:
        """The flight of a block that a reader waits for, and whether the caller has to fetch it."""
        flight = self._flights.get(block.hash)
        if flight is None:
            flight = self._flights[block.hash] = Flight(block, self._clock(), hinted=False)
            return flight, True
        if flight.ahead:
            flight.ahead = False
            self._ahead_bytes -= flight.block.plain_length
        return flight, flight.claim()

    def hint(self, blocks: Iterable[BlockLocation]) -> None:
        """Remember blocks that will be wanted, the first ones if they are too many."""
        now_s = self._clock()
        room = REMEMBERED_HINTS - len(self._hints)
        self._hints.extend((block, now_s) for block in islice(blocks, room))

    def take_off(self, is_kept: Callable[[BlockHash], bool]) -> list[Flight]:
        """New flights for the next hints, unless `is_kept` says that the block is here already.

        They come in batches of a quarter of the limit at least, so that neighbours can be fetched together.
        """
        if not self._hints:
            return []
        self._drop_stale(is_kept)
        if self._limit_bytes - self._ahead_bytes < self._limit_bytes // BATCHES:
            return []
        flights: list[Flight] = []
        while self._hints:
            block, _ = self._hints[0]
            fits_ever = block.plain_length <= self._limit_bytes
            if fits_ever and block.hash not in self._flights and not is_kept(block.hash):
                if self._ahead_bytes + block.plain_length > self._limit_bytes:
                    break
                self._ahead_bytes += block.plain_length
                flights.append(Flight(block, self._clock(), hinted=True))
                self._flights[block.hash] = flights[-1]
            self._hints.popleft()
        return flights

    def end(self, flight: Flight, *, arrived: bool) -> bool:
        """End a flight; False if it had ended before, and its future is no business of the caller's."""
        if self._flights.get(flight.block.hash) is not flight:
            return False
        del self._flights[flight.block.hash]
        if flight.ahead and arrived:
            self.unread[flight.block.hash] = (flight.block.plain_length, self._clock())
        elif flight.ahead:
            self._ahead_bytes -= flight.block.plain_length
        return True

    def note_read(self, block: BlockHash) -> None:
        """A block fetched ahead was read: its share is free again."""
        length, _ = self.unread.pop(block, (0, 0.0))
        self._ahead_bytes -= length

    def _drop_stale(self, is_kept: Callable[[BlockHash], bool]) -> None:
        """Forget old hints, and free the shares of blocks that came long ago or are gone again, the oldest first."""
        oldest_s = self._clock() - STALE_AFTER_S
        while self._hints and self._hints[0][1] < oldest_s:
            self._hints.popleft()
        while self.unread:
            block, (_, came_s) = next(iter(self.unread.items()))
            if came_s >= oldest_s and is_kept(block):
                return
            self.note_read(block)


class Refusals:
    """Blocks that readers waited for just now, for long and in vain."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: dict[BlockHash, tuple[TransientStoreError, float]] = {}
        """By block, what was raised, and until when it is raised again."""

    def note(self, flights: Iterable[Flight], error: TransientStoreError) -> None:
        """Remember those of the flights, which failed, that somebody has waited for so long."""
        now_s = self._clock()
        long_waited = (each for each in flights if not each.ahead and now_s - each.began_s >= REPEATED_WITHIN_S)
        self._refused |= {flight.block.hash: (error, now_s + REPEATED_WITHIN_S) for flight in long_waited}

    def check(self, block: BlockHash) -> None:
        """Raises what was raised for this block just now."""
        if block not in self._refused:
            return
        error, until_s = self._refused[block]
        if self._clock() < until_s:
            raise type(error)(str(error)) from error
        del self._refused[block]

    def clear(self) -> None:
        """Forget all: the store answers."""
        self._refused.clear()
