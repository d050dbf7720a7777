# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket: requests, reports and errors between a command and the process of a mount."""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.control import (
    MAX_LINE_BYTES,
    MOUNT_RECORD_NAME,
    SOCKET_NAME,
    ControlClient,
    ControlServer,
    Message,
    MountRecord,
    Progress,
    find_mount_records,
    is_listening,
)
from cas3fs.control.protocol import short_socket_path
from cas3fs.errors import ControlError, StoreUnreachable


def echo(args: Message, progress: Progress) -> Message:
    for step in range(args.get("steps", 0)):
        progress({"step": step})
    return {"args": args}


def fail(args: Message, progress: Progress) -> Message:
    raise StoreUnreachable("the store is away")


def break_down(args: Message, progress: Progress) -> Message:
    raise KeyError("a defect")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A socket path that is longer than the kernel allows."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    return deep / SOCKET_NAME


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    server = ControlServer(path, {"echo": echo, "fail": fail, "break": break_down})
    server.start()
    yield server
    server.close()


def raw(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_RDONLY)
    connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)
    connection.settimeout(10)
    return connection


def test_a_request_is_answered_after_its_reports(server: ControlServer, path: Path) -> None:
    reports: list[Message] = []
    with ControlClient(path) as client:
        assert client.call("echo", {"steps": 3}, reports.append) == {"args": {"steps": 3}}
        assert client.call("echo") == {"args": {}}
    assert reports == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_an_error_arrives_with_its_type_and_text(server: ControlServer, path: Path) -> None:
    with ControlClient(path) as client, pytest.raises(StoreUnreachable, match="the store is away"):
        client.call("fail")


def test_a_defect_in_a_handler_is_told_and_the_server_goes_on(server: ControlServer, path: Path) -> None:
    with ControlClient(path) as client:
        with pytest.raises(ControlError, match="KeyError"):
            client.call("break")
        assert client.call("echo") == {"args": {}}


def test_an_unknown_request_is_refused(server: ControlServer, path: Path) -> None:
    with ControlClient(path) as client, pytest.raises(ControlError, match="does not know the request 'x'"):
        client.call("x")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"{\n",
        b"\xff\n",
        b'{"verb": 1}\n',
        b'{"verb": "echo", "args": 1}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (MAX_LINE_BYTES + 2),
    ],
)
def test_malformed_input_gets_an_error_and_the_server_goes_on(server: ControlServer, path: Path, line: bytes) -> None:
    with raw(path) as connection:
        connection.sendall(line)
        assert b'"error"' in connection.recv(65536)
    with ControlClient(path) as client:
        assert client.call("echo") == {"args": {}}


def test_many_clients_are_served_side_by_side(path: Path) -> None:
    meeting = threading.Barrier(8, timeout=10)

    def meet(args: Message, progress: Progress) -> Message:
        return {"place": meeting.wait()}

    server = ControlServer(path, {"meet": meet})
    server.start()
    folders: list[int] = []

    def visit() -> None:
        with ControlClient(path) as client:
            folders.append(client.call("meet")["place"])

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    server.close()
    assert sorted(folders) == list(range(8))


def test_a_request_under_way_is_answered_when_the_server_closes(path: Path) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(args: Message, progress: Progress) -> Message:
        asked.set()
        may_answer.wait(10)
        return {"done": True}

    server = ControlServer(path, {"slow": slow})
    server.start()
    with ControlClient(path) as client:
        client.ask("slow")
        assert asked.wait(10)
        closing = threading.Thread(target=server.close)
        closing.start()
        may_answer.set()
        assert client.result() == {"done": True}
        closing.join(10)
    assert not path.exists()


def test_a_client_that_goes_away_ends_its_handler(path: Path) -> None:
    ended = threading.Event()

    def endless(args: Message, progress: Progress) -> Message:
        try:
            while not ended.wait(0.001):
                progress({"still": "there"})
        finally:
            ended.set()
        return {}

    server = ControlServer(path, {"endless": endless})
    server.start()
    client = ControlClient(path)
    client.ask("endless")
    client.close()
    assert ended.wait(10)
    server.close()


