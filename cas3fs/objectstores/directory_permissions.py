# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may read the files of a store in a directory: its owner, and its group where that was asked for.

Whatever a file of the volume allowed to whom, its bytes lie in the store: so folders have mode 0700 and files 0600,
whatever the process's umask. With `share_with_group` they have 0750 and 0640; the mode of the store's own folder
``.partial`` says so to whoever opens the store later.
"""

import os
import stat
from contextlib import suppress
from typing import Final

_OTHERS: Final = 0o007
_GROUP: Final = 0o070
_SHARED: Final = 0o050


class Modes:
    """The modes of what is made in a store."""

    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self._bits = _SHARED if is_shared else 0

    @classmethod
    def of(cls, folder: int, name: str) -> "Modes":
        """Those that the mode of the store's own folder, `name` in the open `folder`, says."""
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
        """What a file is given beside 0600."""
        return self._bits & 0o040


def permission_warning_of(root: int, modes: Modes) -> str:
    """Whom the folders at the top of a store let in who should not be: `everybody`, `its group`, or nobody."""
    top = os.fstat(root).st_mode
    found = 0
    with os.scandir(root) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # it went just now
                mode = entry.stat(follow_symlinks=False).st_mode
                found |= 0 if stat.S_ISLNK(mode) else mode
    if top & 0o001 and found & _OTHERS:
        return "everybody"
    return "its group" if top & 0o010 and found & _GROUP and not modes.is_shared else ""
