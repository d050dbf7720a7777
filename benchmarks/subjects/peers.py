# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers: other file systems that keep their data on S3, if they are installed.

S3QL is measured in its best configuration: unencrypted, zlib-6 (no compression for random bytes), and remounted after
the first files, because the statistics for its query planner are out of date in a new volume.
"""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.lines import DIR
from benchmarks.subjects.places import BUCKET, StoreBacked
from benchmarks.subjects.subject import move_away

FIRST_FILES = 2000


class Peer(StoreBacked):
    """Another file system, on the same kind of store as cas3fs."""

    program: str
    """The command that shows that it is installed."""

    def prepare(self) -> None:
        (self.folder / "cache").mkdir()
        super().prepare()

    def forget_locally(self) -> None:
        move_away(self.folder / "cache")
        (self.folder / "cache").mkdir()

    def unmount(self) -> None:
        self.call(["fusermount3", "-u", self.root])

    def settle(self) -> None:
        self.call(["sync", "-f", self.root])

    @property
    def host(self) -> str:
        """Host and port of the server."""
        assert self.server is not None
        return urlsplit(self.server.endpoint_url).netloc


class S3ql(Peer):
    """S3QL."""

    system = "s3ql"
    program = "mount.s3ql"

    @property
    def url(self) -> str:
        """The storage URL."""
        return f"local://{self.store}" if self.place == DIR else f"s3c4://{self.host}/{BUCKET}/volume"

    def options(self) -> list[str]:
        """The common options of mkfs, mount and fsck."""
        common = ["--authfile", str(self.folder / "authfile"), "--cachedir", str(self.folder / "cache")]
        return common if self.place == DIR else [*common, "--backend-options", "no-ssl,disable-expect100"]

    def make(self) -> None:
        server = self.server
        login = "" if server is None else f"backend-login: {server.access_key}\nbackend-password: {server.secret_key}\n"
        authfile = self.folder / "authfile"
        authfile.write_text(f"[bench]\nstorage-url: {self.url}\n{login}")
        authfile.chmod(0o600)
        self.call(["mkfs.s3ql", "--plain", *self.options(), self.url])

    def start(self) -> None:
        super().start()
        first = self.root / ".first"
        first.mkdir()
        for number in range(FIRST_FILES):
            (first / str(number)).touch()
        self.remount()

    def command(self) -> list[str]:
        compression = "zlib-6" if self.compress else "none"
        return ["mount.s3ql", "--fg", "--compress", compression, *self.options(), self.url, str(self.root)]

    def unmount(self) -> None:
        self.call(["umount.s3ql", self.root])

    def settle(self) -> None:
        super().settle()
        self.call(["s3qlctrl", "flushcache", self.root])

    def refresh(self) -> None:
        self.remount()

    def clone(self, source: Path, target: Path) -> bool:
        self.call(["s3qlcp", source, target])
        return True

    def check(self) -> float | None:
        return self.timed_check("fsck.s3ql", "--force", "--batch", *self.options(), self.url)


class S3fs(Peer):
    """s3fs-fuse: one object per file."""

    system = "s3fs"
    program = "s3fs"

    def make(self) -> None:
        server = self.server
        assert server is not None
        passwords = self.folder / "passwords"
        passwords.write_text(f"{server.access_key}:{server.secret_key}\n")
        passwords.chmod(0o600)

    def command(self) -> list[str]:
        url = f"url=http://{self.host},use_path_request_style,passwd_file={self.folder / 'passwords'}"
        return ["s3fs", BUCKET, str(self.root), "-f", "-o", f"{url},use_cache={self.folder / 'cache'}"]


class RcloneMount(Peer):
    """rclone mount: one object per file."""

    system = "rclone"
    program = "rclone"

    def make(self) -> None:
        """Nothing to do."""

    def command(self) -> list[str]:
        cache = ["--vfs-cache-mode", "full", "--cache-dir", str(self.folder / "cache"), "--vfs-write-back", "0s"]
        backend = f":s3,provider=Other,env_auth=true,force_path_style=true,endpoint='http://{self.host}':{BUCKET}"
        return ["rclone", "mount", backend, str(self.root), *cache]


def installed(search: str | None = None) -> list[type[Peer]]:
    """The peers whose commands are found on `search`, a path like PATH (PATH itself if None)."""
    return [peer for peer in (S3ql, S3fs, RcloneMount) if shutil.which(peer.program, path=search)]
