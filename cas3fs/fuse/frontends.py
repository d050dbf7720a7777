# SPDX-License-Identifier: GPL-3.0-or-later
"""Which front-end serves a mount; only that one is imported."""

from typing import Any, Protocol

from cas3fs.errors import MountError
from cas3fs.fuse.signals import StopSignals


class FrontendSession(Protocol):
    """One mount; `open`, `serve` and `close` are called in that order."""

    def open(self) -> None:
        """Mount.

        Raises:
            MountError: with the reason.
        """

    def serve(self, signals: StopSignals) -> None:
        """Handle requests until the volume is unmounted or `signals` receives one."""

    def requests(self) -> dict[str, int]:
        """How many requests of each kind came from the kernel; empty where the front-end does not count them."""

    def close(self) -> None:
        """Remove the mount if it still exists; the second call does nothing."""


def make_session(frontend: str, *args: Any, **settings: Any) -> FrontendSession:
    """The session of the front-end of that name; ``auto`` is our own. The other arguments are those of a session.

    Raises:
        MountError: llfuse is asked for, and not installed.
    """
    if frontend != "llfuse":
        from cas3fs.fuse.kernel_frontend.session import KernelSession

        return KernelSession(*args, **settings)
    try:
        from cas3fs.fuse.llfuse_frontend.session import LlfuseSession
    except ImportError as error:
        raise MountError(
            f"llfuse cannot be loaded ({error}); install cas3fs[llfuse], or leave --frontend out"
        ) from error
    return LlfuseSession(*args, **settings)
