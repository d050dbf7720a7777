# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers that programs hand in, checked where they come in: the index holds integers of 64 bits with a sign.

A time that does not fit is moved to the first or last that does, as ext4 does with those beyond its own (1901 and
2446); anything else is refused.
"""

import errno

from cas3fs.errors import FileSystemError

INTEGER_MAX = 2**63 - 1
TIME_MIN_NS, TIME_MAX_NS = -(2**63), INTEGER_MAX
"""21 September 1677 and 11 April 2262."""
OWNER_MAX = 2**32 - 1


def clamped_ns(time_ns: int) -> int:
    """The nearest time that can be kept."""
    return min(max(time_ns, TIME_MIN_NS), TIME_MAX_NS)


def checked_owner(number: int) -> int:
    """A user or group.

    Raises:
        FileSystemError: EINVAL, there is none of that number.
    """
    return _checked(number, OWNER_MAX)


def checked_device(number: int) -> int:
    """The number of a device.

    Raises:
        FileSystemError: EINVAL, there is none of that number.
    """
    return _checked(number, INTEGER_MAX)


def checked_offset(offset: int) -> int:
    """A place in a file.

    Raises:
        FileSystemError: EINVAL, it lies before the file's beginning.
    """
    if offset < 0:
        raise FileSystemError(errno.EINVAL)
    return offset


def _checked(number: int, most: int) -> int:
    if not 0 <= number <= most:
        raise FileSystemError(errno.EINVAL)
    return number
