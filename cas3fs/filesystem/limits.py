# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of what programs hand in, checked where it comes in: the index holds signed integers of 64 bits.

A time that does not fit is moved to the first or last one that does, as ext4 does with times beyond its own limits
(1901 and 2446); anything else is refused.
"""

import errno

from cas3fs.errors import FileSystemError

INTEGER_MAX = 2**63 - 1
SIZE_MAX = INTEGER_MAX
NAME_MAX = 255
"""Of a name, and of the name of an extended attribute, in bytes."""
TIME_MIN_NS, TIME_MAX_NS = -(2**63), INTEGER_MAX
"""21 September 1677 and 11 April 2262."""
OWNER_MAX = 2**32 - 1


def clamped_ns(time_ns: int) -> int:
    """The nearest time that can be kept."""
    return min(max(time_ns, TIME_MIN_NS), TIME_MAX_NS)


def check_owner(uid: int, gid: int) -> None:
    """Checks that there can be such a user and such a group.

    Raises:
        FileSystemError: EINVAL, there cannot.
    """
    if not (0 <= uid <= OWNER_MAX and 0 <= gid <= OWNER_MAX):
        raise FileSystemError(errno.EINVAL)
