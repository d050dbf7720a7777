# SPDX-License-Identifier: GPL-3.0-or-later
"""Quarantine: staged records and files that cannot be used, kept for a person to examine in the folder ``aside`` below
staging; nothing there is read again.

::

    INODE-SEQ.TIME.json    a record that cannot be restored: its values, bytes in hexadecimal, and the reason
    INODE-SEQ.TIME.bytes   the bytes that it had
    INODE-SEQ.TIME         a file of staged bytes whose record is missing or damaged
    staging.sqlite.TIME    a database of records that could not be read (`cas3fs.index.salvage`)

INODE and SEQ are hexadecimal, TIME is in nanoseconds. ``cas3fs rescue`` saves all of it, ``cas3fs fsck`` reports the
records and databases.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cas3fs.durable import sync_folder
from cas3fs.index.staging import StagedRow


def quarantine_folder(staging: Path) -> Path:
    """The quarantine of a folder of staged bytes."""
    return staging / "aside"


def quarantined_items(staging: Path) -> Iterator[tuple[Path, str]]:
    """The quarantined records and databases, each with the reason."""
    folder = quarantine_folder(staging)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix == ".json":
            yield path, _reason_in(path)
        elif path.name.startswith("staging.sqlite.") and not path.name.endswith(("-wal", "-shm")):
            yield path, "it could not be read in parts"


def copy_quarantine(staging: Path, destination: Path) -> int:
    """Copies the quarantine into a folder, which is made if there is anything to copy.

    Returns:
        how many files were copied.

    Raises:
        OSError: it could not be copied.
    """
    folder = quarantine_folder(staging)
    found = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    for path in found:
        destination.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(path, destination / path.name)
    return len(found)


def _reason_in(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its reason cannot be read"


class Quarantine:
    """Adds to the quarantine of one folder of staged bytes."""

    def __init__(self, staging: Path) -> None:
        """Makes no folder yet.

        Args:
            staging: the folder of staged bytes.
        """
        self.folder = quarantine_folder(staging)
        self._is_used = False

    def keep(self, row: StagedRow, reason: str) -> Path:
        """Writes a row to a file; durable after `sync`.

        Returns:
            the file.

        Raises:
            OSError: it could not be written.
        """
        self._make()
        name = f"{_text(row.inode)}-{_text(row.seq)}.{time.time_ns()}"
        values: dict[str, Any] = {key: _plain(value) for key, value in row._asdict().items()}
        if isinstance(row.data, bytes):
            values["data"] = f"{name}.bytes"
            _write(self.folder / f"{name}.bytes", row.data)
        path = self.folder / f"{name}.json"
        _write(path, json.dumps(values | {"reason": reason}).encode())
        return path

    def move(self, path: Path) -> None:
        """Moves a file into the quarantine; durable after `sync`.

        Raises:
            OSError: it could not be moved.
        """
        self._make()
        path.rename(self.folder / f"{path.name}.{time.time_ns()}")

    def sync(self) -> None:
        """Makes what was quarantined survive a loss of power.

        Raises:
            OSError: as fsync(2).
        """
        if self._is_used:
            sync_folder(self.folder)
            sync_folder(self.folder.parent)

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._is_used = True


def _text(number: object) -> str:
    return f"{number:x}" if isinstance(number, int) and number >= 0 else "unknown"


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _write(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
