# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of the process of a mount: less memory kept by the C library, fewer full garbage collections, more open files.

A full collection of Python visits every object, a third of a million while a tree is written, with the interpreter's
lock held. By default they come the more often the faster objects are made: a fifth of the time that it took to create
files. `TimedGc` runs them by a clock instead. The young generations are collected as usual, and most objects need
neither, as nothing refers to them in a cycle.

Thresholds alone (`gc.freeze` and a full collection after 1,000 of the middle generation) cost as little: while 20,000
files are created, 0.06 to 0.08 s of CPU go to collections, with the clock 0.07 to 0.09 s, and with Python's defaults
0.21 to 0.33 s. But thresholds count objects, not bytes, and only count while objects are made. The clock also frees,
within half a minute, a cycle that holds the bytes of a pack, when the mount is idle.
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
        -3: 2 << 20,  # M_MMAP_THRESHOLD: packs are mapped separately, and unmapped when they are freed
        -1: 4 << 20,  # M_TRIM_THRESHOLD: this much free memory may stay at a heap's end
    }
)


_SELDOM = 1_000_000
"""Collections of the middle generation before a full one runs by itself: never, in effect."""
_FULL_COLLECTIONS_S = 30.0
_MANY_DESCRIPTORS = 65_536


class TimedGc:
    """A context in which full collections run at intervals, and skip the objects that exist at its beginning."""

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
    """Make glibc keep less of the memory that was freed.

    It gives up to eight heaps per core to threads that allocate at once, raises the size from which memory is mapped
    separately to that of the largest piece ever freed, and keeps what each heap has ever held. Storing threads pass
    mebibytes to each other, so this adds up to hundreds of them. Other C libraries neither do this nor have such
    settings.
    """
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for option, value in _SETTINGS.items():
            set_option(option, value)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files, usually 1024 for the sake of select(2), to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MANY_DESCRIPTORS):  # where the hard limit is infinite, the system may refuse it
        if soft != resource.RLIM_INFINITY and (soft < wanted or wanted == resource.RLIM_INFINITY):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return
