# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's page cache of a mount that collects writes (``--writeback``): has it hand over what programs wrote.

With FUSE_WRITEBACK_CACHE a write(2) ends in the page cache, and WRITE requests come later: when a program closes the
file or calls fsync, when the kernel needs memory, or after half a minute. So dirty pages exist only of files that are
open for writing, or mapped. ``syncfs(2)`` on the mount makes the kernel send them, and the times of the files, but it
returns before the writes are answered. So the directory through which it was called is closed afterwards. The request
for that stands in the kernel's queue behind the writes, as they are all *background* requests: when it comes, all of
them have come.

Deadlocks: the thread that calls `write_back` waits for requests of its own process. So it is neither the reader nor one
of its pools, and it holds no lock that a handler takes. While the directory is open, the mount is busy for
``umount(8)``; but it is anyway, since a file is open.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger(__name__)


class PageCache:
    """Dirty pages of one mount.

    Lock: `_mutex` is held by the one thread that has pages written; handlers never take it.
    """

    def __init__(self, mountpoint: Path, has_writers: Callable[[], bool], wait_for_writes: Callable[[], None]) -> None:
        """Know the mount on `mountpoint`.

        Args:
            mountpoint: where it is mounted.
            has_writers: whether a file is open for writing.
            wait_for_writes: returns when the writes that have come are carried out.
        """
        self._mountpoint = mountpoint
        self._has_writers = has_writers
        self._wait_for_writes = wait_for_writes
        self._mutex = threading.Lock()
        self._thread = 0
        self._handle: int | None = None
        self._released = threading.Event()
        self._is_over = False

    def write_back(self) -> None:
        """Return when the file system has all that programs had written before the call.

        Raises:
            OSError: the kernel could not write a file; who wrote it gets that error too, by fsync or close.
        """
        with self._mutex:
            if self._is_over or not self._has_writers():
                return
            self._handle, self._thread = None, threading.get_native_id()
            self._released.clear()
            directory = os.open(self._mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _syncfs(directory)
            finally:
                self._thread = 0
                os.close(directory)
            if self._handle is not None and not self._is_over:
                self._released.wait()
            self._wait_for_writes()

    def write_back_within(self, timeout_s: float) -> None:
        """As `write_back`, but give up after `timeout_s` and on an error, and log that."""
        thread = threading.Thread(target=self._try_to_write_back, name="fuse-write-back", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            _log.error("what programs wrote last to files that are still open is lost: it could not be staged in time")

    def _try_to_write_back(self) -> None:
        try:
            self.write_back()
        except OSError as error:
            _log.error("what programs wrote last to files that are still open is lost: %s", error)

    def opened(self, handle: int, thread: int) -> None:
        """A directory was opened by that thread."""
        if thread == self._thread and self._handle is None:
            self._handle = handle

    def released(self, handle: int) -> None:
        """A directory was closed by the last who had it open."""
        if handle == self._handle:
            self._released.set()

    def end(self) -> None:
        """No more requests will come."""
        self._is_over = True
        self._released.set()


def _syncfs(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, f"syncfs: {os.strerror(number)}")
