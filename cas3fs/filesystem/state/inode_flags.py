# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags of inodes, as chattr(1) sets them, and what they forbid.

The kernel checks who may set them, and knows nothing else of them; so everything that they forbid is refused here, with
EPERM, as ext4 does:

- *immutable*: nothing of the inode may change, in a directory no name either; no names may be added to it or taken;
- *append-only*: a file is opened for writing with O_APPEND only, and never cut; of a directory no names are taken.

Superusers are refused as well: they may take the flag away first. Nothing is checked where no flag is set, which costs
a comparison.
"""

import errno
from typing import Final

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.state.inodes import Inode

IMMUTABLE: Final = 0x10
APPEND: Final = 0x20
NODUMP: Final = 0x40
NOATIME: Final = 0x80
"""As ``FS_IOC_GETFLAGS`` has them. The last two are kept, and ask for nothing: reading never changes the atime here."""
KNOWN: Final = IMMUTABLE | APPEND | NODUMP | NOATIME
INHERITED: Final = NODUMP | NOATIME
"""New files and folders take these over from their directory."""
PROTECTED: Final = IMMUTABLE | APPEND


def refuse_if(forbidden: int) -> None:
    """Raises FileSystemError, EPERM, where a flag forbids it."""
    if forbidden:
        raise FileSystemError(errno.EPERM)


def check_entry_added(directory: Inode) -> None:
    """Checks that the directory may get one more name.

    Raises:
        FileSystemError: EPERM.
    """
    refuse_if(directory.flags & IMMUTABLE)


def check_entry_removed(directory: Inode, inode: Inode) -> None:
    """Checks that a name of `inode` may be taken out of its directory.

    Raises:
        FileSystemError: EPERM.
    """
    refuse_if((directory.flags | inode.flags) & PROTECTED)
