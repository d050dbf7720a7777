# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping the C library from hoarding memory that a mount's process has given back."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
_ARENAS = 2


def share_arenas() -> None:
    """Lets all threads allocate from two heaps.

    glibc gives up to eight heaps per core to threads that allocate at once, and keeps what each has ever held; with
    the mebibytes that storing threads hand to each other that adds up to hundreds.  Other C libraries have no such
    setting and no such habit.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
