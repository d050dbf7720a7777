# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of the disk cache: one file per block, written whole and renamed into place.

::

    <root>/ab/ab12...   the frame (cas3fs.caches.frames) of the block whose hash in hex is ab12...
    <root>/tmp/...      files being written, named by process and number

Nothing is synced: a file that a crash left half written is found out by its checksums. Only system calls here, no state
that changes but a serial number, so any thread may call anything. Every method may raise OSError.
"""

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from cas3fs.localdisk import LocalDisk
from cas3fs.values import BlockHash, Buffer

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
