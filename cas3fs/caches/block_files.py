# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of the disk cache: one per block. Any part of a block can be read and checked without the rest.

::

    <root>/ab/ab12...   the block whose hash is ab12... in hex
    <root>/tmp/...      files being written, named by process and number

A block's file::

    offset  size     field
    0       8        magic and version, b"c3cache" 0x01
    8       8        plain length L, unsigned, little-endian
    16      8 * N    checksums of the N = ceil(L / 32768) pieces
    16+8*N  L        the plain bytes

A *piece* is 32 KiB of the block; the last one may be shorter. Its checksum is the first 8 bytes of BLAKE3 in keyed
mode, with the block's hash as the key, over the piece followed by its number and L (both 8 bytes, little-endian). So a
piece is valid only in its own place of its own block: a file that was swapped, truncated, half written or damaged does
not match. When a whole block is read, its bytes are checked against the block's hash instead.

A file is written whole under ``tmp`` and renamed into place. Nothing is synced: the checksums expose a file that a
crash left half written. Nothing is allocated for a length that was read from a file until the file is known to be that
long, and no longer than a block can be: a sparse file may claim any length.
"""

import itertools
import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from blake3 import blake3

from cas3fs.caches.base import LARGEST_BLOCK_BYTES, BlockCheck, part_of
from cas3fs.localdisk import LocalDisk
from cas3fs.values import BlockHash, Buffer

PIECE_BYTES = 32 * 1024
CHECKSUM_BYTES = 8
MAGIC = b"c3cache\x01"
_HEADER = struct.Struct("<8sQ")
_CHECKSUM_SUFFIX = struct.Struct("<QQ")
_HEADER_BYTES = _HEADER.size

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a fifo must not block
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_STAT_BLOCK_BYTES = 512
_ABANDONED_AFTER_S = 600.0
"""A temporary file that is older belongs to a process that has ended."""
_SUBFOLDER = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(r"[0-9a-f]{64}")


class CorruptBlockFile(Exception):
    """The file does not hold the expected block."""


def file_length(plain_length: int) -> int:
    """Return how long the file of a block of `plain_length` bytes is."""
    return _HEADER_BYTES + CHECKSUM_BYTES * _piece_count(plain_length) + plain_length


def file_header(block: BlockHash, plain: Buffer) -> bytes:
    """Return everything that precedes the plain bytes in the block's file."""
    view, length = memoryview(plain), len(plain)
    checksums = [
        _checksum(block, view[number * PIECE_BYTES : (number + 1) * PIECE_BYTES], number, length)
        for number in range(_piece_count(length))
    ]
    return b"".join([_HEADER.pack(MAGIC, length), *checksums])


def read_whole(disk: LocalDisk, file: int, block: BlockHash, check: BlockCheck) -> bytes:
    """Read the plain bytes of `block` from its open file.

    Raises:
        CorruptBlockFile: the bytes are not those of `block`.
        OSError: reading failed.
    """
    length = _plain_length(disk.read(file, _HEADER_BYTES, 0))
    if os.fstat(file).st_size != file_length(length):
        raise CorruptBlockFile
    plain = disk.read(file, length, file_length(length) - length)
    if not check(block, plain):
        raise CorruptBlockFile
    return plain


def read_part(disk: LocalDisk, file: int, block: BlockHash, skip: int, length: int) -> Buffer:
    """Read `length` bytes (at least 1) from `skip` on; reads only the pieces that contain them.

    Raises:
        CorruptBlockFile: the pieces are not those of `block`, or the block is shorter.
        OSError: reading failed.
    """
    first, last = skip // PIECE_BYTES, (skip + length - 1) // PIECE_BYTES
    header = disk.read(file, _HEADER_BYTES + CHECKSUM_BYTES * (last + 1), 0)
    plain_length = _plain_length(header)
    if skip + length > plain_length:
        raise CorruptBlockFile
    start, stop = first * PIECE_BYTES, min((last + 1) * PIECE_BYTES, plain_length)
    pieces = disk.read(file, stop - start, file_length(plain_length) - plain_length + start)
    if len(pieces) != stop - start:
        raise CorruptBlockFile
    _check_pieces(block, header, pieces, first, plain_length)
    return part_of(pieces, skip - start, length)


class FoundFile(NamedTuple):
    """A block's file, as found by `BlockFolder.walk`."""

    used_ns: int
    """When it was last written or, as far as the file system records it, read."""
    block: BlockHash
    disk_bytes: int
    """The disk space that it uses."""


