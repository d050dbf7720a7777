# SPDX-License-Identifier: GPL-3.0-or-later
"""Which state directory on this machine belongs to a volume: one for each volume and each location.

A *location* is a URL and the endpoint through which it is reached. A copy of a bucket is another location, so it has a
folder of its own, although it has the uuid of the original. The folder is named by the uuid; it belongs to the first
location that writes there, and further locations of that uuid have ``<uuid>-<hash of the location>``. ``place.json`` in
it records the location::

    {"url": "s3://bucket/prefix", "endpoint": "https://minio.example:9000", "path": "/home/...", "lock": [65024, 1234]}

A folder of an earlier version lacks that file: it belongs to the URL that was mounted from it last, or else to the
first location that uses it. The path, and device and inode of its lock, distinguish a copy of a folder from the folder
itself: a copy is refused while a process uses the original.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import MountRecord
from cas3fs.durable import replace_file
from cas3fs.errors import StateInUse, UsageError
from cas3fs.objectstores import parse_url
from cas3fs.volume.state_directory import StateDirectory

LOCATION_NAME: Final = "place.json"
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_HASH_DIGITS: Final = 16
_ATTEMPTS: Final = 3


def normal_url(url: str) -> str:
    """Returns the normal form of a volume's URL, by which volumes are compared.

    Raises:
        UsageError: it names no store.
    """
    return str(parse_url(url))


class VolumeLocation(NamedTuple):
    """Where a volume is kept."""

    url: str
    """That of a directory has its real path."""
    endpoint: str = ""
    """Empty for a directory, and for Amazon's own: names of buckets are the same everywhere there."""

    @property
    def digest(self) -> str:
        """Hex digits that distinguish it from other locations."""
        return hashlib.sha256("\n".join(self).encode()).hexdigest()[:_HASH_DIGITS]


def location_of(settings: StoreSettings, environment: Mapping[str, str] = os.environ) -> VolumeLocation:
    """Returns the location that settings name; raises UsageError if the URL names no store."""
    where = parse_url(settings.url)
    if where.scheme == "file":
        return VolumeLocation(Path(where.place).resolve().as_uri())
    return VolumeLocation(str(where), _endpoint_of(settings, environment))


def _endpoint_of(settings: StoreSettings, environment: Mapping[str, str]) -> str:
    """Returns the normal form of the endpoint."""
    if not settings.url.startswith("s3://"):
        return ""
    named = [settings.endpoint_url, *(environment.get(name) for name in _ENDPOINT_VARIABLES)]
    url = next((one for one in named if one), "")
    with contextlib.suppress(ValueError):
        if (urlsplit(url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return ""
    return url.rstrip("/").lower()


def find_state_directory(folders: LocalFolders, volume_uuid: str, settings: StoreSettings) -> Path:
    """Returns the folder of the volume with that uuid at the location that settings name; it may not exist yet."""
    place, plain = location_of(settings), folders.state_of(volume_uuid)
    if _may_have(plain, place):
        return plain
    return plain.with_name(f"{volume_uuid}-{place.digest}")


def lock_state_directory(folders: LocalFolders, volume_uuid: str, settings: StoreSettings) -> StateDirectory:
    """Locks that folder, and creates it if it is missing.

    Raises:
        StateInUse: another process works with it, or with what it was copied from.
        UsageError: it cannot be made or written.
    """
    place = location_of(settings)
    for _ in range(_ATTEMPTS):
        state = StateDirectory(find_state_directory(folders, volume_uuid, settings))
        try:
            if _may_have(state.path, place):  # else another location was faster
                _refuse_copy(state)
                _write(state, place)
                return state
        except BaseException:
            state.close()
            raise
        state.close()
    raise StateInUse(f"{folders.state_of(volume_uuid)} is being claimed by another process: try again")


def read_location(folder: Path) -> VolumeLocation | None:
    """Returns the location that a state directory belongs to; None if it records none."""
    try:
        record = _record(folder)
        return VolumeLocation(str(record["url"]), str(record["endpoint"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def belongs_to_endpoint(folder: Path, settings: StoreSettings) -> bool:
    """Whether a state directory belongs to the endpoint that settings name; unknown counts as yes."""
    known, wanted = read_location(folder), _endpoint_of(settings, os.environ)
    return known is None or not wanted or known.endpoint == wanted


def _record(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / LOCATION_NAME).read_text())
    if not isinstance(record, dict):
        raise TypeError("not the record of a location")
    return record


def _may_have(folder: Path, place: VolumeLocation) -> bool:
    """Whether the folder belongs to that location, or to none yet."""
    known = read_location(folder)
    if known is not None:
        return known == place
    mounted = MountRecord.load(folder)
    if mounted is None:
        return True
    try:
        return location_of(StoreSettings(mounted.url)).url == place.url
    except UsageError:
        return True


def _refuse_copy(state: StateDirectory) -> None:
    """Raises StateInUse if the folder was copied from one that a process uses."""
    try:
        record = _record(state.path)
        original, lock = Path(record["path"]), record["lock"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if original == state.path or _lock_of(original) != lock or not _is_locked(original / "lock"):
        return
    if _lock_of(state.path) != lock:  # one folder with two names was refused already
        raise StateInUse(f"{state.path} is a copy of {original}, which a process is using: end that process first")


def _lock_of(folder: Path) -> list[int] | None:
    try:
        status = (folder / "lock").stat()
    except OSError:
        return None
    return [status.st_dev, status.st_ino]


def _is_locked(lock: Path) -> bool:
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _write(state: StateDirectory, place: VolumeLocation) -> None:
    """Records in the folder where it belongs; the record is durable on return."""
    record = {**place._asdict(), "path": str(state.path), "lock": _lock_of(state.path)}
    with contextlib.suppress(OSError, ValueError):
        if json.loads((state.path / LOCATION_NAME).read_text()) == record:
            return
    try:
        replace_file(state.path / LOCATION_NAME, json.dumps(record))
    except OSError as error:
        raise UsageError(f"the state directory {state.path} cannot be used: {error.strerror}") from error
