# SPDX-License-Identifier: GPL-3.0-or-later
"""The files below a directory, in the order of their paths: how a directory is listed as an object store is.

Folders are read one at a time, and only those that can hold a path which is asked for. Names that cannot be part of a
key are passed over, with all below them; what vanishes while it is looked at is passed over too; anything else that
goes wrong raises. No symbolic link is followed; where the folder that is asked for is one, that raises, as an empty
listing would pass for complete.
"""

import errno
import os
import stat
from collections.abc import Iterator

from cas3fs.objectstores.base import is_key


def walk(root: int, prefix: str, start_after: str) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below the open directory `root` whose path begins with `prefix` and is greater than `start_after`.

    Raises:
        OSError: a folder cannot be read.
    """
    folder = prefix.rpartition("/")[0]
    _refuse_links(root, folder)
    yield from _walk_folder(root, folder, prefix, start_after)


def _walk_folder(root: int, folder: str, prefix: str, start_after: str) -> Iterator[tuple[str, os.stat_result]]:
    base = f"{folder}/" if folder else ""
    for name, is_folder in _sorted_names(root, folder):
        path = base + name
        if is_folder:
            if _may_hold(f"{path}/", prefix, start_after):
                yield from _walk_folder(root, path, prefix, start_after)
        elif path > start_after and path.startswith(prefix):
            status = _status(root, path)
            if status is not None and stat.S_ISREG(status.st_mode):
                yield path, status


def _sorted_names(root: int, folder: str) -> list[tuple[str, bool]]:
    """Names in a folder and whether they are folders, in the order that the paths below them have."""
    try:
        descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        with os.scandir(descriptor) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if is_key(entry.name)]
    finally:
        os.close(descriptor)
    return sorted(names, key=lambda found: f"{found[0]}/" if found[1] else found[0])


def _refuse_links(root: int, folder: str) -> None:
    """Raise OSError where `folder`, or one on the way to it, is a symbolic link."""
    parts = folder.split("/")
    for path in ("/".join(parts[: depth + 1]) for depth in range(len(parts))):
        status = _status(root, path)
        if status is not None and stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, f"{path} is a symbolic link, which may lead anywhere")


def _may_hold(folder: str, prefix: str, start_after: str) -> bool:
    """Whether a path that is asked for can begin with `folder`, which ends in a slash."""
    return (folder.startswith(prefix) or prefix.startswith(folder)) and (
        folder > start_after or start_after.startswith(folder)
    )


def _status(root: int, path: str) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=root, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
