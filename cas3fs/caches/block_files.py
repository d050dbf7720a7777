# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of the disk cache: one per block.

::

    <root>/ab/ab12...   the block whose hash is ab12... in hex
    <root>/tmp/...      files being written, named by process and number

The root is the cache's directory; where blocks are sealed, it is a folder in there, named after the key. A file is
written whole under ``tmp`` and renamed into place. Nothing is synced: checksums, or tags of sealed bytes, expose a file
that a crash left half written (`cas3fs.caches.block_formats`).
"""

import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from cas3fs.localdisk import LocalDisk
from cas3fs.values import BlockHash, Buffer

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a fifo must not block
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_STAT_BLOCK_BYTES = 512
_ABANDONED_AFTER_S = 600.0
"""A temporary file that is older belongs to a process that has ended."""
_SUBFOLDER = re.compile(r"[0-9a-f]{2}")
_SEALED_FOLDER = re.compile(r"sealed-[0-9a-f]{16}")
_ANY_FOLDER = re.compile(r"sealed-[0-9a-f]{16}|[0-9a-f]{2}|tmp")
_FILE = re.compile(r"[0-9a-f]{64}")


class FoundFile(NamedTuple):
    """A block's file, as found by `BlockFolder.walk`."""

    used_ns: int
    """When it was last written or, as far as the file system records it, read."""
    block: BlockHash
    disk_bytes: int
    """The disk space that it uses."""


class BlockFolder:
    """The folder of the cache in `directory`, or a folder `inner` in there; it is created if it is missing.

    Its only changing state is a serial number, so any thread may call any method. Every method may raise OSError.
    """

    def __init__(self, directory: str, disk: LocalDisk, inner: str = "") -> None:
        self.root = f"{directory}/{inner}" if inner else directory
        self._directory = directory
        self._inner = inner
        self._disk = disk
        self._temporary = f"{self.root}/tmp"
        self._serial = itertools.count()
        self.make()
        self.allocation_unit_bytes = max(os.statvfs(self.root).f_frsize, 4096)

    def make(self) -> None:
        """Create the folder and ``tmp``, as far as they are missing."""
        for folder in (
            self._directory,
            self.root,
            self._temporary,
        ):  # one by one: `mode` applies to the last component only
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

    def others(self) -> list[str]:
        """Return the folders in which an earlier run left blocks in another form: plain, or with another key."""
        names = os.listdir(self._directory)  # noqa: PTH208
        mine = _SEALED_FOLDER if not self._inner else _ANY_FOLDER
        return [f"{self._directory}/{name}" for name in names if mine.fullmatch(name) and name != self._inner]

    def remove_others(self, stopped: Callable[[], bool]) -> None:
        """Delete these, until `stopped()`."""
        for folder in self.others():
            for part in os.listdir(folder):  # noqa: PTH208
                if stopped():
                    return
                shutil.rmtree(f"{folder}/{part}", ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)

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


def _found(entry: "os.DirEntry[str]") -> Iterator[FoundFile]:
    with suppress(FileNotFoundError):
        state = entry.stat(follow_symlinks=False)
        used_ns = max(state.st_mtime_ns, state.st_atime_ns)
        yield FoundFile(used_ns, BlockHash(bytes.fromhex(entry.name)), state.st_blocks * _STAT_BLOCK_BYTES)
