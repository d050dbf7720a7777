# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection of the control socket: its address, the process at the other end, and the messages on it."""

import contextlib
import io
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cas3fs.errors import ControlError

MAX_LINE_BYTES = 1 << 20
"""Of a request."""
MAX_ANSWER_BYTES = 256 << 20
"""All findings of a large volume, or all its snapshots, come in one answer."""
ALIVE_VERB = "alive"
"""The verb that every server answers, at once and with nothing."""

Message = dict[str, Any]
Progress = Callable[[Message], None]

_CREDENTIALS = struct.Struct("3i")


@contextlib.contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket address, however deep its folder lies."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """The process at the other end, and its user."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return pid, uid


class _Incoming(io.RawIOBase):
    """The bytes that arrive on a connection; `wait` is called before each read, which could block."""

    def __init__(self, connection: socket.socket, wait: Callable[[], None]) -> None:
        self._connection = connection
        self._wait = wait

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wait()
        return self._connection.recv_into(buffer)


class ReceivedMessage(Message):
    """An object that the other side sent. A key that it lacks is one that only another version of cas3fs sends."""

    def __missing__(self, key: str) -> Any:
        raise ControlError(
            f"the mount process runs another version of cas3fs than this command ({key!r} is missing): "
            "unmount the volume and mount it again"
        )


class MessageStream:
    """One side of a connection, as lines of JSON."""

    def __init__(self, connection: socket.socket, limit_bytes: int, wait: Callable[[], None] = lambda: None) -> None:
        self._limit_bytes = limit_bytes
        self._connection = connection
        self._file = io.BufferedReader(_Incoming(connection, wait))

    def send(self, message: Message) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message | None:
        """The next message, or None at the end; raises ControlError for anything that is not one."""
        line = self._file.readline(self._limit_bytes + 1)
        if not line:
            return None
        if len(line) > self._limit_bytes or not line.endswith(b"\n"):
            raise ControlError("a message on the control socket is too long or cut short")
        try:
            message = json.loads(line, object_hook=ReceivedMessage)
        except (ValueError, RecursionError) as error:
            raise ControlError("a message on the control socket is not JSON") from error
        if not isinstance(message, dict):
            raise ControlError("a message on the control socket is not an object")
        return message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._connection.close()
