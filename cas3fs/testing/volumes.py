# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes and mounts for tests, made with the command line as by a user.

A `TemporaryVolume` lives in one folder: the store, the state and the cache of a machine that uses it. A
`TemporaryMount` is that volume mounted by a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from cas3fs.config import KEY_FILE_VARIABLE
from cas3fs.errors import MountError

NO_FUSE_VARIABLE = "CAS3FS_TEST_NO_FUSE"
COMMAND_TIMEOUT_S = 120
KEY_FILE_BYTES = 32


@attrs.frozen
class TemporaryVolume:
    """A volume, with the state and cache folders of a machine that uses it."""

    folder: Path
    url: str
    key_file: Path | None = None
    """Of an encrypted volume."""

    @classmethod
    def make(cls, folder: Path, *options: str) -> "TemporaryVolume":
        """Make one in `folder`, with options of ``cas3fs mkfs``; with ``--encrypt`` it gets a key file of its own.

        Raises:
            MountError: it could not be made.
        """
        (folder / "store").mkdir()
        volume = cls(folder, (folder / "store").as_uri(), _make_key_file(folder) if "--encrypt" in options else None)
        encryption = () if {"--encrypt", "--no-encrypt"} & set(options) else ("--no-encrypt",)
        volume.run("mkfs", volume.url, *encryption, *options)
        return volume

    @property
    def state_dir(self) -> Path:
        """The state directory of its machine."""
        return self.folder / "state"

    @property
    def cache_dir(self) -> Path:
        """The cache folder of its machine."""
        return self.folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which commands use these folders, and the key."""
        folders = {"CAS3FS_STATE_DIR": str(self.state_dir), "CAS3FS_CACHE_DIR": str(self.cache_dir)}
        return folders if self.key_file is None else folders | {KEY_FILE_VARIABLE: str(self.key_file)}

    def on_another_machine(self, folder: Path) -> "TemporaryVolume":
        """The same volume with other, empty state and cache folders below `folder`."""
        return TemporaryVolume(folder, self.url, self.key_file)

    def run(self, *arguments: str | Path) -> str:
        """Run ``cas3fs`` with `arguments`; returns what it prints.

        Raises:
            MountError: it failed; the text is its error message.
        """
        done = subprocess.run(
            [sys.executable, "-m", "cas3fs", *map(str, arguments)],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise MountError(f"cas3fs {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def report(self, *arguments: str | Path) -> Any:
        """The value that ``cas3fs ... --json`` prints."""
        return json.loads(self.run(*arguments, "--json"))


@attrs.frozen
class TemporaryMount:
    """A mounted volume; usable as a path."""

    volume: TemporaryVolume
    path: Path
    options: tuple[str, ...] = ()
    """Options of ``cas3fs mount`` that it always has."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def up(self, *options: str) -> None:
        """Mount the volume, with more options of ``cas3fs mount``.

        Raises:
            MountError: that failed.
        """
        self.path.mkdir(exist_ok=True)
        self.volume.run("mount", self.volume.url, self.path, *self.options, *options)

    def down(self) -> None:
        """Store everything and unmount; harmless when it is not mounted.

        Raises:
            MountError: that failed; the mount is removed all the same.
        """
        if not self.path.is_mount():
            return
        try:
            self.volume.run("umount", self.path)
        finally:
            if self.path.is_mount():
                subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False, capture_output=True)

    def flush(self) -> None:
        """Store everything written so far, and publish a snapshot of it."""
        self.volume.run("flush", self.volume.url)

    def stats(self) -> Any:
        """The value that ``cas3fs stats --json`` prints."""
        return self.volume.report("stats", self.path)

    def again(self, *options: str, keep_cache: bool = True, keep_state: bool = True) -> None:
        """Unmount and mount again, perhaps without the machine's cache or state."""
        self.down()
        if not keep_cache:
            shutil.rmtree(self.volume.cache_dir, ignore_errors=True)
        if not keep_state:
            shutil.rmtree(self.volume.state_dir, ignore_errors=True)
        self.up(*options)


def _make_key_file(folder: Path) -> Path:
    path = folder / "key"
    path.write_bytes(os.urandom(KEY_FILE_BYTES))
    return path


def obstacle_to_mounting() -> str:
    """The reason why volumes cannot be mounted here; an empty text where they can."""
    if os.environ.get(NO_FUSE_VARIABLE) == "1":
        return f"{NO_FUSE_VARIABLE}=1"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not there, or may not be read and written by this user"
    if shutil.which("fusermount3") is None:
        return "the command fusermount3 is not installed"
    return ""
