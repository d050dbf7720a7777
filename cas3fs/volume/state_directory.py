# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of this machine in which one volume's state lies, locked while a process works with it.

::

    lock            held by flock as long as the process lives; holds its process id
    index.sqlite    the index, with -wal and -shm, and -fingerprint while it holds what a snapshot holds
    staging.sqlite  rows of staging, with -wal and -shm
    staging/        bytes of staging
    claim.json      this folder's own claims (module `cas3fs.epochs`)
    snapshots.json  the snapshots that this machine knows
    control.sock, mount.json, mount.log
    place.json      the location of the volume (module `location`)
    maintenance.json  what gc and fsck found last
    lost.json       blocks and packs that a check found lost, for the next writer
    look-NAME/      indexes of snapshots that maintenance looks into
    views/NAME/     state of a read-only mount, with a lock of its own; `shows` in it names the snapshot
    set-aside/TIME/ what belongs to no line any more but was never published
"""

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

from cas3fs.control import SOCKET_NAME, MountRecord
from cas3fs.durable import replace_file, sync_folder
from cas3fs.errors import StateInUse, UsageError

_INDEX_FILES = ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "index.sqlite-fingerprint")
_VIEWS = "views"
_SHOWS = "shows"
_STAGING_FILES = ("staging.sqlite", "staging.sqlite-wal", "staging.sqlite-shm", "staging")


def _make_private(path: Path) -> None:
    """Keeps others out of a folder of ours that they may look into: names and contents of all files lie in it."""
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        path.chmod(0o700)


class StateDirectory:
    """A locked state directory; made where it is missing."""

    def __init__(self, path: Path) -> None:
        """Makes and locks the folder.

        Raises:
            StateInUse: another process works with it.
            UsageError: it cannot be made or written.
        """
        self.path = path
        try:
            _create_durably(path)
            _make_private(path)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"the state directory {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise StateInUse(
                f"the volume is open already on this machine, by process {holder} ({path}); "
                "--read-only or --snapshot ID mounts a snapshot of it beside that"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    @property
    def index(self) -> Path:
        return self.path / "index.sqlite"

    @property
    def staging_rows(self) -> Path:
        return self.path / "staging.sqlite"

    @property
    def staging(self) -> Path:
        return self.path / "staging"

    @property
    def claim(self) -> Path:
        return self.path / "claim.json"

    @property
    def known_snapshots(self) -> Path:
        """The snapshots that this machine knows (`cas3fs.snapshots.tracker`)."""
        return self.path / "snapshots.json"

    @property
    def control(self) -> Path:
        return self.path / SOCKET_NAME

    @property
    def log(self) -> Path:
        return self.path / "mount.log"

    @property
    def scratch(self) -> Path:
        """A copy of the index that is about to be published."""
        return self.path / "publish.sqlite"

    @property
    def restored(self) -> Path:
        """A snapshot that is about to become the index."""
        return self.path / "restore.sqlite"

    def shown(self) -> dict[str, str]:
        """The snapshots that processes of this machine read through this folder, and where each is in use."""
        views = self.path / _VIEWS
        found = (_view_in_use(path) for path in (views.iterdir() if views.is_dir() else ()))
        return {one[0]: one[1] for one in found if one is not None}

    # -- index and staging

    def discard_index(self) -> None:
        """Removes index and staging, of which nothing is missed."""
        for name in (*_INDEX_FILES, *_STAGING_FILES):
            self._remove(self.path / name)
        self.sync()

    def set_aside(self, *, staging_only: bool = False) -> Path:
        """Moves index and staging out of the way; gives the folder in which they are now."""
        aside = self.path / "set-aside" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        aside.mkdir(parents=True)
        for name in _STAGING_FILES if staging_only else (*_INDEX_FILES, *_STAGING_FILES):
            if (self.path / name).exists():
                (self.path / name).rename(aside / name)
        for folder in (aside, aside.parent):  # before the names that they came from are gone for good
            sync_folder(folder)
        self.sync()
        return aside

    def remove_set_aside(self, aside: Path) -> bool:
        """Removes what was set aside, unless there are staged bytes among it; whether it could be."""
        staged = aside / "staging"
        if staged.is_dir() and any(staged.iterdir()):
            return False
        self._remove(aside)
        return True

    def has_staged(self) -> bool:
        """Whether there are bytes or rows of staging."""
        return self.staging_rows.exists() or (self.staging.is_dir() and any(self.staging.iterdir()))

    def remove_scratch(self) -> None:
        """Removes copies that a process left half-made."""
        for path in (self.scratch, self.restored):
            for suffix in ("", "-wal", "-shm", "-journal"):
                self._remove(path.with_name(path.name + suffix))
        for folder in self.path.glob("look-*"):
            self._remove(folder)

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Makes durable which names the folder holds."""
        sync_folder(self.path)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)


def _view_in_use(view: Path) -> tuple[str, str] | None:
    """The snapshot that a view shows, and where; None where its process is gone, or has not chosen yet."""
    try:
        snapshot = (view / _SHOWS).read_text()
        with open(view / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        record, holder = MountRecord.load(view), (view / "lock").read_text().strip()
        return snapshot, f"mounted on {record.mountpoint}" if record else f"being read by process {holder}"
    except OSError:
        pass
    return None


def _create_durably(path: Path) -> None:
    """Makes a folder, and those above it, where they are missing; after a loss of power it is still called that.

    Also where it exists: the process that made it may have ended before the sync.

    Raises:
        OSError: as mkdir(2), open(2), fsync(2).
    """
    if not path.parent.is_dir():
        _create_durably(path.parent)
    path.mkdir(exist_ok=True, mode=0o700)
    with contextlib.suppress(PermissionError):  # of a folder that may be entered and not be read
        sync_folder(path.parent)


def is_view(path: Path) -> bool:
    """Whether a state directory is that of a read-only mount."""
    return path.parent.name == _VIEWS


class ViewFolder(StateDirectory):
    """The state directory of a read-only mount: its own, gone with it."""

    @classmethod
    def make(cls, volume: Path) -> "ViewFolder":
        """A new one below the volume's state directory; those whose process is gone are removed.

        Raises:
            UsageError: it cannot be made.
        """
        views = volume / _VIEWS
        for old in sorted(views.iterdir()) if views.is_dir() else []:
            cls._remove_abandoned(old)
        return cls(views / f"{os.getpid()}-{time.time_ns():x}")

    def shows(self, snapshot: str) -> None:
        """Lets the writer on this machine know that the snapshot is in use; to be called before it is read."""
        replace_file(self.path / _SHOWS, snapshot, sync=False)

    @classmethod
    def _remove_abandoned(cls, path: Path) -> None:
        try:
            cls(path).close()
        except StateInUse:
            return

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        super().close()
