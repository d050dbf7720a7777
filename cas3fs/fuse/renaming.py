# SPDX-License-Identifier: GPL-3.0-or-later
"""renameat2(2), which Python does not offer: renaming without replacing, and exchanging two names."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100


def rename_new(old: Path, new: Path) -> None:
    """Rename `old` to `new`, which must not exist.

    Raises:
        FileExistsError: `new` exists.
        OSError: as renameat2(2).
    """
    try:
        _rename(old, new, _NOREPLACE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if os.path.lexists(new):  # the front-end llfuse knows no flags
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        old.rename(new)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names, in one step.

    Raises:
        OSError: as renameat2(2); EINVAL where the front-end does not know it.
    """
    _rename(one, other, _EXCHANGE)


def _rename(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(new))
