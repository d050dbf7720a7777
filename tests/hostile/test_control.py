# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket: arbitrary bytes from the other side, and who may connect."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cas3fs.control import MAX_LINE_BYTES, SOCKET_NAME, ControlClient, ControlServer, Message, Progress
from cas3fs.errors import Cas3fsError, ControlError
from cas3fs.volume.state_directory import StateDirectory
from tests.hostile.mutations import json_values

NOBODY = 65534
REQUEST = b'{"verb": "echo", "args": {"a": 1}}\n'
json_lines = st.recursive(json_values, lambda inner: st.dictionaries(st.sampled_from(["verb", "args"]), inner)).map(
    lambda value: json.dumps(value).encode() + b"\n"
)
answers = st.recursive(
    json_values,
    lambda inner: st.dictionaries(st.sampled_from(["result", "error", "progress", "type", "message"]), inner),
).map(lambda value: json.dumps(value).encode() + b"\n")


def echo(args: Message, progress: Progress) -> Message:
    return {"args": args}


@pytest.fixture
def path(workspace: Path) -> Path:
    return workspace / SOCKET_NAME


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    made = ControlServer(path, {"echo": echo})
    made.start()
    yield made
    made.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), json_lines))
@example(b"[" * 100_000 + b"\n")
@example(b"1" * 100_000 + b"\n")
@example(b'{"verb": "\\ud800"}\n')
@example(b'{"verb": "echo", "args": ' + b'{"a":' * 100_000 + b"\n")
def test_arbitrary_requests_get_replies_and_do_no_harm(server: ControlServer, path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    for reply in answer.splitlines():
        assert json.loads(reply).keys() in ({"result"}, {"error"})
    with ControlClient(path) as client:
        assert client.call("echo") == {"args": {}}


class FakeServer:
    """Answers every request with the same bytes."""

    def __init__(self, path: Path) -> None:
        self.answer = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def impostor(path: Path) -> Iterator[FakeServer]:
    made = FakeServer(path)
    yield made
    made.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), answers))
@example(b'{"result": 5}\n')
@example(b'{"result": [1]}\n')
@example(b'{"neither": 1}\n')
@example(b'{"progress": 5}\n{"result": {}}\n')
@example(b'{"error": null}\n')
@example(b'{"error": {"message": ""}}\n')
@example(b'{"error": {"type": "DeleteFailed", "message": 5}}\n')
@example(b'{"error": {"type": "Cas3fsError", "message": "\\ud800"}}\n')
@example(b"[" * 100_000 + b"\n")
def test_arbitrary_replies_are_results_or_errors(impostor: FakeServer, path: Path, answer: bytes) -> None:
    impostor.answer = answer
    seen: list[Message] = []
    try:
        with ControlClient(path) as client:
            result: Any = client.call("echo", {}, seen.append)
    except Cas3fsError as error:
        assert str(error)
    else:
        assert isinstance(result, dict)
    assert all(isinstance(report, dict) for report in seen)


def test_a_too_long_request_is_refused_before_its_end(server: ControlServer, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(b"x" * (MAX_LINE_BYTES + 1))  # without an end of line
        assert b"too long" in connection.recv(65536)


def test_a_reply_may_be_longer_than_a_request(path: Path) -> None:
    found = {"findings": ["x" * 1000] * 5000}
    server = ControlServer(path, {"find": lambda args, progress: found})
    server.start()
    with ControlClient(path) as client:
        assert client.call("find") == found
    server.close()


def test_an_endless_request_blocks_neither_others_nor_close(path: Path) -> None:
    server = ControlServer(path, {"echo": echo})
    server.start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(REQUEST[:10])
        with ControlClient(path) as client:
            assert client.call("echo") == {"args": {}}
        server.close()
    assert not path.exists()


def test_state_directory_and_socket_are_private(workspace: Path) -> None:
    mask = os.umask(0)
    try:
        state = StateDirectory(workspace / "state")
        server = ControlServer(state.control, {})
        assert (workspace / "state").stat().st_mode & 0o777 == 0o700
        assert state.control.stat().st_mode & 0o777 == 0o600
        server.start()
        server.close()
        state.close()
    finally:
        os.umask(mask)


def test_permissions_of_an_open_state_directory_are_restricted(workspace: Path) -> None:
    (workspace / "state").mkdir(mode=0o755)
    StateDirectory(workspace / "state").close()
    assert (workspace / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_is_refused_at_the_socket(server: ControlServer, path: Path) -> None:
    path.chmod(0o666)
    for folder in (path.parent, *path.parent.parents[:3]):
        if folder != Path("/tmp"):
            folder.chmod(0o711)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(REQUEST)
                os.write(writing, connection.recv(65536))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        assert json.loads(pipe.read())["error"]["type"] == ControlError.__name__
