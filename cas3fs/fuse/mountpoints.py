# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount points as the kernel lists them: finding, checking and releasing them.

Reads ``/proc/self/mountinfo``, whose lines are: id, parent, device, root, mount point, options, optional fields, a
lone dash, type, source, super options; space, tab, newline and backslash in names are written as three octal digits
behind a backslash.
"""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from cas3fs.errors import MountError

SUBTYPE = "cas3fs"
FILE_SYSTEM_TYPE = f"fuse.{SUBTYPE}"
CONTROL_XATTR = "user.cas3fs.control"
"""An attribute of every cas3fs mount's root that tells where its control socket is; it is listed nowhere."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_UNMOUNT_TIMEOUT_S = 60
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class Mount(NamedTuple):
    """One cas3fs mount of this machine."""

    mountpoint: Path
    url: str


def list_mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """All cas3fs mounts that this process can see, the latest last."""
    found = []
    for line in mountinfo.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        kind, source = after.split(b" ")[:2]
        if kind == FILE_SYSTEM_TYPE.encode():
            found.append(Mount(Path(_plain(before.split(b" ")[4])), url_of(_plain(source))))
    return found


def source_of(url: str) -> str:
    """What the kernel is given as the source of a mount: the URL, in ASCII, which is all that the binding hands on."""
    return url if url.startswith("file:") else quote(url, safe=_PLAIN)  # a directory's URL is percent-encoded already


def url_of(source: str) -> str:
    """The URL of which `source_of` made `source`."""
    return source if source.startswith("file:") else unquote(source)


def _plain(escaped: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match.group(1), 8)]), escaped))


def resolve(directory: str | os.PathLike[str]) -> Path:
    """`directory` as the kernel names it: absolute, links followed except in what may be a dead mount."""
    path = Path(directory).absolute()
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent)) / path.name


def mount_at(directory: str | os.PathLike[str]) -> Mount | None:
    """The cas3fs mount on `directory`, or None; never touches the mount itself, so a dead one cannot hang it."""
    candidates = {resolve(directory)}
    if not any(mount.mountpoint in candidates for mount in list_mounts()):
        candidates.add(Path(os.path.realpath(directory)))
    return next((mount for mount in reversed(list_mounts()) if mount.mountpoint in candidates), None)


def check_mountpoint(directory: str | os.PathLike[str], *, may_hold_files: bool = False) -> Path:
    """The absolute path of a folder that a volume can be mounted on.

    Raises:
        MountError: it does not exist, is no folder, is mounted already, left by a process that died, or holds files.
    """
    mount = mount_at(directory)
    try:
        names = list(Path(directory).iterdir())
    except OSError as error:
        raise MountError(_why_unusable(directory, error)) from error
    if mount is not None:
        raise MountError(f"{directory} is a mount point already: {mount.url} is mounted there")
    if names and not may_hold_files:
        raise MountError(f"the mount point {directory} is not empty; -o nonempty mounts over what is there")
    return Path(os.path.realpath(directory))


def _why_unusable(directory: str | os.PathLike[str], error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"the mount point {directory} does not exist"
    if error.errno == errno.ENOTDIR:
        return f"the mount point {directory} is not a folder"
    if error.errno == errno.ENOTCONN:
        return f"{directory} is left from a mount whose process ended; `cas3fs umount {directory}` cleans it up"
    return f"the mount point {directory} cannot be used: {error.strerror}"


def control_path(directory: str | os.PathLike[str]) -> Path | None:
    """Where the control socket of the mount on `directory` is; None when its process is gone.

    Raises:
        MountError: the mount belongs to another user and cannot be looked into.
    """
    try:
        return Path(os.fsdecode(os.getxattr(directory, CONTROL_XATTR)))
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            return None
        raise MountError(f"the mount on {directory} cannot be asked: {error.strerror}") from error


def unmount(directory: Path) -> None:
    """Takes `directory` out of the kernel's mounts.

    Raises:
        MountError: some program uses the mount, or the right to unmount is lacking.
    """
    tool = shutil.which("fusermount") or shutil.which("fusermount3")
    command = [tool, "-u", "--", str(directory)] if tool and os.geteuid() != 0 else ["umount", "--", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_UNMOUNT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MountError(f"{directory} cannot be unmounted: {error}") from error
    if done.returncode == 0:
        return
    reason = " ".join(done.stderr.split()) or f"{command[0]} ended with status {done.returncode}"
    if "busy" in reason:
        raise MountError(f"the mount point {directory} is in use{_users_of(directory)}")
    raise MountError(f"{directory} cannot be unmounted: {reason}")


def _users_of(directory: Path) -> str:
    """Who stands in the mount or has files of it open, as far as this user may see: `` by tail (pid 7)``."""
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