@pytest.mark.promise("a-stopped-mount-is-named")
@pytest.mark.parametrize("knows", [True, False], ids=["this version", "an older version"])
def test_a_handler_that_says_nothing_for_long_is_waited_for(path: Path, knows: bool) -> None:
    signs = threading.Semaphore(0)

    def alive(args: Message, progress: Progress) -> Message:
        signs.release()
        if not knows:
            raise ControlError("the mount's process does not know the request 'alive'")
        return {}

    def slow(args: Message, progress: Progress) -> Message:
        return {"signs": [signs.acquire(timeout=10) for _ in range(3)]}

    server = ControlServer(path, {"slow": slow, "alive": alive})
    server.start()
    with ControlClient(path, quiet_s=0.02) as client:
        assert client.call("slow") == {"signs": [True, True, True]}
    server.close()


@pytest.fixture
def mute(path: Path) -> Iterator[socket.socket]:
    """A socket at which somebody listens who takes no request."""
    MountRecord("file:///v", "uuid", "/mnt/there", os.getpid()).save(path.parent)
    with socket.socket(socket.AF_UNIX) as listener, short_socket_path(path) as name:
        listener.bind(name)
        listener.listen(1)
        yield listener


@pytest.mark.promise("a-stopped-mount-is-named")
def test_a_process_without_a_sign_of_life_is_named(mute: socket.socket, path: Path) -> None:
    with ControlClient(path, quiet_s=0.02, alive_timeout_s=0.1) as client:
        with pytest.raises(
            ControlError, match=f"process {os.getpid()} that serves /mnt/there has not responded"
        ) as told:
            client.call("stats")
        assert f"kill -9 {os.getpid()}" in str(told.value)


def test_a_process_that_lets_connections_wait_is_named(mute: socket.socket, path: Path) -> None:
    waiting = [raw(path) for _ in range(2)]
    assert is_listening(path)
    with pytest.raises(ControlError, match=f"process {os.getpid()} that serves /mnt/there has not responded"):
        ControlClient(path, alive_timeout_s=0.1)
    for connection in waiting:
        connection.close()


def test_a_request_that_does_not_fit_is_not_waited_for_forever(mute: socket.socket, path: Path) -> None:
    with ControlClient(path, alive_timeout_s=0.1) as client, pytest.raises(ControlError, match="has not responded"):
        client.ask("stats", {"much": "x" * (MAX_LINE_BYTES - 100)})


def test_the_socket_is_its_owners_alone(server: ControlServer, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_server_that_ends_leaves_the_socket_of_the_one_that_took_its_place(server: ControlServer, path: Path) -> None:
    successor = ControlServer(path, {"echo": echo})
    successor.start()
    server.close()
    try:
        assert is_listening(path)
    finally:
        successor.close()
    assert not path.exists()


def test_an_ended_server_is_an_error_of_one_line(server: ControlServer, path: Path) -> None:
    with ControlClient(path) as client:
        server.close()
        with pytest.raises(ControlError):
            client.call("echo")
    assert not is_listening(path)
    with pytest.raises(ControlError, match="no process of cas3fs answers"):
        ControlClient(path)


def test_only_records_whose_process_answers_are_found(tmp_path: Path) -> None:
    record = MountRecord("file:///v", "uuid", "/mnt", 1)
    for name in ("alive", "dead"):
        (tmp_path / name).mkdir()
        record.save(tmp_path / name)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / MOUNT_RECORD_NAME).write_text("{}")
    server = ControlServer(tmp_path / "alive" / SOCKET_NAME, {})
    server.start()
    assert list(find_mount_records(tmp_path)) == [(tmp_path / "alive", record)]
    server.close()
    assert list(find_mount_records(tmp_path)) == []
    assert list(find_mount_records(tmp_path / "nowhere")) == []


@pytest.mark.promise("few-descriptors-for-many-files")
def test_a_server_without_a_descriptor_for_a_request_serves_it_when_one_comes_free(
    path: Path, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted:
        """A listening socket whose next requests find no descriptor."""

        def __init__(self, inner: socket.socket) -> None:
            self.inner, self.left = inner, 2

        def accept(self) -> tuple[socket.socket, object]:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, "for the test")
            return self.inner.accept()

        def shutdown(self, how: int) -> None:
            self.inner.shutdown(how)

        def close(self) -> None:
            self.inner.close()

    server._socket = Exhausted(server._socket)  # type: ignore[assignment]
    for _ in range(3):  # the first is accepted by the call that is under way
        with ControlClient(path) as client:
            assert client.call("echo") == {"args": {}}
