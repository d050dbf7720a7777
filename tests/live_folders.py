# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of folders in which a running process works: what another one finds if that is killed now."""

import shutil
from collections.abc import Callable
from pathlib import Path

_ATTEMPTS = 10


def copy_live_folder(source: Path, target: Path, ignore: Callable[[str, list[str]], set[str]] | None = None) -> None:
    """Copies a folder as `shutil.copytree` does, once more if a file was renamed or removed meanwhile."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            shutil.copytree(source, target, ignore=ignore)
            return
        except shutil.Error:
            if attempt == _ATTEMPTS:
                raise
            shutil.rmtree(target)
