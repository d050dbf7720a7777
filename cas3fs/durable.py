# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and names that survive a loss of power.

A file that is synced keeps its bytes, but its name only if its folder is synced too.
"""

import os
from pathlib import Path


def sync_folder(path: Path) -> None:
    """Sync a folder: when this returns, the names that it holds are on the disk.

    Raises:
        OSError: as open(2), fsync(2).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, text: str, *, sync: bool = True, sync_name: bool = True) -> None:
    """Replace a file atomically: readers see all of `text`, or what the file held before.

    Args:
        path: the file; a file beside it, with ``.new`` at the end of its name, is overwritten.
        text: what it holds from now on.
        sync: whether the file and its name are on the disk when this returns. Without, a loss of power may undo the
            replacement, or leave an empty file: for what can be lost.
        sync_name: without, and with `sync`, a loss of power may undo the replacement, and leaves a whole file.

    Raises:
        OSError: as open(2), write(2), fsync(2), rename(2).
    """
    temporary = path.with_name(f"{path.name}.new")
    with open(temporary, "w") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if sync and sync_name:
        sync_folder(path.parent)
