# SPDX-License-Identifier: GPL-3.0-or-later
"""Places: where the store of a subject is. An S3 server is ``rclone serve s3`` on a folder of the subject."""

import shutil
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.lines import DIR, FAR, S3
from benchmarks.proxy import Proxy, proxy
from benchmarks.subjects.mounted import Mounted
from benchmarks.subjects.subject import tree_bytes

DELAY_S = 0.03
BUCKET = "bench"


@dataclass
class Server:
    """A running S3 server with a bucket, and how to reach it."""

    endpoint_url: str
    environment: dict[str, str]
    access_key: str
    secret_key: str
    region: str
    counter: Proxy | None = None
    _closing: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Stop the server, and the proxy before it."""
        self._closing.close()


def serve(folder: Path, place: str) -> Server:
    """Start a server for `folder` at `place`; the caller closes it.

    Raises:
        ValueError: the place has no server.
    """
    from cas3fs.testing.servers import rclone_s3

    if place not in (S3, FAR):
        raise ValueError(f"there is no server in the place {place}")
    closing = ExitStack()
    server = closing.enter_context(rclone_s3(folder))
    server.make_bucket(BUCKET)
    environment = dict(server.environment)
    counter = None
    if place == FAR:
        counter = closing.enter_context(proxy(server.endpoint_url, DELAY_S))
        environment["AWS_ENDPOINT_URL_S3"] = counter.endpoint_url
    return Server(
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        environment=environment,
        access_key=environment["AWS_ACCESS_KEY_ID"],
        secret_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=environment["AWS_DEFAULT_REGION"],
        counter=counter,
        _closing=closing,
    )


class StoreBacked(Mounted):
    """A mounted file system that keeps its data in a folder, or on a server for that folder."""

    def __init__(self, folder: Path, options: Sequence[str] = (), place: str = DIR) -> None:
        super().__init__(folder, options)
        self.place = place
        self.store = folder / "store"
        self.server: Server | None = None

    @abstractmethod
    def make(self) -> None:
        """Create the file system in its store."""

    def prepare(self) -> None:
        self.store.mkdir(parents=True)
        if self.place != DIR:
            self.server = serve(self.store, self.place)
            self.requests = self.server.counter
        self.make()

    def stored_bytes(self) -> int | None:
        return tree_bytes(self.store)

    def environment(self) -> dict[str, str]:
        inherited = super().environment()
        if self.server is None:
            return inherited
        kept = {name: value for name, value in inherited.items() if not name.startswith("AWS_")}
        return {**kept, **self.server.environment}

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            if self.server is not None:
                self.server.close()
                self.server = None
            shutil.rmtree(self.folder, ignore_errors=True)
