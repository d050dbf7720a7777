# SPDX-License-Identifier: GPL-3.0-or-later
"""cas3fs, used through its command line, in any place."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lines import DIR
from benchmarks.subjects.places import BUCKET, StoreBacked
from benchmarks.subjects.subject import move_away

if TYPE_CHECKING:
    from cas3fs.objectstores import ObjectStore


class Cas3fs(StoreBacked):
    """A volume in a directory or on an S3 server; snapshots are taken only on request."""

    system = "cas3fs"
    caches: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The URL of the volume."""
        return self.store.as_uri() if self.place == DIR else f"s3://{BUCKET}/volume"

    def make(self) -> None:
        unfenced = () if self.place == DIR else ("--allow-unfenced",)  # rclone ignores conditional writes
        self.run("mkfs", "--no-encrypt", self.url, *unfenced)

    def command(self) -> list[str]:
        options = ["--foreground", *self.mount_options, "--snapshot-interval", "1h"]
        caches = [word for spec in self.caches for word in ("--cache", spec)]
        return [sys.executable, "-m", "cas3fs", "mount", *options, *caches, self.url, str(self.root)]

    def unmount(self) -> None:
        self.run("umount", str(self.root))

    def settle(self) -> None:
        self.run("flush", self.url)

    def forget_locally(self) -> None:
        for name in ("state", "cache"):
            move_away(self.folder / name)

    def clone(self, source: Path, target: Path) -> bool:
        if "clone" not in self.run("--help"):
            return False
        self.run("clone", str(source), str(target))
        return True

    def check(self) -> float | None:
        return self.timed_check(sys.executable, "-m", "cas3fs", "fsck", self.url)

    def environment(self) -> dict[str, str]:
        places = {"CAS3FS_STATE_DIR": str(self.folder / "state"), "CAS3FS_CACHE_DIR": str(self.folder / "cache")}
        return {**super().environment(), **places}

    def run(self, *words: str) -> str:
        """Run ``cas3fs`` with `words`; returns its output.

        Raises:
            RuntimeError: the command failed; with its error output.
        """
        return self.call([sys.executable, "-m", "cas3fs", *words])

    def gets(self) -> int:
        """The number of GETs so far, in a place that counts requests."""
        return 0 if self.requests is None else self.requests.count().get("GET", 0)

    def open_store(self) -> "ObjectStore":
        """Open the volume's store on its server, without the mount; the caller closes it."""
        from cas3fs.config import StoreSettings
        from cas3fs.metrics import Metrics
        from cas3fs.objectstores import open_store

        server = self.server
        assert server is not None, "a volume in a directory has no server"
        settings = StoreSettings(self.url, server.endpoint_url, server.access_key, server.secret_key, server.region)
        return open_store(settings, Metrics())

    @contextmanager
    def memcached(self) -> Iterator[None]:
        """Let mounts within the context share a memcached behind their disk caches."""
        from cas3fs.testing.servers import memcached

        with memcached(1024) as server:
            self.caches = ("disk:10GiB", server.spec)
            try:
                yield
            finally:
                self.caches = ()
