# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks being fetched, and how much may be fetched ahead.

A fetch is *claimed* by the thread that fetches it, once. One that a hint made waits unclaimed until a worker gets to
it; a reader who needs the block earlier claims it and fetches it at once, and the worker then passes over it.

Hints beyond the share of memory for blocks fetched ahead are kept, and take off as earlier ones are read.

Nothing here is thread-safe: the fetcher's lock guards it. A fetch's future is waited for, and resolved, outside of it.
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
FAILURE_REPEATED_S = 2.0
"""The kernel asks again at once, page by page, for what it did not get. Where the store was asked in vain for longer
than this, for minutes perhaps, such a repetition fails in the same way, without being tried."""


class BlockFetch:
    """A block being fetched; `future` resolves to its plain bytes, or fails for all who wait."""

    __slots__ = ("ahead", "block", "claimed", "future", "hinted", "started_at_s")

    def __init__(self, block: BlockLocation, started_at_s: float, *, hinted: bool) -> None:
        self.block = block
        self.started_at_s = started_at_s
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


class InFlightFetches:
    """Flights by hash; at most `ahead_bytes` of blocks are fetched ahead and not read yet."""

    def __init__(self, ahead_bytes: int, clock: Callable[[], float]) -> None:
        self._limit_bytes = ahead_bytes
        self._ahead_bytes = 0
        self._clock = clock
        self._in_flight: dict[BlockHash, BlockFetch] = {}
        self._hints: deque[tuple[BlockLocation, float]] = deque()
        self.unread: OrderedDict[BlockHash, tuple[int, float]] = OrderedDict()
        """Fetched ahead and not read yet: length, and when it came."""

    @property
    def ahead_bytes(self) -> int:
        """How much is being fetched ahead, or was and is not read yet."""
        return self._ahead_bytes

    def __contains__(self, block: BlockHash) -> bool:
        return block in self._in_flight

    def end_all(self) -> list[BlockFetch]:
        """End every fetch and forget every hint."""
        left = list(self._in_flight.values())
        self._hints.clear()
        return [fetch for fetch in left if self.end(fetch, arrived=False)]

    def join_or_start(self, block: BlockLocation) -> tuple[BlockFetch, bool]:
        """The fetch of a block that a reader waits for, and whether the caller has to fetch it."""
        fetch = self._in_flight.get(block.hash)
        if fetch is None:
            fetch = self._in_flight[block.hash] = BlockFetch(block, self._clock(), hinted=False)
            return fetch, True
        if fetch.ahead:
            fetch.ahead = False
            self._ahead_bytes -= fetch.block.plain_length
        return fetch, fetch.claim()

    def hint(self, blocks: Iterable[BlockLocation]) -> None:
        """Remember blocks that will be wanted, the first ones if they are too many."""
        now_s = self._clock()
        room = REMEMBERED_HINTS - len(self._hints)
        self._hints.extend((block, now_s) for block in islice(blocks, room))

    def start(self, is_kept: Callable[[BlockHash], bool]) -> list[BlockFetch]:
        """New fetches for the next hints, unless `is_kept` says that the block is here already.

        They come in batches of a quarter of the limit at least, so that neighbours can be fetched together.
        """
        if not self._hints:
            return []
        self._drop_stale(is_kept)
        if self._limit_bytes - self._ahead_bytes < self._limit_bytes // BATCHES:
            return []
        fetches: list[BlockFetch] = []
        while self._hints:
            block, _ = self._hints[0]
            fits_ever = block.plain_length <= self._limit_bytes
            if fits_ever and block.hash not in self._in_flight and not is_kept(block.hash):
                if self._ahead_bytes + block.plain_length > self._limit_bytes:
                    break
                self._ahead_bytes += block.plain_length
                fetches.append(BlockFetch(block, self._clock(), hinted=True))
                self._in_flight[block.hash] = fetches[-1]
            self._hints.popleft()
        return fetches

    def end(self, fetch: BlockFetch, *, arrived: bool) -> bool:
        """End a fetch; False if it had ended before, and its future is no business of the caller's."""
        if self._in_flight.get(fetch.block.hash) is not fetch:
            return False
        del self._in_flight[fetch.block.hash]
        if fetch.ahead and arrived:
            self.unread[fetch.block.hash] = (fetch.block.plain_length, self._clock())
        elif fetch.ahead:
            self._ahead_bytes -= fetch.block.plain_length
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


class RecentFailures:
    """Blocks that readers waited for just now, for long and in vain."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[BlockHash, tuple[TransientStoreError, float]] = {}
        """By block, what was raised, and until when it is raised again."""

    def note(self, fetches: Iterable[BlockFetch], error: TransientStoreError) -> None:
        """Remember those of the fetches, which failed, that somebody has waited for so long."""
        now_s = self._clock()
        long_waited = (each for each in fetches if not each.ahead and now_s - each.started_at_s >= FAILURE_REPEATED_S)
        self._failures |= {fetch.block.hash: (error, now_s + FAILURE_REPEATED_S) for fetch in long_waited}

    def check(self, block: BlockHash) -> None:
        """Raises what was raised for this block just now."""
        if block not in self._failures:
            return
        error, until_s = self._failures[block]
        if self._clock() < until_s:
            raise type(error)(str(error)) from error
        del self._failures[block]

    def clear(self) -> None:
        """Forget all: the store answers."""
        self._failures.clear()
