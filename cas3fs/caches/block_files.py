# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of one block in the disk cache: any part of it can be read and checked without the rest.

::

    offset  size     field
    0       8        magic and version, b"c3cache" 0x01
    8       8        plain length L, unsigned, little-endian
    16      8 * N    checksums of the N = ceil(L / 32768) pieces
    16+8*N  L        the plain bytes

A *piece* is 32 KiB of the block, the last one may be shorter. Its checksum is the first 8 bytes of BLAKE3 in keyed
mode, the key being the block's hash, over the piece followed by its number and L (both 8 bytes, little-endian). So a
piece is believed only in its own place of its own block: files swapped, cut short, half written or rotten do not match.
A read of the whole block is checked against the block's hash itself.

Nothing here allocates for a length that was read from a file before the file is known to be that long, and no block is
longer than `LARGEST_BLOCK_BYTES`: a sparse file is as long as it likes.

The folder of the disk cache: one file per block, written whole and renamed into place.

::

    <root>/ab/ab12...   the frame (cas3fs.caches.block_files) of the block whose hash in hex is ab12...
    <root>/tmp/...      files being written, named by process and number

Nothing is synced: a file that a crash left half written is found out by its checksums. Only system calls here, no state
that changes but a serial number, so any thread may call anything. Every method may raise OSError.
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

from cas3fs.caches.base import part_of
from cas3fs.localdisk import LocalDisk
from cas3fs.values import BlockHash, Buffer

PIECE_BYTES = 32 * 1024
CHECKSUM_BYTES = 8
LARGEST_BLOCK_BYTES = 16 * 1024 * 1024
MAGIC = b"c3cache\x01"
_HEADER = struct.Struct("<8sQ")
_PLACE = struct.Struct("<QQ")
HEADER_BYTES = _HEADER.size


class CorruptBlockFile(Exception):
    """The file is not the frame of that block."""


