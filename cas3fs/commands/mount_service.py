# SPDX-License-Identifier: GPL-3.0-or-later
"""What the process of a mount offers to requests: the open volume, its gc, and how it ends."""

import os
import threading
from pathlib import Path
from typing import Any

import attrs

from cas3fs.control import Message, Progress
from cas3fs.control.messages.mount import EndReply, EndRequest, StatusReply, StatusRequest
from cas3fs.errors import Cas3fsError, ControlError, FilesNotStored, StoreError
from cas3fs.fuse.frontends import FrontendSession
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume
from cas3fs.volume.publisher import Publisher

_REPORT_INTERVAL_S = 0.2


class EndState:
    """How the volume was left, for the requests that wait for it."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._report: Message = {}
        self.trouble = ""
        """What keeps the process from ending; empty while nothing does."""
        self._reply = EndReply(None)
        self._error: Cas3fsError | None = None

    def report(self, message: Message) -> None:
        """Take note of the progress."""
        self._report = message

    def succeed(self, snapshot: str | None, refused: int) -> None:
        """The volume is published and released.

        Args:
            refused: number of files whose attributes the index did not accept.
        """
        self._reply = EndReply(snapshot, refused)
        self._over.set()

    def keep_held(self, error: FilesNotStored) -> None:
        """The volume is published, and stays held because files could not be stored."""
        self._reply = EndReply(None, unstored=[dict(file) for file in error.files], told=str(error))
        self._over.set()

    def fail(self, error: BaseException) -> None:
        """The volume could not be published or released."""
        self._error = error if isinstance(error, Cas3fsError) else StoreError(f"{type(error).__name__}: {error}")
        self._over.set()

    def wait(self, progress: Progress) -> EndReply:
        """Return when the end has come; raise what went wrong."""
        while not self._over.wait(_REPORT_INTERVAL_S):
            progress(self._report)
        if self._error is not None:
            raise self._error
        return self._reply


@attrs.frozen
class MountService:
    """What requests to a mount work with."""

    volume: OpenVolume
    mountpoint: Path
    gc_scheduler: GcScheduler
    end_state: EndState
    session: FrontendSession | None = None
    """The session with the kernel; None where the volume is open without a mount."""

    def publisher(self, purpose: str) -> Publisher:
        """What publishes the volume.

        Raises:
            ControlError: the volume is mounted read-only; the text ends with `purpose`.
        """
        if self.volume.publisher is None:
            raise ControlError(f"{self.volume.url} is mounted read-only here, so {purpose}")
        return self.volume.publisher

    def write_back(self) -> None:
        """Return when the file system has all that programs wrote before the call.

        Raises:
            OSError: the kernel could not write a file.
        """
        if self.session is not None:
            self.session.write_back()

    def pending(self) -> dict[str, Any]:
        """How much is not in the store yet."""
        return attrs.asdict(self.volume.filesystem.pending())


def report_status(service: MountService, request: StatusRequest, progress: Progress) -> StatusReply:
    """Which process serves what."""
    return StatusReply(
        pid=os.getpid(),
        url=service.volume.url,
        mountpoint=str(service.mountpoint),
        read_only=service.volume.filesystem.read_only,
        pending=service.pending(),
    )


def wait_for_end(service: MountService, request: EndRequest, progress: Progress) -> EndReply:
    """Return when the volume is released; raise what kept it from that."""
    return service.end_state.wait(progress)
