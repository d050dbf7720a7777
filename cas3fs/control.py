# SPDX-License-Identifier: GPL-3.0-or-later
r"""The Unix socket through which commands talk to the process that has a volume open.

Format: lines of JSON in UTF-8, each ended by ``\n``; a request is at most 1 MiB long, an answer 256 MiB. A client sends
requests, one after the other::

    {"verb": "flush", "args": {}}

and for each the server answers with any number of ``{"progress": {...}}``, then one ``{"result": {...}}`` or
``{"error": {"type": "StoreUnreachable", "message": "..."}}``. The type is a name of `cas3fs.errors`; the client
raises it again.

The socket is ``control.sock`` in the volume's state folder, mode 0600; the peer's user id must be the server's own,
or root. Beside it ``mount.json`` (a `MountRecord`) tells who serves it; it outlives the mount point itself while the
process is still storing. Paths of sockets are limited to 107 bytes by the kernel: so both sides go by
``/proc/self/fd/<folder>``.

Threads: one accepts, and one per client runs the handlers, which must be safe to call side by side. `_clients` is
guarded by `_lock`, which is held for set operations only.
"""

import contextlib
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from cas3fs import errors
from cas3fs.errors import Cas3fsError, ControlError, FileSystemError

SOCKET_NAME = "control.sock"
RECORD_NAME = "mount.json"
MAX_LINE_BYTES = 1 << 20
"""Of a request."""
MAX_ANSWER_BYTES = 256 << 20
"""All findings of a large volume, or all its snapshots, come in one answer."""

Message = dict[str, Any]
Progress = Callable[[Message], None]
Handler = Callable[[Message, Progress], Message]

_log = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")


