# SPDX-License-Identifier: GPL-3.0-or-later
"""A command's side of the control socket: how long it waits, and which error says that waiting is no use."""

import contextlib
import json
import select
import socket
import struct
from pathlib import Path
from typing import Any, TypeVar

from cas3fs import errors
from cas3fs.control.messages.base import Request
from cas3fs.control.mount_record import MountRecord
from cas3fs.control.protocol import (
    ALIVE_VERB,
    MAX_ANSWER_BYTES,
    Message,
    MessageStream,
    Progress,
    peer_credentials,
    short_socket_path,
)
from cas3fs.errors import Cas3fsError, ControlError, FileSystemError

R = TypeVar("R")
QUIET_S = 3.0
"""After this time without a message, the client asks whether the process is alive."""
ALIVE_TIMEOUT_S = 15.0
"""How long that answer may take: on a busy machine everything is slow."""

_TIMEVAL = struct.Struct("ll")


class ControlClient:
    """A command's connection to the process that has a volume open."""

    def __init__(self, path: Path, *, quiet_s: float = QUIET_S, alive_timeout_s: float = ALIVE_TIMEOUT_S) -> None:
        """Connects.

        Raises:
            ControlError: nothing answers at `path`.
        """
        self._path = path
        self._quiet_s = quiet_s
        self._alive_timeout_s = alive_timeout_s
        self._connection = self._connect()
        self._pid = peer_credentials(self._connection)[0]
        self._stream = MessageStream(self._connection, MAX_ANSWER_BYTES, self.wait)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # not settimeout: where it has to wait for others to be accepted, that would refuse it at once
        limit = _TIMEVAL.pack(int(self._alive_timeout_s), int(self._alive_timeout_s % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            with short_socket_path(self._path) as name:
                connection.connect(name)
        except BlockingIOError as error:
            connection.close()
            raise _not_responding(self._path, None, self._alive_timeout_s) from error
        except OSError as error:
            connection.close()
            raise ControlError(f"no process of cas3fs answers at {self._path}: {error.strerror}") from error
        return connection

    def wait(self) -> None:
        """Return when something can be read; raise ControlError when the process does not respond."""
        while not _can_read(self._quiet_s, self._connection):
            if _is_stopped(self._pid):
                raise _not_responding(self._path, self._pid, self._quiet_s)
            with contextlib.closing(self._request_alive()) as asking:
                if not _can_read(self._alive_timeout_s, self._connection, asking):
                    raise _not_responding(self._path, self._pid, self._quiet_s + self._alive_timeout_s)

    def _request_alive(self) -> socket.socket:
        """The connection on which the answer comes; that of the last request if the server accepts no more."""
        try:
            asking = self._connect()
        except ControlError:
            return self._connection.dup()
        with contextlib.suppress(OSError):  # it ends just now
            asking.sendall(json.dumps({"verb": ALIVE_VERB}).encode() + b"\n")
        return asking

    def request(self, request: Request[R], progress: Progress | None = None) -> R:
        """The reply to `request`; raises as `call`, and ControlError where the reply is that of another version."""
        self.send(request)
        return self.reply(request, progress)

    def send(self, request: Request[Any]) -> None:
        """Send a request whose reply `reply` will wait for."""
        from cas3fs.control.conversion import encode_args

        self.ask(request.verb, encode_args(request))

    def reply(self, request: Request[R], progress: Progress | None = None) -> R:
        """The reply to `request`, which is the oldest without one; raises as `request`."""
        from cas3fs.control.conversion import decode_reply

        return decode_reply(request, self.result(progress))

    def call(self, verb: str, args: Message | None = None, progress: Progress | None = None) -> Message:
        """The result of `verb`; `progress` is called with each report on the way.

        Raises:
            Cas3fsError: what the handler raised, with its type and text.
            ControlError: the connection ended before the answer, or the process gives no sign of life.
        """
        self.ask(verb, args)
        return self.result(progress)

    def ask(self, verb: str, args: Message | None = None) -> None:
        """Sends a request whose answer `result` will wait for."""
        try:
            self._stream.send({"verb": verb, "args": args or {}})
        except BlockingIOError as error:
            raise _not_responding(self._path, self._pid, self._alive_timeout_s) from error
        except OSError as error:
            raise ControlError(f"the mount's process broke off the connection: {error.strerror}") from error

    def result(self, progress: Progress | None = None) -> Message:
        """The answer to the oldest request without one; raises as `call`.

        Looking up a key that a process of another version did not send raises a ControlError.
        """
        try:
            while (message := self._stream.receive()) is not None:
                if "error" in message:
                    _raise_error(message["error"])
                name, value = next(iter(message.items()), ("", None))
                if name not in ("progress", "result") or not isinstance(value, dict):
                    raise ControlError("invalid reply from the mount process")
                if name == "result":
                    return value
                if progress is not None:
                    progress(value)
        except OSError as error:
            raise ControlError(f"the mount's process broke off the connection: {error.strerror}") from error
        raise ControlError("the mount's process ended before it answered")

    def close(self) -> None:
        """Ends the connection."""
        self._stream.close()

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_until_alive(path: Path) -> None:
    """Return when the process at the socket `path` has responded; raises ControlError as `ControlClient` does."""
    with ControlClient(path, quiet_s=0.0) as client:
        client.ask(ALIVE_VERB)
        client.wait()


def _raise_error(error: object) -> None:
    name, text = (error.get("type"), error.get("message")) if isinstance(error, dict) else (None, error)
    text = str(text) or "the mount process refused the request and gave no reason"
    kind = getattr(errors, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Cas3fsError) and not issubclass(kind, FileSystemError):
        raise kind(text)
    raise ControlError(text)


def _can_read(limit_s: float, *connections: socket.socket) -> bool:
    """Waits until something can be read from one of them, or it has ended; False when that takes too long."""
    poller = select.poll()
    for connection in connections:
        poller.register(connection, select.POLLIN)
    return bool(poller.poll(limit_s * 1000))


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal, or by a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False


def _not_responding(socket_path: Path, pid: int | None, waited_s: float) -> ControlError:
    """The error for a process that does not respond, with what to do."""
    record = MountRecord.load(socket_path.parent)
    pid = record.pid if pid is None and record is not None else pid
    who = f"the process{f' {pid}' if pid else ''} that serves {record.mountpoint if record else socket_path.parent}"
    if pid and _is_stopped(pid):
        return ControlError(
            f"{who} is stopped, so it does not respond: continue it by `kill -CONT {pid}`, and try again"
        )
    return ControlError(
        f"{who} has not responded for {waited_s:.0f} s: see {socket_path.parent / 'mount.log'}, and try again; "
        f"if nothing changes, end it by `kill -9{f' {pid}' if pid else ''}`, run `cas3fs umount` on the directory, "
        "and mount the volume again: what was synced is kept"
    )
