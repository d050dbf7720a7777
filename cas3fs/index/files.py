# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a database that is not open, and whether it is, byte by byte, what it was when it was closed.

Beside ``index.sqlite`` SQLite may keep ``index.sqlite-wal``, the write-ahead log, whose commits it takes over at the
next opening. It knows them by the path alone: a log that is left beside another database of the same name would spoil
that one.

A disk may lose a write that it has acknowledged, or give back other bytes later. So when an index is closed that
holds what a snapshot holds, the BLAKE3 of the whole file is written beside it::

    index.sqlite-fingerprint    {"snapshot": id, "size": bytes, "blake3": in hex}

While this is there the file is what that snapshot holds, or damaged; then the snapshot can take its place without loss.
It is removed, durably, before anything changes the index. Where there is none, nothing is known.

Hashing reads the file once: 0.1 s for 300 MiB that the system has in memory.
"""

import errno
import json
import os
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from cas3fs.durable import replace_file, sync_folder
from cas3fs.errors import IndexCorrupt, IndexDatabaseError, IndexFull

FINGERPRINT_SUFFIX: Final = "-fingerprint"
_PIECE_BYTES: Final = 4 << 20
HASHES_SUFFIX: Final = "-hashes"
HASHES_OPEN_SUFFIX: Final = "-hashes-open"
"""Of the database that finds blocks by their hashes (`cas3fs.index.hash_index`): closed well, and in use."""
_COMPANIONS: Final = ("-wal", "-shm", "-journal", FINGERPRINT_SUFFIX, HASHES_SUFFIX, HASHES_OPEN_SUFFIX)


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
        IndexFull: no space left on the disk.
        IndexDatabaseError: the disk failed.
    """
    remove_companions(destination)
    try:
        sync_file(source)
        source.replace(destination)
        sync_folder(destination.parent)
    except OSError as error:
        raise os_fault(destination, error) from error


def os_fault(path: Path, error: OSError) -> IndexDatabaseError:
    """The exception that stands for an error of the operating system about the database `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return IndexFull(f"{path}: no space left on its disk")
    return IndexDatabaseError(f"{path}: {error.strerror}")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise os_fault(path, error) from error


def sync_file(path: Path) -> None:
    """Makes a file durable that is not open; raises OSError as open(2), fsync(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_fingerprint(path: Path, snapshot: str) -> bool:
    """Writes the fingerprint of an index that holds what `snapshot` holds; whether it could be: while another
    connection is open, some of it may lie in the log.

    Raises:
        IndexDatabaseError: the disk failed.
    """
    log = Path(f"{path}-wal")
    try:
        if log.exists() and log.stat().st_size:
            return False
        fingerprint = json.dumps({"snapshot": snapshot, "size": path.stat().st_size, "blake3": hash_file(path)})
        replace_file(_place(path), fingerprint)
    except OSError as error:
        raise os_fault(path, error) from error
    return True


def check_fingerprint(path: Path) -> None:
    """Compares an index with its fingerprint, if there is one.

    Raises:
        IndexCorrupt: it is not what it was.
        IndexDatabaseError: the disk failed.
    """
    found = _read(path)
    try:
        if found is None or (path.stat().st_size == found["size"] and hash_file(path) == found["blake3"]):
            return
    except OSError as error:
        raise os_fault(path, error) from error
    raise IndexCorrupt(f"{path}: its bytes are not those that were written")


def fingerprinted(path: Path) -> str | None:
    """The snapshot that an index with a fingerprint holds; None where there is none."""
    found = _read(path)
    return None if found is None else str(found["snapshot"])


def remove_fingerprint(path: Path) -> None:
    """Removes the fingerprint, as the index is about to change; nothing happens where there is none.

    Raises:
        IndexDatabaseError: the disk failed.
    """
    try:
        if _place(path).exists():
            _place(path).unlink()
            sync_folder(path.parent)
    except OSError as error:
        raise os_fault(path, error) from error


def _place(path: Path) -> Path:
    return Path(f"{path}{FINGERPRINT_SUFFIX}")


def _read(path: Path) -> Any:
    try:
        found = json.loads(_place(path).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"snapshot", "size", "blake3"} <= set(found) else None


def hash_file(path: Path) -> str:
    """The BLAKE3 of a file that is not open, in hexadecimal; raises OSError as open(2), read(2)."""
    hasher = blake3()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()
