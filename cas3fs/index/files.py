# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a database that nobody has open.

Beside ``index.sqlite`` SQLite may keep ``index.sqlite-wal``, the write-ahead log, whose commits it takes over at the
next opening. It knows them by the path alone: a log that is left beside another database of the same name would spoil
that one.
"""

import errno
import os
from pathlib import Path
from typing import Final

from cas3fs.durable import sync_folder
from cas3fs.errors import IndexDatabaseError, IndexFull

FINGERPRINT_SUFFIX: Final = "-fingerprint"
"""Of a file beside a database that tells which bytes it has (`fingerprints`)."""
_COMPANIONS: Final = ("-wal", "-shm", "-journal", FINGERPRINT_SUFFIX)


def remove_database(path: Path) -> None:
    """Removes a database and what SQLite keeps beside it; nothing happens where there is none.

    Raises:
        IndexDatabaseError: something could not be removed.
    """
    remove_companions(path)
    _remove(path)


def remove_companions(path: Path) -> None:
    """Removes what SQLite keeps beside a database, commits included that are not in the database itself yet.

    Raises:
        IndexDatabaseError: something could not be removed.
    """
    for suffix in _COMPANIONS:
        _remove(Path(f"{path}{suffix}"))


def put_in_place(source: Path, destination: Path) -> None:
    """Lets the database `source`, one file on the same file system, take the place of `destination`, durably.

    After a crash either of the two is there, whole; of the former one only what was in its database file, so close it
    first.

    Raises:
        IndexFull: no room on the disk.
        IndexDatabaseError: the disk failed.
    """
    remove_companions(destination)
    try:
        _sync(source)
        source.replace(destination)
        sync_folder(destination.parent)
    except OSError as error:
        raise os_fault(destination, error) from error


def os_fault(path: Path, error: OSError) -> IndexDatabaseError:
    """The exception that stands for an error of the operating system about the database `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return IndexFull(f"{path}: no room on its disk")
    return IndexDatabaseError(f"{path}: {error.strerror}")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise os_fault(path, error) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
