# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes names durable: a file that is synced has its bytes after a loss of power, but its name only if its folder
is synced, too."""

import os
from pathlib import Path


def sync_folder(path: Path) -> None:
    """The names that the folder holds are on the disk when this returns.

    Raises:
        OSError: as open(2), fsync(2).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, text: str) -> None:
    """The file holds `text`, or what it held before; with its name it is on the disk when this returns.

    Raises:
        OSError: as open(2), write(2), fsync(2), rename(2).
    """
    temporary = path.with_name(f"{path.name}.new")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
