# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking into snapshots: listing a folder, searching names, the versions of a file, what differs between two.

Only indexes are read, no data of files; so all of this works beside any writer and on any machine. Results are in the
form of JSON, and are yielded as they are found; sizes are in bytes, times in UTC.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Message, Progress
from cas3fs.errors import SnapshotError, SnapshotMissing
from cas3fs.index.namespace import InodeRow
from cas3fs.index.tree_difference import TreeChange, TreeState, tree_changes
from cas3fs.index.trees import FileContent, SnapshotTree
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.selection import find_snapshot
from cas3fs.volume.snapshot_indexes import SnapshotIndexes, open_snapshot_indexes

_TYPES: Final[Mapping[int, str]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@attrs.frozen
class Looking:
    """What all functions here need.

    Attributes:
        settings: the store.
        folders: of this machine.
        progress: is told how far the reading of an index is.
        on_damaged: called with the id of a snapshot that cannot be read, and why; such a one is left out of a search
            over all.
    """

    settings: StoreSettings
    folders: LocalFolders
    progress: Progress = lambda _: None
    on_damaged: Callable[[str, SnapshotError], None] = lambda _snapshot, _error: None


def path_names(path: str) -> list[bytes]:
    """The names in a path within a volume."""
    return [os.fsencode(name) for name in path.split("/") if name not in ("", ".")]


def list_folder(looking: Looking, selector: str, path: str) -> Iterator[Message]:
    """The entries of a folder in a snapshot, by name; or the one file at that path.

    Raises:
        SnapshotMissing, SnapshotDamaged, SnapshotError, UsageError: as `find_snapshot`, or it cannot be read.
        SnapshotError: it has nothing at that path.
        StoreError, IndexDatabaseError: store or index cannot be read.
    """
    names = path_names(path)
    with open_snapshot_indexes(looking.settings, looking.folders, looking.progress) as indexes:
        snapshot = find_snapshot(indexes.archive, selector)
        with indexes.open(snapshot) as index, SnapshotTree(index) as tree:
            found = tree.find(names)
            if found is None:
                raise SnapshotError(f"snapshot {snapshot} has no {path}")
            if not stat.S_ISDIR(found.mode):
                yield _entry(tree, names[-1], found)
                return
            for name, row in sorted(tree.entries(found.number)):
                yield _entry(tree, name, row)


def _entry(tree: SnapshotTree, name: bytes, row: InodeRow) -> Message:
    target = tree.target(row.number) if stat.S_ISLNK(row.mode) else None
    return {
        "name": os.fsdecode(name),
        "type": _type_of(row.mode),
        "mode": stat.S_IMODE(row.mode),
        "links": row.nlink,
        "uid": row.uid,
        "gid": row.gid,
        "size": row.size,
        "mtime": _time(row.mtime_ns),
        "inode": row.number,
        "target": None if target is None else os.fsdecode(target),
    }


def _type_of(mode: int) -> str:
    return _TYPES.get(stat.S_IFMT(mode), "unknown")


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).isoformat()


# -- over many snapshots


def _each(looking: Looking, indexes: SnapshotIndexes) -> Iterator[tuple[SnapshotInfo, Path]]:
    """The index of each snapshot, the newest first: that is the most like the one on this machine, and each is like
    the one before. Those that cannot be read are left out."""
    infos = indexes.archive.list(looking.on_damaged)
    diverged = indexes.archive.diverged([one.id for one in infos])
    with ExitStack() as before:
        for info in reversed([one for one in infos if one.id not in diverged]):
            with ExitStack() as opening:
                try:
                    path = opening.enter_context(indexes.open(info.id))
                except SnapshotMissing:
                    continue  # it was deleted meanwhile
                except SnapshotError as error:
                    looking.on_damaged(info.id, error)
                    continue
                before.close()
                before.push(opening.pop_all())
            yield info, path


def find(looking: Looking, pattern: str, selector: str | None = None, below: str = "") -> list[Message]:
    """Every path that matches a pattern as of a shell, by path, with the snapshots that have it, oldest first.

    A pattern with a slash is matched with the whole path, another with the last name. Size and time are those in the
    newest of the snapshots.

    Args:
        looking: the volume.
        pattern: the pattern; ``*`` matches slashes too.
        selector: only this snapshot; None: all.
        below: only what is below this path.

    Raises:
        As `list_folder`.
    """
    search = _Search(pattern, path_names(below))
    with open_snapshot_indexes(looking.settings, looking.folders, looking.progress) as indexes:
        if selector is None:
            for info, index in _each(looking, indexes):
                search.add(index, info)
        else:
            info = indexes.archive.load(find_snapshot(indexes.archive, selector))
            with indexes.open(info.id) as index:
                search.add(index, info)
    return [search.found[path] for path in sorted(search.found)]


