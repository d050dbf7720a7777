# SPDX-License-Identifier: GPL-3.0-or-later
"""How the reader waits for the next request: for a moment by asking again and again, and then asleep.

A program that works through a tree sends one request after the other, each a few microseconds after the reply to the
one before. A reader that goes to sleep between them has to be woken each time; on a processor that has nothing else to
do meanwhile, in a virtual machine, that takes 30 microseconds and more, and what the request itself takes is 5. So the
reader *spins*: it asks for about 50 microseconds whether there is a request.

That is of no use where requests come rarely, and harmful where others need the processor, or another thread the
interpreter: an attempt takes long then. The reader notices either, and *rests*: it sleeps while it waits for the next
thousands of requests, and tries again later.

Measured (two processors of a virtual machine, create+write+close of one program, in turns): on an idle machine the null
file system took 353 to 384 microseconds asleep and 109 to 157 spinning, cas3fs 373 to 428 and 212 to 266; beside a
program that computes cas3fs took 74 to 84 and 74 to 77. Keeping the reader on one processor does not help: the
scheduler moves the program away.
"""

from time import perf_counter_ns
from typing import Final

from cas3fs.fuse.kernel.channel import Channel

ATTEMPTS: Final = 40
_ROUND: Final = 64
"""After so many requests it is decided whether to rest."""
_MOST_MISSES: Final = _ROUND // 2
_MOST_SLOW: Final = _ROUND // 16
_SLOW_NS: Final = 10_000
"""An attempt takes no longer on average, where nobody else wants the processor."""
REST: Final = 4096
"""How many requests a rest lasts."""


class Waiter:
    """Takes requests from a channel for its one reader."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._rest = _ROUND
        self._left = _ROUND
        self._misses = self._slow = 0

    @property
    def is_spinning(self) -> bool:
        """Whether it does not sleep at once."""
        return not self._rest

    def receive(self, buffers: list[memoryview]) -> int:
        """As `Channel.receive`."""
        if self._rest:
            self._rest -= 1
            return self._channel.receive(buffers)
        if not self._left:
            self._review()
        self._left -= 1
        return self._spin(buffers)

    def _spin(self, buffers: list[memoryview]) -> int:
        channel, attempts, length, began_ns = self._channel, 0, None, perf_counter_ns()
        channel.set_blocking(False)
        try:
            while length is None and attempts < ATTEMPTS:
                attempts += 1
                length = channel.receive_now(buffers)
        finally:
            channel.set_blocking(True)
        if perf_counter_ns() - began_ns > _SLOW_NS * attempts:
            self._slow += 1
        if length is None:
            self._misses += 1
            length = channel.receive(buffers)
        return length

    def _review(self) -> None:
        if self._misses > _MOST_MISSES or self._slow > _MOST_SLOW:
            self._rest = REST
        self._left, self._misses, self._slow = _ROUND, 0, 0
