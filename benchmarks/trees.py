# SPDX-License-Identifier: GPL-3.0-or-later
"""A real tree of files: chosen from this machine, copied with all attributes, and compared.

Attributes of a file here: type, mode, owner (if root copies), modification time in nanoseconds, the target of a
symbolic link, which names are hard links of one file, and every byte.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 1 << 20
SKIPPED = {"__pycache__"}
"""Folders that other programs may write to while a tree is in use."""


@dataclass(frozen=True)
class TreeItem:
    """A file, folder or symbolic link: its source, its path within the tree, and its lstat result."""

    source: str
    path: str
    status: os.stat_result

    @property
    def data_bytes(self) -> int:
        """The length of its content; 0 if it is no regular file."""
        return self.status.st_size if stat.S_ISREG(self.status.st_mode) else 0


Advance = Callable[[TreeItem], None]


def choose(roots: Iterable[Path], max_files: int, max_bytes: int, max_file_bytes: int | None = None) -> list[TreeItem]:
    """Items below `roots`, folders before their contents, up to `max_files` files or `max_bytes` bytes.

    Files over `max_file_bytes` are left out.
    """
    largest_bytes = max_bytes if max_file_bytes is None else max_file_bytes
    chosen: dict[str, TreeItem] = {}
    files = size_bytes = 0
    for item in _walk(roots):
        if files >= max_files:
            break
        if size_bytes + item.data_bytes > max_bytes or item.data_bytes > largest_bytes:
            continue
        if os.path.dirname(item.path) not in chosen:
            for parent in _parents(item.source):
                chosen.setdefault(parent.path, parent)
        if item.path not in chosen:
            chosen[item.path] = item
            files += not stat.S_ISDIR(item.status.st_mode)
            size_bytes += item.data_bytes
    return list(chosen.values())


def _walk(roots: Iterable[Path]) -> Iterator[TreeItem]:
    for root in roots:
        if not root.is_dir() or root.is_symlink():
            continue
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if name not in SKIPPED)
            for name in [*sorted(files), *folders]:
                item = _item(os.path.join(folder, name))
                if item is not None:
                    yield item


def _item(source: str) -> TreeItem | None:
    """The item at `source`; None if it is unreadable, or neither file, folder nor link."""
    try:
        status = os.lstat(source)
    except OSError:
        return None
    kept = stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode) or stat.S_ISREG(status.st_mode)
    readable = stat.S_ISLNK(status.st_mode) or os.access(source, os.R_OK)
    return TreeItem(source, source.lstrip("/"), status) if kept and readable else None


def _parents(source: str) -> Iterator[TreeItem]:
    parents = [str(parent) for parent in reversed(Path(source).parents)][1:]
    yield from (TreeItem(parent, parent.lstrip("/"), os.lstat(parent)) for parent in parents)


def copy(items: list[TreeItem], target: Path, advance: Advance) -> None:
    """Copy `items` into the new folder `target`."""
    target.mkdir()
    first_names: dict[tuple[int, int], str] = {}
    for item in items:
        _copy_one(item, os.path.join(target, item.path), first_names)
        advance(item)
    for item in reversed(items):  # adding to a folder changes its time
        if stat.S_ISDIR(item.status.st_mode):
            _copy_attributes(item, os.path.join(target, item.path))


def _copy_one(item: TreeItem, path: str, first_names: dict[tuple[int, int], str]) -> None:
    if stat.S_ISDIR(item.status.st_mode):
        os.mkdir(path)
        return
    first = first_names.setdefault((item.status.st_dev, item.status.st_ino), path)
    if first != path:
        os.link(first, path, follow_symlinks=False)
        return
    if stat.S_ISLNK(item.status.st_mode):
        os.symlink(os.readlink(item.source), path)
    else:
        _copy_data(item.source, path)
    _copy_attributes(item, path)


def _copy_data(source: str, path: str) -> None:
    with open(source, "rb", buffering=0) as reading, open(path, "xb", buffering=0) as writing:
        while piece := reading.read(PIECE_BYTES):
            writing.write(piece)


def _copy_attributes(item: TreeItem, path: str) -> None:
    status = item.status
    if os.geteuid() == 0:
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))  # after chown, which clears set-id bits
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def compare(items: list[TreeItem], target: Path, advance: Advance) -> list[str]:
    """The differences between `items` and their copies in `target`, one per line."""
    differences = []
    first_inodes: dict[tuple[int, int], int] = {}
    for item in items:
        path = os.path.join(target, item.path)
        try:
            differences += [f"{path}: {what}" for what in _differences(item, path, first_inodes)]
        except OSError as error:
            differences.append(f"{path}: {error.strerror}")
        advance(item)
    return differences


def _differences(item: TreeItem, path: str, first_inodes: dict[tuple[int, int], int]) -> Iterator[str]:
    wanted, found = item.status, os.lstat(path)
    if wanted.st_mode != found.st_mode:
        yield f"mode {found.st_mode:o} instead of {wanted.st_mode:o}"
        return
    if wanted.st_mtime_ns != found.st_mtime_ns:
        yield f"modified at {found.st_mtime_ns} instead of {wanted.st_mtime_ns}"
    if os.geteuid() == 0 and (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        yield f"owner {found.st_uid}:{found.st_gid} instead of {wanted.st_uid}:{wanted.st_gid}"
    if stat.S_ISDIR(wanted.st_mode):
        return
    if first_inodes.setdefault((wanted.st_dev, wanted.st_ino), found.st_ino) != found.st_ino:
        yield "not a hard link of its first name"
    if stat.S_ISLNK(wanted.st_mode):
        if os.readlink(item.source) != os.readlink(path):
            yield f"a link to {os.readlink(path)}"
    elif wanted.st_size != found.st_size:
        yield f"{found.st_size} bytes instead of {wanted.st_size}"
    elif not _same_data(item.source, path):
        yield "different content"


def _same_data(one: str, other: str) -> bool:
    with open(one, "rb", buffering=0) as left, open(other, "rb", buffering=0) as right:
        while True:
            wanted, found = _read_piece(left.fileno()), _read_piece(right.fileno())
            if wanted != found:
                return False
            if not wanted:
                return True


def _read_piece(descriptor: int) -> bytes:
    """The next `PIECE_BYTES`, fewer only at the end of the file."""
    pieces = []
    left = PIECE_BYTES
    while left and (piece := os.read(descriptor, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