class _Search:
    """A search by a pattern, with its matches in the snapshots so far."""

    def __init__(self, pattern: str, below: Sequence[bytes]) -> None:
        self._pattern = re.compile(fnmatch.translate(pattern.lstrip("/")))
        self._is_of_paths = "/" in pattern
        self._above = b"".join(name + b"/" for name in below)
        self.found: dict[bytes, Message] = {}

    def _matches(self, text: bytes) -> bool:
        return self._pattern.match(os.fsdecode(text)) is not None

    def _matches_name(self, name: bytes) -> bool:
        return self._is_of_paths or self._matches(name)

    def _matches_path(self, path: bytes) -> bool:
        return path.startswith(self._above) and (not self._is_of_paths or self._matches(path))

    def add(self, index: Path, info: SnapshotInfo) -> None:
        """Search the index of that snapshot."""
        with SnapshotTree(index) as tree:
            for path, row in tree.search(self._matches_name, self._matches_path):
                known = self.found.get(path)
                if known is None:
                    entry = {"type": _type_of(row.mode), "size": row.size, "mtime": _time(row.mtime_ns)}
                    known = self.found[path] = {"path": os.fsdecode(path), **entry, "snapshots": []}
                known["snapshots"].insert(0, {"id": info.id, "time": info.time.isoformat()})


def history(looking: Looking, path: str) -> Iterator[Message]:
    """The versions of the file at a path, the newest first: each as long as consecutive snapshots have it.

    Raises:
        SnapshotError: no snapshot has anything there.
        StoreError, IndexDatabaseError: store or index cannot be read.
    """
    names = path_names(path)
    current: Message | None = None
    content: FileContent | None = None
    is_known = False
    with open_snapshot_indexes(looking.settings, looking.folders, looking.progress) as indexes:
        newest = indexes.archive.newest_id()
        for info, index in _each(looking, indexes):
            with SnapshotTree(index) as tree:
                row = tree.find(names)
                here = None if row is None else tree.content(row)
            seen = {"id": info.id, "time": info.time.isoformat()}
            if current is not None and here == content:
                current["first"] = seen
                continue
            if current is not None:
                yield current
            content, current = here, None
            if row is not None:
                is_known = True
                current = _version(row) | {"first": seen, "last": seen, "in_newest": info.id == newest}
        if current is not None:
            yield current
    if not is_known:
        raise _no_such_path(path)


def newest_with(looking: Looking, path: str) -> str:
    """The id of the newest snapshot that has something at a path.

    Raises:
        As `history`.
    """
    names = path_names(path)
    with open_snapshot_indexes(looking.settings, looking.folders, looking.progress) as indexes:
        for info, index in _each(looking, indexes):
            with SnapshotTree(index) as tree:
                if tree.find(names) is not None:
                    return info.id
    raise _no_such_path(path)


def _no_such_path(path: str) -> SnapshotError:
    return SnapshotError(f"no snapshot has {path}; `cas3fs snapshot find` looks for names")


def _version(row: InodeRow) -> Message:
    return {"type": _type_of(row.mode), "size": row.size, "mtime": _time(row.mtime_ns), "inode": row.number}


# -- differences


def diff(looking: Looking, old: str, new: str, path: str = "") -> Iterator[Message]:
    """The differences between two snapshots, by path (`cas3fs.index.tree_difference`).

    Raises:
        As `list_folder`, but that nothing is at the path is no error.
    """
    below = b"/".join(path_names(path))
    with open_snapshot_indexes(looking.settings, looking.folders, looking.progress) as indexes:
        ids = [find_snapshot(indexes.archive, one) for one in (new, old)]
        if ids[0] == ids[1]:
            indexes.archive.load(ids[0])
            return
        with indexes.open(ids[0]) as newer, indexes.open(ids[1]) as older:
            for change in tree_changes(older, newer, below):
                yield _described(change)


def _described(change: TreeChange) -> Message:
    old_path = change.old_path
    return {
        "change": change.kind,
        "path": os.fsdecode(change.path),
        "old_path": None if old_path is None else os.fsdecode(old_path),
        "old": _state(change.old),
        "new": _state(change.new),
        "content": change.content,
        "attributes": change.attributes,
    }


def _state(state: TreeState | None) -> dict[str, Any] | None:
    if state is None:
        return None
    return {
        "type": _type_of(state.mode),
        "mode": stat.S_IMODE(state.mode),
        "uid": state.uid,
        "gid": state.gid,
        "size": 0 if state.is_directory else state.size,
        "mtime": _time(state.mtime_ns),
        "inode": state.inode,
    }
