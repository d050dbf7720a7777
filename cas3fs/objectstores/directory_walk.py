# SPDX-License-Identifier: GPL-3.0-or-later
"""The files below a directory, in the order of their paths: this is how a directory is listed as an object store.

Folders are read one at a time, and only those that can contain a wanted path. A folder is read once for each
`NAMES_AT_ONCE` names, which is how many are held in memory. Names that cannot be part of a key are skipped, with
everything below them, and so are files that vanish meanwhile; any other failure raises. No symbolic link is followed:
where the wanted folder is one, that raises, as an empty listing would seem complete.
"""

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from cas3fs.objectstores.base import is_key

NAMES_AT_ONCE: Final = 100_000
"""About 25 MB of memory."""


def walk(root: int, prefix: str, start_after: str) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below the open directory `root` whose path begins with `prefix` and is greater than `start_after`.

    Raises:
        OSError: a folder cannot be read.
    """
    folder = prefix.rpartition("/")[0]
    _reject_symlinks(root, folder)
    yield from _walk_folder(root, folder, prefix, start_after)


def _walk_folder(root: int, folder: str, prefix: str, start_after: str) -> Iterator[tuple[str, os.stat_result]]:
    base = f"{folder}/" if folder else ""

    def is_wanted(name: str, is_folder: bool) -> bool:
        path = base + name
        if is_folder:
            return _may_contain_wanted(f"{path}/", prefix, start_after)
        return path > start_after and path.startswith(prefix)

    for name, is_folder in _sorted_names(root, folder, is_wanted):
        path = base + name
        if is_folder:
            yield from _walk_folder(root, path, prefix, start_after)
            continue
        status = _lstat(root, path)
        if status is not None and stat.S_ISREG(status.st_mode):
            yield path, status


def _sorted_names(root: int, folder: str, is_wanted: Callable[[str, bool], bool]) -> Iterator[tuple[str, bool]]:
    """The wanted names in a folder, each with whether it is a folder, in the order of the paths below them.

    No descriptor is open while the caller uses them.
    """
    last = ""
    while True:
        names = heapq.nsmallest(
            NAMES_AT_ONCE,
            (one for one in _names(root, folder) if _sort_key(one) > last and is_wanted(*one)),
            key=_sort_key,
        )
        yield from names
        if len(names) < NAMES_AT_ONCE:
            return
        last = _sort_key(names[-1])


def _names(root: int, folder: str) -> Iterator[tuple[str, bool]]:
    try:
        descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with os.scandir(descriptor) as entries:
            yield from ((one.name, one.is_dir(follow_symlinks=False)) for one in entries if is_key(one.name))
    finally:
        os.close(descriptor)


def _sort_key(found: tuple[str, bool]) -> str:
    return f"{found[0]}/" if found[1] else found[0]


def _reject_symlinks(root: int, folder: str) -> None:
    """Raise OSError where any part of the path `folder` is a symbolic link."""
    parts = folder.split("/")
    for path in ("/".join(parts[: depth + 1]) for depth in range(len(parts))):
        status = _lstat(root, path)
        if status is not None and stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, f"{path} is a symbolic link, which is not followed")


def _may_contain_wanted(folder: str, prefix: str, start_after: str) -> bool:
    """Whether a wanted path can begin with `folder`, which ends in a slash."""
    return (folder.startswith(prefix) or prefix.startswith(folder)) and (
        folder > start_after or start_after.startswith(folder)
    )


def _lstat(root: int, path: str) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=root, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