class BlockFolder:
    """The folder at `root`, which is created if it is missing.

    Its only changing state is a serial number, so any thread may call any method. Every method may raise OSError.
    """

    def __init__(self, root: str, disk: LocalDisk) -> None:
        self.root = root
        self._disk = disk
        self._temporary = f"{root}/tmp"
        self._serial = itertools.count()
        self.make()
        self.allocation_unit_bytes = max(os.statvfs(root).f_frsize, 4096)

    def make(self) -> None:
        """Create the folder and ``tmp``, as far as they are missing."""
        for folder in (self.root, self._temporary):  # one by one: `mode` applies to the last component only
            os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103  (strings throughout: Path is slower)

    def open(self, block: BlockHash) -> int:
        """Open the block's file for reading; return the descriptor."""
        return self._disk.open(self._path(block), _READ_FLAGS)

    def disk_bytes_of(self, block: BlockHash) -> int:
        """Return the disk space that the block's file uses."""
        return os.stat(self._path(block), follow_symlinks=False).st_blocks * _STAT_BLOCK_BYTES  # noqa: PTH116

    def write(self, block: BlockHash, content: Sequence[Buffer]) -> int:
        """Create or replace the block's file; leaves nothing behind on failure.

        Returns:
            The disk space that the file uses.
        """
        temporary = f"{self._temporary}/{os.getpid()}-{id(self):x}-{next(self._serial)}"
        file = self._disk.open(temporary, _WRITE_FLAGS)
        try:
            try:
                self._write_all(file, content)
                disk_bytes = os.fstat(file).st_blocks * _STAT_BLOCK_BYTES
            finally:
                self._disk.close(file)
            self._rename(temporary, self._path(block))
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        return disk_bytes

    def remove(self, block: BlockHash) -> None:
        """Delete the block's file, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(block))  # noqa: PTH108

    def free_bytes(self) -> int:
        """Return how much an ordinary user may still write on this disk."""
        return self._disk.free_bytes(self.root)

    def is_new(self) -> bool:
        """Return whether no block was ever stored here."""
        return not any(_SUBFOLDER.fullmatch(name) for name in os.listdir(self.root))  # noqa: PTH208

    def walk(self, stopped: Callable[[], bool]) -> Iterator[FoundFile]:
        """Yield the files of all blocks, until `stopped()`; a file that vanishes meanwhile is left out."""
        for subfolder in os.listdir(self.root):  # noqa: PTH208
            if _SUBFOLDER.fullmatch(subfolder):
                with suppress(FileNotFoundError), os.scandir(f"{self.root}/{subfolder}") as entries:
                    for entry in entries:
                        if stopped():
                            return
                        if _FILE.fullmatch(entry.name):
                            yield from _found(entry)

    def remove_abandoned(self) -> None:
        """Delete the temporary files of processes that ended while writing."""
        oldest_s = time.time() - _ABANDONED_AFTER_S
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                        os.unlink(entry.path)  # noqa: PTH108

    def _write_all(self, file: int, content: Sequence[Buffer]) -> None:
        """Write all of `content`; one system call, unless the system writes less at once."""
        rest = [memoryview(piece) for piece in content if len(piece)]
        while rest:
            written = self._disk.append(file, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][written:]

    def _path(self, block: BlockHash) -> str:
        name = block.hex()
        return f"{self.root}/{name[:2]}/{name}"

    def _rename(self, temporary: str, path: str) -> None:
        try:
            os.rename(temporary, path)  # noqa: PTH104
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
            os.rename(temporary, path)  # noqa: PTH104


def _piece_count(plain_length: int) -> int:
    return -(-plain_length // PIECE_BYTES)


def _plain_length(header: bytes) -> int:
    if len(header) < _HEADER_BYTES:
        raise CorruptBlockFile
    magic, length = _HEADER.unpack_from(header)
    if magic != MAGIC or length > LARGEST_BLOCK_BYTES:
        raise CorruptBlockFile
    return int(length)


def _check_pieces(block: BlockHash, header: bytes, pieces: bytes, first: int, plain_length: int) -> None:
    view = memoryview(pieces)
    for number in range(first, first + _piece_count(len(pieces))):
        place = (number - first) * PIECE_BYTES
        start = _HEADER_BYTES + CHECKSUM_BYTES * number
        expected = header[start : start + CHECKSUM_BYTES]
        if _checksum(block, view[place : place + PIECE_BYTES], number, plain_length) != expected:
            raise CorruptBlockFile


def _checksum(block: BlockHash, piece: Buffer, number: int, plain_length: int) -> bytes:
    return blake3(piece, key=block).update(_CHECKSUM_SUFFIX.pack(number, plain_length)).digest(CHECKSUM_BYTES)


def _found(entry: "os.DirEntry[str]") -> Iterator[FoundFile]:
    with suppress(FileNotFoundError):
        state = entry.stat(follow_symlinks=False)
        used_ns = max(state.st_mtime_ns, state.st_atime_ns)
        yield FoundFile(used_ns, BlockHash(bytes.fromhex(entry.name)), state.st_blocks * _STAT_BLOCK_BYTES)
