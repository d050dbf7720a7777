# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount points as the kernel lists them: finds, checks and unmounts them."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from cas3fs.errors import MountError
from cas3fs.fuse.kernel.mount_table import MOUNT_TABLE, read_mount_table

SUBTYPE = "cas3fs"
FILE_SYSTEM_TYPE = f"fuse.{SUBTYPE}"
CONTROL_XATTR = "user.cas3fs.control"
"""The attribute of every mount's root that holds the path of its control socket; listxattr does not list it."""

_UNMOUNT_TIMEOUT_S = 60
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class MountEntry(NamedTuple):
    """A cas3fs mount of this machine, as the kernel lists it."""

    mountpoint: Path
    url: str


def list_mounts(mountinfo: Path = MOUNT_TABLE) -> list[MountEntry]:
    """All cas3fs mounts that this process can see, the newest last."""
    return [
        MountEntry(Path(os.fsdecode(mounted.path)), url_of(os.fsdecode(mounted.source)))
        for mounted in read_mount_table(mountinfo)
        if mounted.type == FILE_SYSTEM_TYPE.encode()
    ]


def source_of(url: str) -> str:
    """The source that the kernel shows for a mount of `url`: the URL in ASCII, as the binding accepts nothing else."""
    return url if url.startswith("file:") else quote(url, safe=_PLAIN)  # a directory's URL is percent-encoded already


def url_of(source: str) -> str:
    """The URL that `source_of` has turned into `source`."""
    return source if source.startswith("file:") else unquote(source)


def resolve(directory: str | os.PathLike[str]) -> Path:
    """The absolute path of `directory`; links are followed except in the last part, which may be a stale mount."""
    path = Path(directory).absolute()
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent)) / path.name


def mount_at(directory: str | os.PathLike[str]) -> MountEntry | None:
    """The cas3fs mount on `directory`, or None; never accesses the mount, so a stale one cannot block it."""
    candidates = {resolve(directory)}
    if not any(mount.mountpoint in candidates for mount in list_mounts()):
        candidates.add(Path(os.path.realpath(directory)))
    return next((mount for mount in reversed(list_mounts()) if mount.mountpoint in candidates), None)


def mount_of_device(device: int) -> MountEntry | None:
    """The cas3fs mount of the file system that stat(2) shows as that device, or None; the first, where parts of it are
    mounted elsewhere, too."""
    for mounted in read_mount_table():
        if mounted.device == device and mounted.type == FILE_SYSTEM_TYPE.encode():
            return MountEntry(Path(os.fsdecode(mounted.path)), url_of(os.fsdecode(mounted.source)))
    return None


def check_mountpoint(directory: str | os.PathLike[str], *, may_hold_files: bool = False) -> Path:
    """Check that a volume can be mounted on `directory`, and return its absolute path.

    Raises:
        MountError: it does not exist, is not a folder, is already a mount point, is a stale mount, or holds files.
    """
    mount = mount_at(directory)
    try:
        names = list(Path(directory).iterdir())
    except OSError as error:
        raise MountError(_why_unusable(directory, error)) from error
    if mount is not None:
        raise MountError(f"{directory} is already a mount point: {mount.url} is mounted there")
    if names and not may_hold_files:
        raise MountError(f"the mount point {directory} is not empty; use -o nonempty to mount over its files")
    return Path(os.path.realpath(directory))


def _why_unusable(directory: str | os.PathLike[str], error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"the mount point {directory} does not exist"
    if error.errno == errno.ENOTDIR:
        return f"the mount point {directory} is not a folder"
    if error.errno == errno.ENOTCONN:
        return f"{directory} is left over from a mount whose process has ended; run `cas3fs umount {directory}`"
    return f"the mount point {directory} cannot be used: {error.strerror}"


def control_path(directory: str | os.PathLike[str]) -> Path | None:
    """The path of the control socket of the mount on `directory`; None if its process has ended.

    Raises:
        MountError: the mount belongs to another user, who alone can access it.
    """
    try:
        return Path(os.fsdecode(os.getxattr(directory, CONTROL_XATTR)))
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            return None
        raise MountError(f"cannot reach the mount on {directory}: {error.strerror}") from error


def unmount(directory: Path) -> None:
    """Remove the mount on `directory`.

    Raises:
        MountError: a program uses the mount, or this user may not unmount it.
    """
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    command = [tool, "-u", "--", str(directory)] if tool and os.geteuid() != 0 else ["umount", "--", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_UNMOUNT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MountError(f"cannot unmount {directory}: {error}") from error
    if done.returncode == 0:
        return
    reason = " ".join(done.stderr.split()) or f"{command[0]} ended with status {done.returncode}"
    if "busy" in reason:
        raise MountError(f"the mount point {directory} is in use{_users_of(directory)}")
    raise MountError(f"cannot unmount {directory}: {reason}")


def _users_of(directory: Path) -> str:
    """The processes that use the mount, as far as this user may see them: `` by tail (pid 7)``."""
    users = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
        except OSError:
            continue
        if any(_points_into(link, directory) for link in links):
            is_own = process.name == str(os.getpid())
            users.append(
                "this command (go to another directory)" if is_own else f"{_name_of(process)} (pid {process.name})"
            )
    return f" by {', '.join(sorted(users)[:5])}" if users else ""


def _points_into(link: Path, directory: Path) -> bool:
    try:
        return link.readlink().is_relative_to(directory)
    except OSError:
        return False


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
