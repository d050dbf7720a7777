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
