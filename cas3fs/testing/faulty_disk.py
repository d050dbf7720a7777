# SPDX-License-Identifier: GPL-3.0-or-later
"""A local disk with faults that tests switch on, for staging and the disk cache.

::

    disk = FaultyDisk()
    staging = Staging(folder, rows, limit_bytes=..., memory_bytes=..., disk=disk)
    with disk.failing("write", errno.ENOSPC, after=3, times=1):
        ...                       # the fourth write from now on finds the disk full

Operations are the methods of `cas3fs.localdisk.LocalDisk`. A `sync` that fails loses what was written since the last
one, as operating systems do: the error is reported once, the next sync succeeds, and the bytes are as they were before.
`lose_writes` does the same without a sync, as when the system fails to write on its own.

Locks: one, around the lists.
"""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from cas3fs.localdisk import LocalDisk
from cas3fs.values import Buffer

OPERATIONS: Final = (
    "open",
    "read",
    "read_into",
    "write",
    "append",
    "sync",
    "sync_folder",
    "truncate",
    "rename",
    "unlink",
    "free_bytes",
)
_LOSING: Final = ("sync", "sync_folder")


@attrs.define(eq=False)
class DiskFault:
    """A fault that is switched on."""

    operation: str
    number: int
    """The errno."""
    after: int
    """How many calls succeed before."""
    times: int | None
    """None: until it is switched off."""
    name_part: str
    """Only for files whose path has this in it."""
    times_triggered: int = 0
    """How often it happened."""


class FaultyDisk(LocalDisk):
    """A local disk whose operations fail as tests say; without faults it behaves as the real one."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._faults: list[DiskFault] = []
        self._paths: dict[int, str] = {}
        self._undo: dict[str, list[tuple[int, bytes, int]]] = {}
        """The writes since the last sync, by path: the offset, the earlier bytes, and the earlier size of the file."""
        self._unreported: set[str] = set()
        """The paths of files with lost writes that no sync has reported yet."""
        self.times_triggered = 0
        """How often any fault happened."""
        self.losses = 0
        """How often bytes may have been lost."""
        self.free_space_bytes: int | None = None
        """The result of `free_bytes`; None for the real one."""

    # -- faults

    def fail(
        self, operation: str, number: int = errno.EIO, *, after: int = 0, times: int | None = 1, name_part: str = ""
    ) -> DiskFault:
        """Let `operation` fail with the errno `number`, `times` times, after `after` successful calls.

        Raises:
            ValueError: there is no such operation.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"a disk has no operation {operation}")
        fault = DiskFault(operation, number, after, times, name_part)
        with self._lock:
            self._faults.append(fault)
        return fault

    @contextmanager
    def failing(
        self, operation: str, number: int = errno.EIO, *, after: int = 0, times: int | None = None, name_part: str = ""
    ) -> Iterator[DiskFault]:
        """`fail` for the length of a ``with``."""
        fault = self.fail(operation, number, after=after, times=times, name_part=name_part)
        try:
            yield fault
        finally:
            with self._lock:
                if fault in self._faults:
                    self._faults.remove(fault)

    def clear_faults(self) -> None:
        """Switch off all faults; lost writes stay lost."""
        with self._lock:
            self._faults.clear()

    def lose_writes(self, name_part: str = "") -> int:
        """Lose the writes since the last sync, as when the system fails to write them; returns the number of files."""
        with self._lock:
            paths = [path for path, undo in self._undo.items() if undo and name_part in path]
            for path in paths:
                self._revert_to_last_sync(path)
                self._unreported.add(path)
            self.times_triggered += len(paths)
            self.losses += len(paths)
        return len(paths)

    def _trigger(self, operation: str, path: str) -> None:
        with self._lock:
            for fault in self._faults:
                if fault.operation != operation or fault.times == 0 or fault.name_part not in path:
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times = None if fault.times is None else fault.times - 1
                fault.times_triggered += 1
                self.times_triggered += 1
                self.losses += operation in _LOSING
                raise OSError(fault.number, os.strerror(fault.number), path)

    def _revert_to_last_sync(self, path: str) -> None:
        """Restore the file as it was at the last sync."""
        undo = self._undo.pop(path, [])
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            for offset, before, size in reversed(undo):
                os.pwrite(descriptor, before, offset)
                if os.fstat(descriptor).st_size > size:
                    # the file keeps its length, which is in the journal; the lost bytes are zeros
                    end = os.fstat(descriptor).st_size
                    os.ftruncate(descriptor, size)
                    os.ftruncate(descriptor, end)
        finally:
            os.close(descriptor)

    def _record_write(self, descriptor: int, length: int, offset: int) -> None:
        path = self._paths.get(descriptor)
        if path is not None and length:
            with self._lock:
                size = os.fstat(descriptor).st_size
                self._undo.setdefault(path, []).append((offset, os.pread(descriptor, length, offset), size))

    def _path(self, descriptor: int) -> str:
        return self._paths.get(descriptor, "")

    # -- the disk

    def open(self, path: str | Path, flags: int, mode: int = 0o600) -> int:
        self._trigger("open", str(path))
        descriptor = super().open(path, flags, mode)
        self._paths[descriptor] = str(path)
        if flags & os.O_TRUNC:
            with self._lock:
                self._undo.pop(str(path), None)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        super().close(descriptor)

    def read_into(self, descriptor: int, into: memoryview, offset: int) -> int:
        self._trigger("read_into", self._path(descriptor))
        return super().read_into(descriptor, into, offset)

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        self._trigger("read", self._path(descriptor))
        return super().read(descriptor, length, offset)

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        self._trigger("write", self._path(descriptor))
        self._record_write(descriptor, len(data), offset)
        return super().write(descriptor, data, offset)

    def append(self, descriptor: int, pieces: Sequence[Buffer]) -> int:
        self._trigger("append", self._path(descriptor))
        return super().append(descriptor, pieces)

    def sync(self, descriptor: int) -> None:
        path = self._path(descriptor)
        self.check(descriptor)
        try:
            self._trigger("sync", path)
        except OSError:
            with self._lock:
                self._revert_to_last_sync(path)
            raise
        with self._lock:
            self._undo.pop(path, None)

    def check(self, descriptor: int) -> None:
        path = self._path(descriptor)
        with self._lock:
            is_unreported = path in self._unreported
            self._unreported.discard(path)
        if is_unreported:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def sync_folder(self, descriptor: int) -> None:
        self._trigger("sync_folder", self._path(descriptor))

    def truncate(self, descriptor: int, size: int) -> None:
        self._trigger("truncate", self._path(descriptor))
        super().truncate(descriptor, size)

    def rename(self, path: Path, other: Path) -> None:
        self._trigger("rename", str(path))
        super().rename(path, other)
        with self._lock:
            for descriptor, known in list(self._paths.items()):
                if known == str(path):
                    self._paths[descriptor] = str(other)
            if str(path) in self._undo:
                self._undo[str(other)] = self._undo.pop(str(path))

    def unlink(self, path: Path) -> None:
        self._trigger("unlink", str(path))
        super().unlink(path)
        with self._lock:
            self._undo.pop(str(path), None)
            self._unreported.discard(str(path))

    def free_bytes(self, folder: str | Path) -> int:
        self._trigger("free_bytes", str(folder))
        return super().free_bytes(folder) if self.free_space_bytes is None else self.free_space_bytes