def piece_count(plain_length: int) -> int:
    """How many pieces a block of that length has."""
    return -(-plain_length // PIECE_BYTES)


def file_length(plain_length: int) -> int:
    """How long the file of a block of that length is, in bytes."""
    return HEADER_BYTES + CHECKSUM_BYTES * piece_count(plain_length) + plain_length


def file_header(block: BlockHash, plain: Buffer) -> bytes:
    """All that stands in the file before the plain bytes."""
    view, length = memoryview(plain), len(plain)
    checksums = [
        _checksum(block, view[number * PIECE_BYTES : (number + 1) * PIECE_BYTES], number, length)
        for number in range(piece_count(length))
    ]
    return b"".join([_HEADER.pack(MAGIC, length), *checksums])


def read_whole(disk: LocalDisk, file: int, block: BlockHash) -> bytes:
    """The plain bytes in the open file.

    Raises:
        RottenFrame: they are not those of `block`.
        OSError: reading failed.
    """
    length = _plain_length(disk.read(file, HEADER_BYTES, 0))
    if os.fstat(file).st_size != file_length(length):
        raise CorruptBlockFile
    plain = disk.read(file, length, file_length(length) - length)
    if blake3(plain).digest() != block:
        raise CorruptBlockFile
    return plain


def read_part(disk: LocalDisk, file: int, block: BlockHash, skip: int, length: int) -> Buffer:
    """`length` bytes (at least 1) from `skip` on, read with the pieces they lie in and nothing else.

    Raises:
        RottenFrame: the pieces are not those of `block`, or it has no such part.
        OSError: reading failed.
    """
    first, last = skip // PIECE_BYTES, (skip + length - 1) // PIECE_BYTES
    head = disk.read(file, HEADER_BYTES + CHECKSUM_BYTES * (last + 1), 0)
    plain_length = _plain_length(head)
    if skip + length > plain_length:
        raise CorruptBlockFile
    start, stop = first * PIECE_BYTES, min((last + 1) * PIECE_BYTES, plain_length)
    pieces = disk.read(file, stop - start, file_length(plain_length) - plain_length + start)
    if len(pieces) != stop - start:
        raise CorruptBlockFile
    _check_pieces(block, head, pieces, first, plain_length)
    return part_of(pieces, skip - start, length)


def _check_pieces(block: BlockHash, head: bytes, pieces: bytes, first: int, plain_length: int) -> None:
    view = memoryview(pieces)
    for number in range(first, first + piece_count(len(pieces))):
        place = (number - first) * PIECE_BYTES
        start = HEADER_BYTES + CHECKSUM_BYTES * number
        expected = head[start : start + CHECKSUM_BYTES]
        if _checksum(block, view[place : place + PIECE_BYTES], number, plain_length) != expected:
            raise CorruptBlockFile


def _plain_length(head: bytes) -> int:
    if len(head) < HEADER_BYTES:
        raise CorruptBlockFile
    magic, length = _HEADER.unpack_from(head)
    if magic != MAGIC or length > LARGEST_BLOCK_BYTES:
        raise CorruptBlockFile
    return int(length)


def _checksum(block: BlockHash, piece: Buffer, number: int, plain_length: int) -> bytes:
    return blake3(piece, key=block).update(_PLACE.pack(number, plain_length)).digest(CHECKSUM_BYTES)


_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a fifo in its place is no reason to wait
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_STAT_BLOCK_BYTES = 512
_ABANDONED_AFTER_S = 600.0
"""Older temporary files belong to a process that is gone."""
_SUBFOLDER = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(r"[0-9a-f]{64}")


class FoundFile(NamedTuple):
    """A block's file, as a walk through the folder finds it."""

    used_ns: int
    """When it was last written or, as far as the file system notes it, read."""
    block: BlockHash
    taken_bytes: int


class BlockFolder:
    """The folder at `root`, made if it is missing."""

    def __init__(self, root: str, disk: LocalDisk) -> None:
        self.root = root
        self._disk = disk
        self._temporary = f"{root}/tmp"
        self._serial = itertools.count()
        self.make()
        self.unit_bytes = max(os.statvfs(root).f_frsize, 4096)

    def make(self) -> None:
        """Make what is missing of the folder itself."""
        for folder in (self.root, self._temporary):  # each by itself: the mode is for the last part alone
            os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103  (strings throughout: Path is slower)

    def open(self, block: BlockHash) -> int:
        """A file descriptor to read the block's file with."""
        return self._disk.open(self._path(block), _READ_FLAGS)

    def taken_by(self, block: BlockHash) -> int:
        """What the block's file takes, in bytes."""
        return os.stat(self._path(block), follow_symlinks=False).st_blocks * _STAT_BLOCK_BYTES  # noqa: PTH116

    def write(self, block: BlockHash, content: Sequence[Buffer]) -> int:
        """Create or replace the block's file; what it takes, in bytes. Leaves nothing behind when it fails."""
        temporary = f"{self._temporary}/{os.getpid()}-{id(self):x}-{next(self._serial)}"
        file = self._disk.open(temporary, _WRITE_FLAGS)
        try:
            try:
                self._write_all(file, content)
                taken_bytes = os.fstat(file).st_blocks * _STAT_BLOCK_BYTES
            finally:
                self._disk.close(file)
            self._rename(temporary, self._path(block))
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        return taken_bytes

    def remove(self, block: BlockHash) -> None:
        """Remove the block's file; none is fine."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(block))  # noqa: PTH108

    def free_bytes(self) -> int:
        """What an ordinary user may still write on this disk."""
        return self._disk.free_bytes(self.root)

    def is_fresh(self) -> bool:
        """Whether no block's file was ever here."""
        return not any(_SUBFOLDER.fullmatch(name) for name in os.listdir(self.root))  # noqa: PTH208

    def walk(self, stopped: Callable[[], bool]) -> Iterator[FoundFile]:
        """All files of blocks, until `stopped()`; what vanishes meanwhile is left out."""
        for subfolder in os.listdir(self.root):  # noqa: PTH208
            if _SUBFOLDER.fullmatch(subfolder):
                with suppress(FileNotFoundError), os.scandir(f"{self.root}/{subfolder}") as entries:
                    for entry in entries:
                        if stopped():
                            return
                        if _FILE.fullmatch(entry.name):
                            yield from _found(entry)

    def remove_abandoned(self) -> None:
        """Remove the temporary files of processes that ended while writing."""
        oldest_s = time.time() - _ABANDONED_AFTER_S
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                        os.unlink(entry.path)  # noqa: PTH108

    def _write_all(self, file: int, content: Sequence[Buffer]) -> None:
        """All of `content`, in one system call where the system takes it in one."""
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


def _found(entry: "os.DirEntry[str]") -> Iterator[FoundFile]:
    with suppress(FileNotFoundError):
        state = entry.stat(follow_symlinks=False)
        used_ns = max(state.st_mtime_ns, state.st_atime_ns)
        yield FoundFile(used_ns, BlockHash(bytes.fromhex(entry.name)), state.st_blocks * _STAT_BLOCK_BYTES)