@attrs.frozen
class MountRecord:
    """Who serves a volume on this machine."""

    url: str
    volume: str
    mountpoint: str
    pid: int

    def save(self, state_dir: Path) -> None:
        """Writes the record into the volume's state folder, replacing an older one."""
        temporary = state_dir / f"{RECORD_NAME}.new"
        temporary.write_text(json.dumps(attrs.asdict(self)))
        temporary.replace(state_dir / RECORD_NAME)

    @classmethod
    def load(cls, state_dir: Path) -> "MountRecord | None":
        """The record in a volume's state folder; None when there is none that can be read."""
        try:
            return cls(**json.loads((state_dir / RECORD_NAME).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None


def find_records(state_root: Path) -> Iterator[tuple[Path, MountRecord]]:
    """The volumes below `state_root` whose process answers: their state folders and records."""
    for file in sorted(state_root.glob(f"*/{RECORD_NAME}")) if state_root.is_dir() else []:
        record = MountRecord.load(file.parent)
        if record is not None and answers(file.parent / SOCKET_NAME):
            yield file.parent, record


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket address, however deep its folder lies."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def answers(path: Path) -> bool:
    """Whether a server listens at `path`."""
    try:
        ControlClient(path).close()
    except ControlError:
        return False
    return True


class _ClientGone(Exception):
    """Nobody waits for the answer any more."""


class _Lines:
    """One side of a connection, as lines of JSON."""

    def __init__(self, connection: socket.socket, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._connection = connection
        self._file = connection.makefile("rb")

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
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ControlError("a message on the control socket is not JSON") from error
        if not isinstance(message, dict):
            raise ControlError("a message on the control socket is not an object")
        return message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._connection.close()


class ControlServer:
    """Answers requests on a socket until it is closed."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        """`handlers`: verb to a callable that takes the arguments and a way to report progress.

        Raises:
            ControlError: the socket cannot be made.
        """
        self._handlers = handlers
        self._path = path
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._socket = self._bind(path)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    @staticmethod
    def _bind(path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            with _short(path) as name:
                listener.bind(name)
            path.chmod(0o600)
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise ControlError(f"the control socket {path} cannot be made: {error.strerror}") from error
        return listener

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self, grace_s: float = 5.0) -> None:
        """Takes no more requests, gives those under way `grace_s` to be answered, and removes the socket."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            clients = list(self._clients.items())
        deadline_s = time.monotonic() + grace_s
        for how, limit_s in ((socket.SHUT_RD, deadline_s), (socket.SHUT_RDWR, deadline_s + 1.0)):
            for connection, _ in clients:
                with contextlib.suppress(OSError):
                    connection.shutdown(how)
            for _, thread in clients:
                thread.join(max(0.0, limit_s - time.monotonic()))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="control-client", daemon=True)
            with self._lock:
                self._clients[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        lines = _Lines(connection, MAX_LINE_BYTES)
        try:
            while (request := lines.receive()) is not None:
                self._check_peer(connection)  # not before: who is still sending would not see the answer
                self._answer(lines, request)
        except ControlError as error:
            with contextlib.suppress(OSError):
                lines.send(_error_message(error))
        except OSError:
            _log.debug("a control client went away")
        finally:
            with self._lock:
                self._clients.pop(connection, None)
            lines.close()

    @staticmethod
    def _check_peer(connection: socket.socket) -> None:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, uid, _gid = _CREDENTIALS.unpack(raw)
        if uid not in (0, os.geteuid()):
            raise ControlError("the volume is mounted by another user")

    def _answer(self, lines: _Lines, request: Message) -> None:
        def report(message: Message) -> None:
            try:
                lines.send({"progress": message})
            except OSError as error:
                raise _ClientGone from error

        try:
            answer: Message = {"result": self._handle(request, report)}
        except _ClientGone:
            return
        except Cas3fsError as error:
            answer = _error_message(error)
        except Exception as error:  # noqa: BLE001 - a defect in one request must not end the server
            _log.exception("the request %r failed", request.get("verb"))
            told = f"{type(error).__name__} in the mount's process ({error}); its log tells more"
            answer = _error_message(ControlError(told))
        lines.send(answer)

    def _handle(self, request: Message, progress: Progress) -> Message:
        verb, args = request.get("verb"), request.get("args", {})
        if not isinstance(verb, str) or verb not in self._handlers:
            raise ControlError(f"the mount's process does not know the request {verb!r}")
        if not isinstance(args, dict):
            raise ControlError("the arguments of a request must be an object")
        return self._handlers[verb](args, progress)


def _error_message(error: Cas3fsError) -> Message:
    return {"error": {"type": type(error).__name__, "message": str(error)}}


def _raise_error(told: object) -> None:
    name, text = (told.get("type"), told.get("message")) if isinstance(told, dict) else (None, told)
    kind = getattr(errors, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Cas3fsError) and not issubclass(kind, FileSystemError):
        raise kind(str(text))
    raise ControlError(str(text))


class ControlClient:
    """A command's connection to the process that has a volume open."""

    def __init__(self, path: Path) -> None:
        """Connects.

        Raises:
            ControlError: nothing answers at `path`.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(path) as name:
                connection.connect(name)
        except OSError as error:
            connection.close()
            raise ControlError(f"no process of cas3fs answers at {path}: {error.strerror}") from error
        self._lines = _Lines(connection, MAX_ANSWER_BYTES)

    def call(self, verb: str, args: Message | None = None, progress: Progress | None = None) -> Message:
        """The result of `verb`; `progress` is called with each report on the way.

        Raises:
            Cas3fsError: what the handler raised, with its type and text.
            ControlError: the connection ended before the answer.
        """
        self.ask(verb, args)
        return self.result(progress)

    def ask(self, verb: str, args: Message | None = None) -> None:
        """Sends a request whose answer `result` will wait for."""
        try:
            self._lines.send({"verb": verb, "args": args or {}})
        except OSError as error:
            raise ControlError(f"the mount's process broke off the connection: {error.strerror}") from error

    def result(self, progress: Progress | None = None) -> Message:
        """The answer to the oldest request without one; raises as `call`."""
        try:
            while (message := self._lines.receive()) is not None:
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
        self._lines.close()

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
