# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks that are being fetched, and how much may be fetched ahead.

A fetch is *claimed* once, by the thread that carries it out. A fetch that a hint started stays unclaimed until a worker
reaches it. A reader that needs the block earlier claims it and fetches it at once, and the worker then skips it.

Hints that exceed the share of memory for blocks fetched ahead are queued, and started as earlier blocks are read.

Nothing here is thread-safe: the fetcher's lock guards it. The future of a fetch is waited for, and resolved, outside of
that lock.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice

from cas3fs.errors import TransientStoreError
from cas3fs.values import BlockHash, BlockLocation

STALE_AFTER_S = 10.0
"""A block fetched ahead and not read for so long no longer counts; a hint that old is dropped."""
QUEUED_HINTS = 1024
BATCHES = 4
"""Hints are started in batches of this fraction of the limit."""
FAILURE_REPEATED_S = 2.0
"""After a failed read the kernel at once requests the same data again, page by page. If the store was tried in vain for
longer than this, perhaps for minutes, such a repetition fails with the same error without another request."""


class BlockFetch:
    """The fetch of one block; `future` resolves to its plain bytes, or fails, for every thread that waits."""

    __slots__ = ("ahead", "block", "claimed", "future", "hinted", "started_at_s")

    def __init__(self, block: BlockLocation, started_at_s: float, *, hinted: bool) -> None:
        self.block = block
        self.started_at_s = started_at_s
        self.hinted = hinted
        """Started by a hint, so the caches were not checked yet."""
        self.ahead = hinted
        """No reader waits for it yet."""
        self.claimed = not hinted
        self.future: Future[bytes] = Future()

    def claim(self) -> bool:
        """True for the first caller, who has to fetch the block."""
        first = not self.claimed
        self.claimed = True
        return first


class InFlightFetches:
    """Fetches by block; at most `ahead_bytes` of blocks are fetched ahead and not read yet."""

    def __init__(self, ahead_bytes: int, clock: Callable[[], float]) -> None:
        self._limit_bytes = ahead_bytes
        self._ahead_bytes = 0
        self._clock = clock
        self._in_flight: dict[BlockHash, BlockFetch] = {}
        self._hints: deque[tuple[BlockLocation, float]] = deque()
        self.unread: OrderedDict[BlockHash, tuple[int, float]] = OrderedDict()
        """Blocks fetched ahead and not read yet: length, and when they arrived."""

    @property
    def ahead_bytes(self) -> int:
        """How many bytes are being fetched ahead, or were and are not read yet."""
        return self._ahead_bytes

    def __contains__(self, block: BlockHash) -> bool:
        return block in self._in_flight

    def end_all(self) -> list[BlockFetch]:
        """End every fetch and drop every hint; returns the fetches, whose futures the caller has to fail."""
        left = list(self._in_flight.values())
        self._hints.clear()
        return [fetch for fetch in left if self.end(fetch, arrived=False)]

    def join_or_start(self, block: BlockLocation) -> tuple[BlockFetch, bool]:
        """The fetch of a block that a reader needs, and whether the caller has to carry it out."""
        fetch = self._in_flight.get(block.hash)
        if fetch is None:
            fetch = self._in_flight[block.hash] = BlockFetch(block, self._clock(), hinted=False)
            return fetch, True
        if fetch.ahead:
            fetch.ahead = False
            self._ahead_bytes -= fetch.block.plain_length
        return fetch, fetch.claim()

    def hint(self, blocks: Iterable[BlockLocation]) -> None:
        """Queue blocks that will be needed; the later ones are dropped if they are too many."""
        now_s = self._clock()
        free = QUEUED_HINTS - len(self._hints)
        self._hints.extend((block, now_s) for block in islice(blocks, free))

    def start(self, is_in_memory: Callable[[BlockHash], bool]) -> list[BlockFetch]:
        """Start fetches for the next hints, except for blocks that are in memory already (`is_in_memory`).

        They start in batches of at least a quarter of the limit, so that neighbours can be fetched together.
        """
        if not self._hints:
            return []
        self._drop_stale(is_in_memory)
        if self._limit_bytes - self._ahead_bytes < self._limit_bytes // BATCHES:
            return []
        fetches: list[BlockFetch] = []
        while self._hints:
            block, _ = self._hints[0]
            fits_ever = block.plain_length <= self._limit_bytes
            if fits_ever and block.hash not in self._in_flight and not is_in_memory(block.hash):
                if self._ahead_bytes + block.plain_length > self._limit_bytes:
                    break
                self._ahead_bytes += block.plain_length
                fetches.append(BlockFetch(block, self._clock(), hinted=True))
                self._in_flight[block.hash] = fetches[-1]
            self._hints.popleft()
        return fetches

    def end(self, fetch: BlockFetch, *, arrived: bool) -> bool:
        """End a fetch; False if it had ended before, so that the caller must not resolve its future."""
        if self._in_flight.get(fetch.block.hash) is not fetch:
            return False
        del self._in_flight[fetch.block.hash]
        if fetch.ahead and arrived:
            self.unread[fetch.block.hash] = (fetch.block.plain_length, self._clock())
        elif fetch.ahead:
            self._ahead_bytes -= fetch.block.plain_length
        return True

    def note_read(self, block: BlockHash) -> None:
        """A block fetched ahead was read, so it no longer counts against the limit."""
        length, _ = self.unread.pop(block, (0, 0.0))
        self._ahead_bytes -= length

    def _drop_stale(self, is_in_memory: Callable[[BlockHash], bool]) -> None:
        """Drop old hints, and no longer count blocks that arrived long ago or have left memory, the oldest first."""
        oldest_s = self._clock() - STALE_AFTER_S
        while self._hints and self._hints[0][1] < oldest_s:
            self._hints.popleft()
        while self.unread:
            block, (_, arrived_at_s) = next(iter(self.unread.items()))
            if arrived_at_s >= oldest_s and is_in_memory(block):
                return
            self.note_read(block)


class RecentFailures:
    """Blocks whose fetch has just failed after a long wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[BlockHash, tuple[TransientStoreError, float]] = {}
        """By block, the error, and until when it is raised again."""

    def add(self, fetches: Iterable[BlockFetch], error: TransientStoreError) -> None:
        """Record those of the failed fetches that a reader has waited for so long."""
        now_s = self._clock()
        long_waited = (each for each in fetches if not each.ahead and now_s - each.started_at_s >= FAILURE_REPEATED_S)
        self._failures |= {fetch.block.hash: (error, now_s + FAILURE_REPEATED_S) for fetch in long_waited}

    def raise_if_recent(self, block: BlockHash) -> None:
        """Raise the error of the recent fetch of this block, if there is one."""
        if block not in self._failures:
            return
        error, until_s = self._failures[block]
        if self._clock() < until_s:
            raise type(error)(str(error)) from error
        del self._failures[block]

    def clear(self) -> None:
        """Forget all failures, since the store responds."""
        self._failures.clear()
