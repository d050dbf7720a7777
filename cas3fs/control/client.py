# SPDX-License-Identifier: GPL-3.0-or-later
"""A command's side of the control socket: how long it waits, and what it says when there is no use in waiting."""

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
"""So long nothing is heard before a sign is asked for."""
ALIVE_TIMEOUT_S = 15.0
"""So long a sign may take: on a busy machine everything is slow."""

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
        """Returns when something can be read; raises ControlError when there is no hope of that."""
        while not _can_read(self._quiet_s, self._connection):
            if _is_stopped(self._pid):
                raise _not_responding(self._path, self._pid, self._quiet_s)
            with contextlib.closing(self._request_alive()) as asking:
                if not _can_read(self._alive_timeout_s, self._connection, asking):
                    raise _not_responding(self._path, self._pid, self._quiet_s + self._alive_timeout_s)

    def _request_alive(self) -> socket.socket:
        """The connection on which it comes; where no more requests are taken, that of the last answer."""
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

        Whoever looks for something in it that a process of another version does not tell gets a ControlError.
        """
        try:
            while (message := self._stream.receive()) is not None:
                if "error" in message:
                    _raise_error(message["error"])
                name, told = next(iter(message.items()), ("", None))
                if name not in ("progress", "result") or not isinstance(told, dict):
                    raise ControlError("the mount's process gave an answer that is none")
                if name == "result":
                    return told
                if progress is not None:
                    progress(told)
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
    """Returns when the process whose socket `path` is has given a sign of life; raises ControlError as `ControlClient`
    does."""
    with ControlClient(path, quiet_s=0.0) as client:
        client.ask(ALIVE_VERB)
        client.wait()


def _raise_error(told: object) -> None:
    name, text = (told.get("type"), told.get("message")) if isinstance(told, dict) else (None, told)
    text = str(text) or "the mount's process refused, and did not say why"
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
    """The error that says who gives no sign of life, and what to do."""
    record = MountRecord.load(socket_path.parent)
    pid = record.pid if pid is None and record is not None else pid
    who = f"the process{f' {pid}' if pid else ''} that serves {record.mountpoint if record else socket_path.parent}"
    if pid and _is_stopped(pid):
        return ControlError(
            f"{who} is stopped, so it does not answer: let it go on by `kill -CONT {pid}`, and try again"
        )
    return ControlError(
        f"{who} has given no sign for {waited_s:.0f} s: see {socket_path.parent / 'mount.log'}, and try again; "
        f"if nothing changes, end it by `kill -9{f' {pid}' if pid else ''}`, run `cas3fs umount` on the directory, "
        "and mount the volume again: what was synced is kept"
    )
