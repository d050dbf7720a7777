# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of a mount's process: the C library hoards less of it, and Python looks less often for what is to be freed.

Python's full collections pass over every object, a third of a million while a tree is written, with the interpreter's
lock held, and come the oftener the faster objects are made: a fifth of the time that it took to create files. Here a
clock brings them. The young generations are collected as ever, and most objects need neither, as nothing refers to
them in a circle.
"""

import ctypes
import gc
import resource
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Self

_SETTINGS: Mapping[int, int] = MappingProxyType(
    {
        -8: 2,  # M_ARENA_MAX: all threads share two heaps
        -3: 2 << 20,  # M_MMAP_THRESHOLD: packs are mapped apart, and gone when they are freed
        -1: 4 << 20,  # M_TRIM_THRESHOLD: so much free memory may stay at a heap's end
    }
)


_SELDOM = 1_000_000
"""Collections of the middle generation before a full one comes by itself: never."""
_FULL_COLLECTIONS_S = 30.0
_MANY_DESCRIPTORS = 65_536


class TimedGc:
    """Within it, full collections come by the clock, and leave out what is there at its beginning."""

    def __init__(self, interval_s: float = _FULL_COLLECTIONS_S) -> None:
        self._interval_s = interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._usual = gc.get_threshold()

    def __enter__(self) -> Self:
        young, middle, _ = self._usual
        gc.collect()
        gc.freeze()
        gc.set_threshold(young, middle, _SELDOM)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        gc.set_threshold(*self._usual)
        gc.unfreeze()

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            gc.collect()


def limit_malloc_arenas() -> None:
    """Makes glibc keep less of what was freed.

    It gives up to eight heaps per core to threads that allocate at once, raises the size from which memory is mapped
    apart to that of the largest piece ever freed, and keeps what each heap has ever held; with the mebibytes that
    storing threads hand to each other that adds up to hundreds.  Other C libraries have no such settings and no such
    habit.
    """
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for option, value in _SETTINGS.items():
            set_option(option, value)


def raise_descriptor_limit() -> None:
    """Raises the soft limit of open files, 1024 as a rule for the sake of select(2), to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MANY_DESCRIPTORS):  # where the hard limit is infinite, the system may refuse it
        if soft != resource.RLIM_INFINITY and (soft < wanted or wanted == resource.RLIM_INFINITY):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return
