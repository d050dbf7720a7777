# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes that identify their origin: which file, which of its writes, and which position.

A file consists of *units* of 4096 bytes. Each 512-byte sector holds the number of the file, the version of the write,
and the position of the sector, and is filled with bytes derived from these. So bytes that were never written, or were
written elsewhere, can be recognized.
"""

import hashlib
import struct

UNIT_BYTES = 4096
SECTOR_BYTES = 512
_HEAD = struct.Struct("<8sQQQ")
_MAGIC = b"stamped:"
_ZEROS = bytes(SECTOR_BYTES)
HOLE = 0
"""The version of bytes that were never written."""


class NotWritten(Exception):
    """Bytes that were not written there."""


def stamp(file: int, version: int, unit: int) -> bytes:
    """The bytes of one unit."""
    first = unit * UNIT_BYTES // SECTOR_BYTES
    return b"".join(_sector(file, version, first + n) for n in range(UNIT_BYTES // SECTOR_BYTES))


def _sector(file: int, version: int, sector: int) -> bytes:
    head = _HEAD.pack(_MAGIC, file, version, sector)
    return head + hashlib.shake_128(head).digest(SECTOR_BYTES - len(head))


def versions(file: int, unit: int, data: bytes) -> set[int]:
    """The versions of the sectors in the bytes of one unit.

    Raises:
        NotWritten: some sector is neither zeros nor a stamp of that file and place.
    """
    found = set()
    first = unit * UNIT_BYTES // SECTOR_BYTES
    for start in range(0, len(data), SECTOR_BYTES):
        sector = data[start : start + SECTOR_BYTES]
        if sector == _ZEROS:
            found.add(HOLE)
            continue
        _, _, version, _ = _HEAD.unpack_from(sector)
        if sector != _sector(file, version, first + start // SECTOR_BYTES):
            raise NotWritten(f"unit {unit} of file {file} holds {sector[:48]!r}")
        found.add(version)
    return found
