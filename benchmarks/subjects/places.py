# SPDX-License-Identifier: GPL-3.0-or-later
"""Places: where a subject's store is. An S3 server is ``rclone serve s3`` on a folder of the subject's."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.lines import FAR, S3
from benchmarks.proxy import Proxy, proxy

DELAY_S = 0.03
BUCKET = "bench"


@dataclass
class Server:
    """A running S3 server with a bucket, and how it is reached."""

    endpoint_url: str
    environment: dict[str, str]
    access_key: str
    secret_key: str
    region: str
    counter: Proxy | None = None
    _closing: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Ends the server, and the proxy before it."""
        self._closing.close()


def serve(folder: Path, place: str) -> Server:
    """Starts a server of `folder` at `place`; the caller closes it.

    Raises:
        ValueError: no server is needed there.
    """
    from cas3fs.testing.servers import rclone_s3

    if place not in (S3, FAR):
        raise ValueError(f"{place} is no place of a server")
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


class Stored:
    """A mixin's worth of state: the store's folder, and its server where the place has one."""

    def __init__(self, folder: Path, place: str) -> None:
        self.folder = folder / "store"
        self.place = place
        self.server: Server | None = None

    def open(self) -> None:
        """Makes the folder, and starts the server if there is to be one."""
        self.folder.mkdir(parents=True)
        if self.place in (S3, FAR):
            self.server = serve(self.folder, self.place)

    def environment(self, inherited: dict[str, str]) -> dict[str, str]:
        """`inherited`, with nothing but the server's in the settings of AWS."""
        if self.server is None:
            return inherited
        kept = {name: value for name, value in inherited.items() if not name.startswith("AWS_")}
        return {**kept, **self.server.environment}

    def close(self) -> None:
        """Ends the server; in any state."""
        if self.server is not None:
            self.server.close()
            self.server = None
