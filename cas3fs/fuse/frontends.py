# SPDX-License-Identifier: GPL-3.0-or-later
"""Which front-end serves a mount; only that one is imported."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from cas3fs.errors import MountError
from cas3fs.filesystem import FileSystem
from cas3fs.fuse.handlers import RequestHandlers
from cas3fs.fuse.limiter import BlockingLimiter
from cas3fs.fuse.options import MountOptions
from cas3fs.fuse.signals import StopSignals

_FREE_WORKERS = 2
"""How many never wait."""


class FrontendSession(Protocol):
    """One mount; `open`, `serve` and `close` are called in that order."""

    def open(self) -> None:
        """Mount.

        Raises:
            MountError: with the reason.
        """

    def serve(self, signals: StopSignals) -> None:
        """Handle requests until the volume is unmounted or `signals` receives one."""

    def write_back(self) -> None:
        """Return when the file system has all that programs wrote before the call, also from the kernel's page cache.

        Raises:
            OSError: the kernel could not write a file.
        """

    def requests(self) -> dict[str, int]:
        """How many requests of each kind came from the kernel; empty if the front-end does not count them."""

    def close(self) -> None:
        """Remove the mount if it still exists; the second call does nothing."""


def choose_frontend(name: str, options: MountOptions, *, writeback: bool = False) -> Callable[..., FrontendSession]:
    """Chooses the front-end called `name` (``auto`` is our own); returns the function that makes its session.

    Call it before the volume is opened, so that a mount that cannot be made claims nothing.

    Raises:
        MountError: llfuse is asked for, and not installed, or it cannot do `writeback`; or our own front-end does not
            know an option.
    """
    if name != "llfuse":
        from cas3fs.fuse.kernel_frontend.session import KernelSession, refuse_unknown

        refuse_unknown(options)
        return partial(_make_session, partial(KernelSession, options=options, writeback=writeback))
    if writeback:
        raise MountError("llfuse knows no --writeback; leave --frontend out")
    try:
        from cas3fs.fuse.llfuse_frontend.session import LlfuseSession
    except ImportError as error:
        raise MountError(
            f"llfuse cannot be loaded ({error}); install cas3fs[llfuse], or leave --frontend out"
        ) from error
    return partial(_make_session, partial(LlfuseSession, options=options))


def _make_session(
    make: Callable[..., FrontendSession],
    filesystem: FileSystem,
    mountpoint: Path,
    *,
    url: str,
    workers: int,
    control: Path,
    last_response_at: Callable[[], float],
    capabilities: bool,
    sync: Callable[[], None] | None,
) -> FrontendSession:
    """Makes a session, and the handlers of its requests.

    Args:
        make: makes the session of one front-end.
        filesystem: what is mounted.
        mountpoint: an existing folder.
        url: the volume's URL, which the kernel shows as the source of the mount.
        workers: threads that handle requests, at least one.
        control: where the control socket will be.
        last_response_at: when the store last sent something, by the monotonic clock.
        capabilities: whether some file may have a ``security.capability``.
        sync: what fsync waits for; the file system's own commit if None.
    """
    handlers = RequestHandlers(
        filesystem,
        limiter=BlockingLimiter(max(1, workers - _FREE_WORKERS), last_response_at),
        control=os.fsencode(control),
        capabilities=capabilities,
        sync=sync,
    )
    filesystem.xattrs.on_capability_restored = handlers.expect_capabilities
    return make(filesystem, mountpoint, handlers, url=url, workers=workers)
