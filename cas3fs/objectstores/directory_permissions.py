# SPDX-License-Identifier: GPL-3.0-or-later
"""Permissions of the files of a store in a directory: for its owner, and for its group where the user wants that.

The store holds the bytes of all files of a volume, also of those that only some users may read there. So folders have
mode 0700 and files 0600, whatever the process's umask is. With `share_with_group` they have 0750 and 0640; the mode of
the store's own folder ``.partial`` records that for later processes.
"""

import os
import stat
from contextlib import suppress
from typing import Final

_OTHERS: Final = 0o007
_GROUP: Final = 0o070
_SHARED: Final = 0o050


class PermissionBits:
    """The permission bits of new files and folders of a store."""

    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self._bits = _SHARED if is_shared else 0

    @classmethod
    def of(cls, folder: int, name: str) -> "PermissionBits":
        """The permission bits that the store's own folder, `name` in the open `folder`, records."""
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except OSError:
            return cls()
        return cls(is_shared=mode & (_GROUP | _OTHERS) == _SHARED)

    def make_folder(self, name: str, above: int) -> None:
        """Make the folder in the open folder `above`.

        Raises:
            OSError: that failed.
        """
        os.mkdir(name, 0o700, dir_fd=above)
        if self._bits:
            mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
            os.chmod(name, stat.S_IMODE(mode) | self._bits, dir_fd=above)

    @property
    def file_bits(self) -> int:
        """The bits of a file beside 0600."""
        return self._bits & 0o040


def unexpected_readers(root: int, permission_bits: PermissionBits) -> str:
    """Who can read a store besides those who should: ``everybody``, ``its group``, or an empty text for nobody."""
    top = os.fstat(root).st_mode
    found = 0
    with os.scandir(root) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # it was deleted meanwhile
                mode = entry.stat(follow_symlinks=False).st_mode
                found |= 0 if stat.S_ISLNK(mode) else mode
    if top & 0o001 and found & _OTHERS:
        return "everybody"
    return "its group" if top & 0o010 and found & _GROUP and not permission_bits.is_shared else ""
