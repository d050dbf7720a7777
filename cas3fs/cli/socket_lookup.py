# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding the control socket of a mount by its mount point, even if its process is stopped.

Only the mount itself knows for sure where its socket is, so the kernel has to ask it. A process that makes such a
request waits for the answer, and cannot even be killed once the process of the mount has received it. So a child
process makes it. If the child gets no answer, the records in the state directory show which process it may be, and
whether that responds.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from cas3fs.config import LocalFolders
from cas3fs.control import (
    ALIVE_TIMEOUT_S,
    MOUNT_RECORD_NAME,
    QUIET_S,
    SOCKET_NAME,
    MountRecord,
    is_listening,
    wait_until_alive,
)
from cas3fs.errors import ControlError, MountError
from cas3fs.fuse.mountpoints import control_path

_GONE, _FOUND, _REFUSED = b"gfr"
_TOLD_BYTES = 8192
_DESCRIPTORS = 4096
"""More than a command has open."""


def find_socket(
    mountpoint: Path, folders: LocalFolders, *, quiet_s: float = QUIET_S, alive_timeout_s: float = ALIVE_TIMEOUT_S
) -> Path | None:
    """Where the control socket of the mount on `mountpoint` is; None when its process is gone.

    Raises:
        MountError: the mount belongs to another user and cannot be looked into.
        ControlError: its process gives no sign of life.
    """
    with _asked(mountpoint) as answer:
        if not _can_read(answer, quiet_s):
            socket = _recorded(mountpoint, folders)
            if socket is not None:
                wait_until_alive(socket)
                return socket
            if not _can_read(answer, alive_timeout_s):
                raise ControlError(_not_responding(mountpoint, folders, quiet_s + alive_timeout_s))
        return _read(mountpoint, os.read(answer, _TOLD_BYTES))


@contextlib.contextmanager
def _asked(mountpoint: Path) -> Iterator[int]:
    """A pipe on which a child sends the answer of the mount; the child is killed, or ends with the mount."""
    answer, telling = os.pipe()
    child = os.fork()
    if not child:
        _tell(mountpoint, telling)
    os.close(telling)
    try:
        yield answer
    finally:
        has_told = _can_read(answer, 0)
        os.close(answer)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0 if has_told else os.WNOHANG)


def _tell(mountpoint: Path, pipe: int) -> NoReturn:
    """The child's whole life."""
    try:
        os.closerange(0, pipe)  # a reader of the command's output must not wait for the child
        os.closerange(pipe + 1, _DESCRIPTORS)
        socket = control_path(mountpoint)
        os.write(pipe, bytes([_GONE]) if socket is None else bytes([_FOUND]) + os.fsencode(socket))
    except MountError as error:
        os.write(pipe, bytes([_REFUSED]) + os.fsencode(str(error)))
    finally:
        os._exit(0)


def _read(mountpoint: Path, answer: bytes) -> Path | None:
    kind, text = answer[:1], os.fsdecode(answer[1:])
    if kind == bytes([_GONE]):
        return None
    if kind == bytes([_FOUND]):
        return Path(text)
    raise MountError(text or f"the mount on {mountpoint} cannot be asked")


def _can_read(pipe: int, limit_s: float) -> bool:
    return bool(select.select([pipe], [], [], limit_s)[0])


def _recorded(mountpoint: Path, folders: LocalFolders) -> Path | None:
    """The socket of the process that was the last to mount there, by the records in the state directory."""
    files = [
        *folders.state_dir.glob(f"*/{MOUNT_RECORD_NAME}"),
        *folders.state_dir.glob(f"*/views/*/{MOUNT_RECORD_NAME}"),
    ]
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        record, socket = MountRecord.load(file.parent), file.parent / SOCKET_NAME
        if record is not None and Path(record.mountpoint) == mountpoint and is_listening(socket):
            return socket
    return None


def _not_responding(mountpoint: Path, folders: LocalFolders, waited_s: float) -> str:
    return (
        f"the mount on {mountpoint} has not responded for {waited_s:.0f} s, and "
        f"{folders.state_dir} does not record which process serves it: give the --state-dir that it was mounted with, "
        "or check whether its process was stopped, continue it, and try again"
    )
