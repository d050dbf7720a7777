# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of this machine in which one volume's state lies, locked while a process uses it.

::

    lock            held by flock as long as the process lives; holds its process id
    index.sqlite    the index, with -wal and -shm, and -fingerprint while it holds what a snapshot holds
    index.sqlite-hashes  what finds blocks by their hashes; -hashes-open while it is in use (`cas3fs.index.hash_index`)
    staging.sqlite  rows of staging, with -wal and -shm
    staging/        bytes of staging
    claim.json      this folder's own claims (module `cas3fs.epochs`)
    snapshots.json  the snapshots that this machine knows
    publish.sqlite  a copy of the index that is about to be published
    restore.sqlite  a snapshot that is about to become the index
    superseded      an index until a newer one, which takes from it what is the same, is in place
    control.sock, mount.json, mount.log
    place.json      the location of the volume (module `location`)
    maintenance.json  what gc and fsck found last
    lost.json       blocks and packs that a check found lost, for the next writer
    look-NAME/      indexes of snapshots that maintenance reads
    copy/           what `cas3fs copy` works with (`cas3fs.copying`); removed by a mount
    views/NAME/     state of a read-only mount, with a lock of its own; `shows` in it names the snapshot
    set-aside/TIME/ index and staging that are not part of the lineage any more but were never published

Beside the folders of the volumes, ``seen/`` has what this machine has seen of them (module `seen`).
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

INDEX_NAME = "index.sqlite"
_INDEX_FILES = (
    INDEX_NAME,
    "index.sqlite-wal",
    "index.sqlite-shm",
    "index.sqlite-fingerprint",
    "index.sqlite-hashes",
    "index.sqlite-hashes-open",
)
_VIEWS = "views"
_SHOWS = "shows"
_SUPERSEDED = "superseded"
_STAGING_FILES = ("staging.sqlite", "staging.sqlite-wal", "staging.sqlite-shm", "staging")


def _make_private(path: Path) -> None:
    """Removes others' permissions from a folder of ours: it holds names and contents of all files."""
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        path.chmod(0o700)


class StateDirectory:
    """A locked state directory; created if it is missing."""

    def __init__(self, path: Path) -> None:
        """Makes and locks the folder.

        Raises:
            StateInUse: another process uses it.
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
                f"the volume is already open on this machine, by process {holder} ({path}); "
                "--read-only or --snapshot ID mounts a snapshot of it in addition"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    @property
    def index(self) -> Path:
        return self.path / INDEX_NAME

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

    @property
    def superseded(self) -> Path:
        """The file of an index that the store has a newer state of."""
        return self.path / _SUPERSEDED

    @property
    def copy_work(self) -> Path:
        """What a copy of another volume into this one works with."""
        return self.path / "copy"

    def remove_copy_work(self) -> None:
        """Removes that; the store has everything that it holds, or can be read again."""
        self._remove(self.copy_work)

    def shown(self) -> dict[str, str]:
        """Returns the snapshots that processes of this machine read through this folder, and where each is in use."""
        views = self.path / _VIEWS
        found = (_view_in_use(path) for path in (views.iterdir() if views.is_dir() else ()))
        return {one[0]: one[1] for one in found if one is not None}

    # -- index and staging

    def discard_index(self) -> None:
        """Removes index and staging, which must hold nothing that the store lacks."""
        for name in (*_INDEX_FILES, *_STAGING_FILES):
            self._remove(self.path / name)
        self.sync()

    def supersede_index(self) -> None:
        """As `discard_index`, but keeps the file of the index as `superseded`."""
        with contextlib.suppress(FileNotFoundError):
            self.index.replace(self.superseded)
        self.discard_index()

    def remove_superseded(self) -> None:
        """Removes that file."""
        self._remove(self.superseded)

    def set_aside(self, *, staging_only: bool = False) -> Path:
        """Moves index and staging out of the way; returns the folder in which they are now."""
        aside = self.path / "set-aside" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        aside.mkdir(parents=True)
        for name in _STAGING_FILES if staging_only else (*_INDEX_FILES, *_STAGING_FILES):
            if (self.path / name).exists():
                (self.path / name).rename(aside / name)
        for folder in (aside, aside.parent):  # before the removal of the old names is durable
            sync_folder(folder)
        self.sync()
        return aside

    def remove_set_aside(self, aside: Path) -> bool:
        """Removes what was set aside, unless staged bytes are in it; returns whether it was removed."""
        staged = aside / "staging"
        if staged.is_dir() and any(staged.iterdir()):
            return False
        self._remove(aside)
        return True

    def has_staged(self) -> bool:
        """Whether there are bytes or rows of staging."""
        return self.staging_rows.exists() or (self.staging.is_dir() and any(self.staging.iterdir()))

    def remove_scratch(self) -> None:
        """Removes incomplete copies that an earlier process left."""
        for path in (self.scratch, self.restored):
            for suffix in ("", "-wal", "-shm", "-journal"):
                self._remove(path.with_name(path.name + suffix))
        for folder in self.path.glob("look-*"):
            self._remove(folder)
        self.remove_superseded()

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Makes the folder's names durable."""
        sync_folder(self.path)

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._lock)


def _view_in_use(view: Path) -> tuple[str, str] | None:
    """Returns the snapshot that a view shows, and where; None if its process has ended, or has not chosen yet."""
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
    """Makes a folder, and those above it, if they are missing, and makes their names durable.

    The sync is repeated if the folder exists: the process that made it may have ended before its own.

    Raises:
        OSError: as mkdir(2), open(2), fsync(2).
    """
    if not path.parent.is_dir():
        _create_durably(path.parent)
    path.mkdir(exist_ok=True, mode=0o700)
    with contextlib.suppress(PermissionError):  # the folder may be entered but not read
        sync_folder(path.parent)


def local_indexes(path: Path) -> list[Path]:
    """Returns the files of indexes below a volume's state directory: of its writer, of views, and those set aside."""
    others = (path.glob(f"{folder}/*/{INDEX_NAME}") for folder in (_VIEWS, "set-aside"))
    return [path / INDEX_NAME, path / _SUPERSEDED, *(one for found in others for one in found)]


def is_view(path: Path) -> bool:
    """Whether a state directory is that of a read-only mount."""
    return path.parent.name == _VIEWS


class ViewDirectory(StateDirectory):
    """The state directory of a read-only mount, which is removed with it."""

    @classmethod
    def make(cls, volume: Path) -> "ViewDirectory":
        """Makes a new one below the volume's state directory, and removes those whose process has ended.

        Raises:
            UsageError: it cannot be made.
        """
        views = volume / _VIEWS
        for old in sorted(views.iterdir()) if views.is_dir() else []:
            cls._remove_abandoned(old)
        return cls(views / f"{os.getpid()}-{time.time_ns():x}")

    def shows(self, snapshot: str) -> None:
        """Records for the writer on this machine that the snapshot is in use; to be called before it is read."""
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
