# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the reader runs: on one processor, as long as nobody else wants that one.

The kernel wakes the reader for a request, and the program for the reply. Where they run on two processors that have
nothing else to do, each of the two has to be taken out of its idle state every time. In a virtual machine that takes
50 microseconds and more, and what the request itself takes is 5. On one processor they take turns, which costs two.
Left to itself, the scheduler spreads them over two. But when the reader stays where it is, the scheduler brings the
programs to it.

A processor that others compute on is worse than one that has to be woken, and the reader must not stay there. So it
looks now and then how long it was ready to run and had to wait, goes free where that was long, and settles again later
where the scheduler has put it meanwhile. It waits longer each time, up to a point.

A thread begins where the one that made it may run. So those that handlers have made are set free as soon as there are
more threads than before.

Measured (two processors of a virtual machine, null file system, create+write+close of one program): 340 microseconds
free and 39 settled on an idle machine; with a program that computes beside it, 40 either way; with two of them 133 to
530 free and 75 settled; 430 where it would stay on the processor that somebody else has been bound to.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

REVIEW_INTERVAL: Final = 64
"""How many requests are between two calls of `Placement.review`."""
_THREADS = Path("/proc/self/task")
_THREAD = Path("/proc/thread-self")
_PROCESSOR_FIELD = 39 - 3
"""Of ``stat`` behind the name of the command (proc(5))."""
_LOOK_INTERVAL = 32 * REVIEW_INTERVAL
_LONGEST_FREE = 64 * _LOOK_INTERVAL
_LONG_WAIT_NS = 20_000
"""A wait for the processor, for each request, that is longer than waking another one takes at most."""


def waited_ns() -> int:
    """How long this thread was ready to run and waited for a processor, since it began.

    Raises:
        OSError: the kernel does not count that.
    """
    return int((_THREAD / "schedstat").read_bytes().split()[1])


def processor() -> int:
    """The processor on which this thread runs.

    Raises:
        OSError: it cannot be asked.
    """
    return int((_THREAD / "stat").read_bytes().rpartition(b")")[2].split()[_PROCESSOR_FIELD])


class Placement:
    """Keeps one thread, the one that calls `review`, on one processor while that is good for it.

    Begins free. Where the kernel does not tell what is needed, it stays so.
    """

    def __init__(self, waited: Callable[[], int] = waited_ns, processor_now: Callable[[], int] = processor) -> None:
        """`waited` and `processor_now` are asked about the calling thread."""
        self._waited, self._processor_now = waited, processor_now
        self._everywhere = os.sched_getaffinity(0)
        self._is_settled = False
        self._requests = 0
        self._next_look = REVIEW_INTERVAL if len(self._everywhere) > 1 else None
        self._waited_ns = 0
        self._pause = _LOOK_INTERVAL
        self._threads = 0

    def review(self) -> None:
        """Settles the calling thread, frees it, or leaves it as it is; `REVIEW_INTERVAL` requests came since before."""
        if self._next_look is None:
            return
        self._requests += REVIEW_INTERVAL
        try:
            if self._is_settled:
                self._free_new_threads()
            if self._requests >= self._next_look:
                self._next_look = self._requests + self._look()
        except (OSError, ValueError, IndexError):  # it cannot be done here, and nothing depends on it
            self._next_look = None
            self.free()

    def _look(self) -> int:
        before, self._waited_ns = self._waited_ns, self._waited()
        if not self._is_settled:
            self._threads = _count_threads()
            os.sched_setaffinity(0, {self._processor_now()})
            self._is_settled = True
        elif self._waited_ns - before > _LONG_WAIT_NS * _LOOK_INTERVAL:
            self.free()
            self._is_settled = False
            pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_FREE)
            return pause
        else:
            self._pause = _LOOK_INTERVAL
        return _LOOK_INTERVAL

    def _free_new_threads(self) -> None:
        if (number := _count_threads()) != self._threads:
            self._threads = number
            mine = threading.get_native_id()
            for thread in _THREADS.iterdir():
                if int(thread.name) != mine:
                    self._free(int(thread.name))

    def free(self) -> None:
        """Lets the calling thread run everywhere."""
        self._free(0)

    def _free(self, thread: int) -> None:
        with suppress(OSError):  # it has ended, or may not run where it could before
            os.sched_setaffinity(thread, self._everywhere)


def _count_threads() -> int:
    return _THREADS.stat().st_nlink
