# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping the C library from hoarding memory that a mount's process has given back."""

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

_SETTINGS: Mapping[int, int] = MappingProxyType(
    {
        -8: 2,  # M_ARENA_MAX: all threads share two heaps
        -3: 2 << 20,  # M_MMAP_THRESHOLD: packs are mapped apart, and gone when they are freed
        -1: 16 << 20,  # M_TRIM_THRESHOLD: so much free memory may stay at a heap's end
    }
)


def restrain_malloc() -> None:
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
