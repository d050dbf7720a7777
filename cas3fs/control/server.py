# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's side of the control socket.

Threads: one accepts, and one per client runs the handlers, which must be safe to call side by side. `_clients` is
guarded by `_lock`, which is held for set operations only.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cas3fs.control.protocol import (
    ALIVE_VERB,
    MAX_LINE_BYTES,
    Message,
    MessageStream,
    Progress,
    peer_credentials,
    short_socket_path,
)
from cas3fs.errors import Cas3fsError, ControlError

Handler = Callable[[Message, Progress], Message]

_PAUSE_S = 0.5

_log = logging.getLogger(__name__)


class _ClientGone(Exception):
    """The client has closed the connection."""


class ControlServer:
    """Answers requests on a socket until it is closed."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        """`handlers`: verb to a callable that takes the arguments and a way to report progress.

        Raises:
            ControlError: the socket cannot be made.
        """
        self._handlers = {ALIVE_VERB: lambda args, progress: {}, **handlers}
        self._path = path
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._closing = threading.Event()
        self._socket = self._bind(path)
        self._file = path.stat()
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    @staticmethod
    def _bind(path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            with short_socket_path(path) as name:
                listener.bind(name)
            path.chmod(0o600)
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise ControlError(f"the control socket {path} cannot be made: {error.strerror}") from error
        return listener

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self, grace_s: float = 5.0) -> None:
        """Accept no more requests, give those under way `grace_s` to be answered, and remove the socket."""
        self._closing.set()
        self._remove()
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

    def _remove(self) -> None:
        """Remove the socket, but not that of a later server at the same path: the next mount may have begun."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), self._file):
                self._path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._closing.is_set():
                    return
                _log.error("a request cannot be taken: %s", error)  # no descriptor is free, as a rule
                self._closing.wait(_PAUSE_S)
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        """Serve a client by a thread of its own; if none can be started, close the connection."""
        thread = threading.Thread(target=self._serve, args=(connection,), name="control-client", daemon=True)
        with self._lock:
            self._clients[connection] = thread
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            _log.exception("a request cannot be answered")
            with self._lock:
                self._clients.pop(connection, None)
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        stream = MessageStream(connection, MAX_LINE_BYTES)
        try:
            while (request := stream.receive()) is not None:
                self._check_peer(connection)  # not before: a client that is still sending would not see the answer
                self._answer(stream, request)
        except ControlError as error:
            with contextlib.suppress(OSError):
                stream.send(_error_message(error))
        except OSError:
            _log.debug("a control client went away")
        finally:
            with self._lock:
                self._clients.pop(connection, None)
            stream.close()

    @staticmethod
    def _check_peer(connection: socket.socket) -> None:
        if peer_credentials(connection)[1] not in (0, os.geteuid()):
            raise ControlError("the volume is mounted by another user")

    def _answer(self, stream: MessageStream, request: Message) -> None:
        def report(message: Message) -> None:
            try:
                stream.send({"progress": message})
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
            text = f"{type(error).__name__} in the mount process ({error}); see its log"
            answer = _error_message(ControlError(text))
        stream.send(answer)

    def _handle(self, request: Message, progress: Progress) -> Message:
        verb, args = request.get("verb"), request.get("args", {})
        if not isinstance(verb, str) or verb not in self._handlers:
            raise ControlError(
                f"the mount process does not know the request {verb!r}: if it runs another version of cas3fs, "
                "unmount the volume and mount it again"
            )
        if not isinstance(args, dict):
            raise ControlError("the arguments of a request must be an object")
        return self._handlers[verb](args, progress)


def _error_message(error: Cas3fsError) -> Message:
    return {"error": {"type": type(error).__name__, "message": str(error)}}
