# SPDX-License-Identifier: GPL-3.0-or-later
"""One mount, from the call of mount(2) to its end.

The order: `open` mounts (requests wait in the kernel from then on), `serve` handles them until the volume is
unmounted or a signal arrives, `close` takes the mount away if it is still there. A process has one session at a time,
as libfuse's binding keeps it in globals. SIGTERM and SIGINT end `serve` in good order (module `signals`); what has to
be stored after that is not of this room.

The global lock of the binding is replaced by one of Python's, which excludes the same. The binding's own lets the
interpreter's lock go and takes it again twice in each request, even when nobody holds it; whichever other worker is
awake then gets the interpreter, runs into the lock, and falls asleep again. With eight workers that is half of all
thread switches.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import llfuse

from cas3fs.errors import MountError
from cas3fs.filesystem import FileSystem
from cas3fs.fuse.limiter import BlockingLimiter
from cas3fs.fuse.operations import DEFAULT_TIMEOUT_S, Operations
from cas3fs.fuse.options import SessionOptions
from cas3fs.fuse.signals import StopSignals

_FREE_WORKERS = 2


class Session:
    """See the module."""

    def __init__(
        self,
        filesystem: FileSystem,
        mountpoint: Path,
        *,
        url: str,
        workers: int,
        options: SessionOptions,
        control: Path,
        last_response_at: Callable[[], float],
        capabilities: bool = True,
        sync: Callable[[], None] | None = None,
    ) -> None:
        """Prepare the mount of `filesystem` on `mountpoint`; `open` makes it.

        Args:
            filesystem: what is mounted.
            mountpoint: an existing folder.
            url: the volume's URL, which the kernel shows as the source of the mount.
            workers: threads that handle requests, at least one.
            options: the mount options.
            control: where the control socket will be.
            last_response_at: when the store last sent something, by the monotonic clock.
            capabilities: whether some file may have a ``security.capability``.
            sync: what fsync waits for; the file system's own commit unless it is given.
        """
        self._mountpoint = mountpoint
        self._workers = workers
        self._options = options.for_libfuse(url, workers, read_only=filesystem.read_only)
        limiter = BlockingLimiter(max(1, workers - _FREE_WORKERS), last_response_at)
        self._operations = Operations(
            filesystem,
            limiter=limiter,
            control=os.fsencode(control),
            capabilities=capabilities,
            timeout_s=DEFAULT_TIMEOUT_S if options.timeout_s is None else options.timeout_s,
            uid=options.uid,
            gid=options.gid,
            sync=sync,
        )
        self._is_open = False

    def open(self) -> None:
        """Mounts.

        Raises:
            MountError: FUSE is missing, the mount point does not serve, or an option is unknown; with libfuse's reason.
        """
        if not os.path.exists("/dev/fuse"):  # noqa: PTH110 - a device, named for the reader of the error
            raise MountError("there is no /dev/fuse: load the kernel module fuse, or give the container the device")
        llfuse.lock = threading.Lock()  # handlers and `lock_released` look it up by this name each time
        with _stderr_kept() as said:
            try:
                llfuse.init(self._operations, str(self._mountpoint), self._options)
            except RuntimeError as error:
                reason = said() or str(error)
                raise MountError(f"{self._mountpoint} cannot be mounted: {reason}") from error
        self._is_open = True

    def serve(self, signals: StopSignals) -> None:
        """Handles requests until the volume is unmounted, or `signals` has received one."""
        signals.ending(lambda: llfuse.main(workers=self._workers))

    def close(self) -> None:
        """Takes the mount away where it still is; nothing happens the second time."""
        if self._is_open:
            self._is_open = False
            llfuse.close(unmount=True)


@contextmanager
def _stderr_kept() -> Iterator["_Said"]:
    """Takes what C code writes to standard error meanwhile: libfuse tells its reasons nowhere else."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield _Said(file.fileno())
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _Said:
    """The lines so far, as one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self) -> str:
        size = os.fstat(self._descriptor).st_size
        return " ".join(os.pread(self._descriptor, min(size, 4096), 0).decode(errors="replace").split())
