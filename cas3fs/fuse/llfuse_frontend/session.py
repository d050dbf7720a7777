# SPDX-License-Identifier: GPL-3.0-or-later
"""One mount through llfuse, from the call of mount(2) to its end.

The order: `open` mounts (requests wait in the kernel from then on), `serve` handles them until the volume is unmounted
or a signal arrives, `close` removes the mount if it still exists. A process has one session at a time, because the
binding keeps it in globals. SIGTERM and SIGINT end `serve` in good order (module `signals`); storing data after that is
the caller's part.

The binding's global lock is replaced by one of Python's, which excludes the same. The binding's own lock releases the
interpreter's lock and takes it again twice in each request, even without contention; another worker that is awake then
gets the interpreter, waits for the lock, and sleeps again. With eight workers that is half of all thread switches.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import llfuse

from cas3fs.errors import MountError
from cas3fs.filesystem import FileSystem
from cas3fs.fuse.attribute_view import AttributeView
from cas3fs.fuse.handlers import RequestHandlers
from cas3fs.fuse.kernel.channel import ChannelError, detach, device_mounted_on
from cas3fs.fuse.llfuse_frontend.operations import LlfuseOperations
from cas3fs.fuse.mountpoints import SUBTYPE, source_of
from cas3fs.fuse.options import MountOptions
from cas3fs.fuse.signals import StopSignals

_MIN_BACKGROUND = 2
_WORKER_PREFIX = "fuse-worker-"
_ALWAYS = frozenset({"big_writes", "default_permissions", "no_splice_read", "splice_write", "splice_move"})


class LlfuseSession:
    """One mount; `open`, `serve` and `close` are called in that order."""

    def __init__(
        self,
        filesystem: FileSystem,
        mountpoint: Path,
        handlers: RequestHandlers,
        *,
        url: str,
        workers: int,
        options: MountOptions,
    ) -> None:
        """Prepare the mount of `filesystem` on `mountpoint`; `open` makes it.

        Args:
            filesystem: what is mounted.
            mountpoint: an existing folder.
            handlers: of that file system.
            url: the volume's URL, which the kernel shows as the source of the mount.
            workers: threads that handle requests, at least one.
            options: the mount options.
        """
        self._mountpoint = mountpoint
        self._workers = workers
        self._options = libfuse_options(options, url, workers, read_only=filesystem.read_only)
        self._operations = LlfuseOperations(handlers, AttributeView.of_options(options))
        self._is_open = False
        self._device: int | None = None

    def open(self) -> None:
        """Mount.

        Raises:
            MountError: FUSE is missing, the mount point is unusable, or an option is unknown; with libfuse's reason.
        """
        if not os.path.exists("/dev/fuse"):  # noqa: PTH110 - a device, named for the reader of the error
            raise MountError("there is no /dev/fuse: load the kernel module fuse, or give the container the device")
        llfuse.lock = threading.Lock()  # handlers and `lock_released` look it up by this name each time
        with _captured_stderr() as captured:
            try:
                llfuse.init(self._operations, str(self._mountpoint), self._options)
            except RuntimeError as error:
                reason = captured() or str(error)
                raise MountError(f"{self._mountpoint} cannot be mounted: {reason}") from error
        self._is_open = True
        self._device = device_mounted_on(self._mountpoint)

    def serve(self, signals: StopSignals) -> None:
        """Handle requests until the volume is unmounted or `signals` receives one."""
        main = threading.get_ident()
        # the binding's handlers are gone after the loop: a late wake-up must not end the process
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, _ignore)
        signals.run_loop(lambda: llfuse.main(workers=self._workers), lambda: _wake(main))

    def write_back(self) -> None:
        """Nothing: the kernel collects no writes."""

    def requests(self) -> dict[str, int]:
        """Nothing: the binding does not count requests."""
        return {}

    def close(self) -> None:
        """Remove the mount if it still exists; the second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        llfuse.close(unmount=True)
        # libfuse takes an aborted connection for an unmounted one, and leaves its mount in the tree
        if self._device is not None and device_mounted_on(self._mountpoint) == self._device:
            with suppress(ChannelError):  # it is stale, which `cas3fs umount` mends
                detach(self._mountpoint)


def libfuse_options(options: MountOptions, url: str, workers: int, *, read_only: bool) -> set[str]:
    """The options that libfuse gets.

    Read-ahead may occupy half of the workers; the others serve requests that wait for staging or need not wait.
    """
    escaped = source_of(url).replace("\\", "\\\\").replace(",", "\\,")
    result = {f"fsname={escaped}", f"subtype={SUBTYPE}", *_ALWAYS, *options.passed_on}
    background = max(_MIN_BACKGROUND, workers // 2)
    result |= {f"max_background={background}", f"congestion_threshold={background}"}
    if options.allow_other:
        result.add("allow_other")
    if options.nonempty:
        result.add("nonempty")
    if read_only:
        result.add("ro")
    return result


def _wake(main: int) -> None:
    """Interrupt the calls in which the binding's threads wait, so that they check whether to end.

    A thread that checks just before the signal, and begins to wait just after it, sleeps on; so this is to be repeated.
    """
    signal.pthread_kill(main, signal.SIGHUP)
    for thread in threading.enumerate():
        if thread.name.startswith(_WORKER_PREFIX) and thread.ident is not None:
            with suppress(ProcessLookupError):  # the worker has ended already
                signal.pthread_kill(thread.ident, signal.SIGUSR1)


def _ignore(*_: object) -> None:
    pass


@contextmanager
def _captured_stderr() -> Iterator["_Captured"]:
    """Capture what C code writes to standard error: libfuse reports its errors nowhere else."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield _Captured(file.fileno())
        finally:
            os.dup2(saved, 2)
            os.close(saved)


class _Captured:
    """The lines written so far, as one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self) -> str:
        size = os.fstat(self._descriptor).st_size
        return " ".join(os.pread(self._descriptor, min(size, 4096), 0).decode(errors="replace").split())
