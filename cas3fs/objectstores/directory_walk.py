# SPDX-License-Identifier: GPL-3.0-or-later
"""The files below a directory, in the order of their paths: how a directory is listed as an object store is.

Folders are read one at a time, and only those that can hold a path which is asked for. A folder is read once for each
`NAMES_AT_ONCE` names, which is as many as are held in memory. Names that cannot be part of a
key are passed over, with all below them; what vanishes while it is looked at is passed over too; anything else that
goes wrong raises. No symbolic link is followed; where the folder that is asked for is one, that raises, as an empty
listing would pass for complete.
"""

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from cas3fs.objectstores.base import is_key

NAMES_AT_ONCE: Final = 100_000
"""Some 25 MB."""


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

    def matters(name: str, is_folder: bool) -> bool:
        path = base + name
        if is_folder:
            return _may_hold(f"{path}/", prefix, start_after)
        return path > start_after and path.startswith(prefix)

    for name, is_folder in _sorted_names(root, folder, matters):
        path = base + name
        if is_folder:
            yield from _walk_folder(root, path, prefix, start_after)
            continue
        status = _status(root, path)
        if status is not None and stat.S_ISREG(status.st_mode):
            yield path, status


def _sorted_names(root: int, folder: str, matters: Callable[[str, bool], bool]) -> Iterator[tuple[str, bool]]:
    """Those names in a folder that matter, and whether they are folders, in the order that the paths below them have.

    No descriptor is open while they are given out.
    """
    last = ""
    while True:
        names = heapq.nsmallest(
            NAMES_AT_ONCE,
            (one for one in _names(root, folder) if _order(one) > last and matters(*one)),
            key=_order,
        )
        yield from names
        if len(names) < NAMES_AT_ONCE:
            return
        last = _order(names[-1])


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


def _order(found: tuple[str, bool]) -> str:
    return f"{found[0]}/" if found[1] else found[0]


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
