# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated disk that loses power: what files and folders may contain, given what was written and synced before.

Certain are the bytes and the length of a file as of its last fsync or fdatasync, as far as they were written before
that call; and the names in a folder as of its own last fsync. Later changes may be there or not:

- of the bytes of one file, any selection of the writes, each torn at sectors of 512 or 4096 bytes, and of its
  truncations;
- of the names in one folder, the first so many of the changes, as with a journal; each folder independently.

This is less than ext4, XFS and btrfs guarantee: these keep one order for all folders, and sync the name of a new file
with it.
"""

import random
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path, PurePosixPath

import attrs

from tests.crash.tracing import TracedOperation

PAGE_BYTES = 4096
_ZEROS = bytes(PAGE_BYTES)
Selects = Callable[[], bool]


class PageContent:
    """The content of a file, by pages; missing pages are zeros."""

    def __init__(self, pages: dict[int, bytes] | None = None, size: int = 0) -> None:
        self.pages = {} if pages is None else pages
        self.size = size

    def copy(self) -> "PageContent":
        return PageContent(dict(self.pages), self.size)

    def write(self, offset: int, data: bytes) -> None:
        self.size = max(self.size, offset + len(data))
        while data:
            page, start = divmod(offset, PAGE_BYTES)
            piece = data[: PAGE_BYTES - start]
            old = self.pages.get(page, _ZEROS)
            self.pages[page] = old[:start] + piece + old[start + len(piece) :]
            data, offset = data[len(piece) :], offset + len(piece)

    def truncate(self, size: int) -> None:
        if size < self.size:
            for page in [page for page in self.pages if page * PAGE_BYTES >= size]:
                del self.pages[page]
            page, start = divmod(size, PAGE_BYTES)
            if page in self.pages:
                self.pages[page] = self.pages[page][:start].ljust(PAGE_BYTES, b"\0")
        self.size = size

    def save(self, path: Path) -> None:
        with open(path, "wb") as file:
            for page in sorted(self.pages):
                file.seek(page * PAGE_BYTES)
                file.write(self.pages[page])
            file.truncate(self.size)


@attrs.frozen
class FileChange:
    """A change of a file: bytes at an offset, or a length (`data` is None); `grows`: at least that length."""

    end_s: float
    offset: int
    data: bytes | None = None
    grows: bool = False


class DiskFile:
    """A file, independent of its name."""

    def __init__(self) -> None:
        self.synced = PageContent()
        self.changes: list[FileChange] = []
        self.position = 0
        self.size = 0

    def change(self, change: FileChange) -> None:
        self.changes.append(change)
        if change.data is not None:
            self.size = max(self.size, change.offset + len(change.data))
        else:
            self.size = max(self.size, change.offset) if change.grows else change.offset

    def sync(self, start_s: float) -> None:
        """Make everything certain that was written by then."""
        left = []
        for change in self.changes:
            if change.end_s <= start_s:
                apply(self.synced, change)
            else:
                left.append(change)
        self.changes = left

    def after_loss(self, keeps: Selects, sector_bytes: int) -> PageContent:
        found = self.synced.copy()
        for change in self.changes:
            apply(found, change, keeps, sector_bytes)
        return found


def apply(found: PageContent, change: FileChange, keeps: Selects = lambda: True, sector_bytes: int = 0) -> None:
    """Apply a change, or the parts of it that are kept."""
    if change.data is None:
        if keeps() and not (change.grows and found.size >= change.offset):
            found.truncate(change.offset)
        return
    step = sector_bytes or len(change.data) or 1
    first = -(change.offset % step) if sector_bytes else 0
    for start in range(first, len(change.data), step):
        if keeps():
            begin = max(start, 0)
            found.write(change.offset + begin, change.data[begin : start + step])


class DiskFolder:
    """Names in a folder, now and when it was last synced."""

    def __init__(self) -> None:
        self.now: dict[str, DiskFile | DiskFolder] = {}
        self.synced: dict[str, DiskFile | DiskFolder] = {}
        self.changes: list[tuple[float, dict[str, DiskFile | DiskFolder | None]]] = []
        """Each is atomic."""

    def change(self, end_s: float, names: "dict[str, DiskFile | DiskFolder | None]") -> None:
        self.changes.append((end_s, names))
        _rename(self.now, names)

    def sync(self, start_s: float) -> None:
        while self.changes and self.changes[0][0] <= start_s:
            _rename(self.synced, self.changes.pop(0)[1])

    def after_loss(self, kept: int) -> "dict[str, DiskFile | DiskFolder]":
        found = dict(self.synced)
        for _, names in self.changes[:kept]:
            _rename(found, names)
        return found


def _rename(held: "dict[str, DiskFile | DiskFolder]", names: "dict[str, DiskFile | DiskFolder | None]") -> None:
    for name, node in names.items():
        if node is None:
            held.pop(name, None)
        else:
            held[name] = node


class Unsynced(Enum):
    """Which of the unsynced changes the disk has kept."""

    NOTHING = "nothing"
    ALL = "everything"
    SOME_FILES = "everything for some files and folders, nothing for others"
    SOME_WRITES = "some of the writes, and some of the changes of names"
    SOME_PAGES = "some pages of the writes"
    SOME_SECTORS = "some sectors of the writes"


class SimulatedDisk:
    """The files below one folder, as changed by operations."""

    def __init__(self, top: Path, names: Iterable[str]) -> None:
        """`names`: the folders in it at first."""
        self._top = top
        self._root = DiskFolder()
        self._root.now = {name: DiskFolder() for name in names}
        self._gone: dict[str, DiskFile] = {}

    def do(self, operation: TracedOperation) -> None:
        """Apply an operation."""
        path = operation.path
        match operation.call:
            case "open":
                self._open(operation)
            case "write" | "pwrite":
                file = self._file(operation)
                offset = file.position if operation.offset is None else operation.offset
                file.change(FileChange(operation.end_s, offset, operation.data))
                if operation.offset is None:
                    file.position += len(operation.data)
            case "ftruncate" | "fallocate":
                grows = operation.call == "fallocate"
                self._file(operation).change(FileChange(operation.end_s, operation.offset or 0, grows=grows))
            case "fsync" | "fdatasync":
                node = self._lost(path) if operation.was_gone else self._find(path)
                if node is not None:
                    node.sync(operation.start_s)
            case "rename":
                self._move(operation)
            case "link":
                folder, name = self._parent(operation.target)
                folder.change(operation.end_s, {name: self._file(operation)})
            case "unlink" | "rmdir":
                self._remove(operation)
            case "mkdir":
                folder, name = self._parent(path)
                folder.change(operation.end_s, {name: DiskFolder()})

    def _open(self, operation: TracedOperation) -> None:
        folder, name = self._parent(operation.path)
        file = folder.now.get(name)
        if file is None:
            file = DiskFile()
            folder.change(operation.end_s, {name: file})
        assert isinstance(file, DiskFile)
        if "O_TRUNC" in operation.flags and file.size:
            file.change(FileChange(operation.end_s, 0))
        file.position = file.size if "O_APPEND" in operation.flags else 0

    def _move(self, operation: TracedOperation) -> None:
        folder, name = self._parent(operation.path)
        target, new_name = self._parent(operation.target)
        assert folder is target, f"a move to another folder is not supported: {operation.path} to {operation.target}"
        folder.change(operation.end_s, {name: None, new_name: folder.now[name]})

    def _remove(self, operation: TracedOperation) -> None:
        folder, name = self._parent(operation.path)
        node = folder.now.get(name)
        if isinstance(node, DiskFile):
            self._gone[operation.path] = node
        folder.change(operation.end_s, {name: None})

    def _file(self, operation: TracedOperation) -> DiskFile:
        node = self._lost(operation.path) if operation.was_gone else self._find(operation.path)
        assert isinstance(node, DiskFile), operation.path
        return node

    def _lost(self, path: str) -> DiskFile:
        """The file that had that name, or a file that never has a name."""
        return self._gone.setdefault(path, DiskFile())

    def _find(self, path: str) -> "DiskFile | DiskFolder | None":
        node: DiskFile | DiskFolder | None = self._root
        for name in PurePosixPath(path).relative_to(self._top).parts:
            assert isinstance(node, DiskFolder), path
            node = node.now.get(name)
        return node

    def _parent(self, path: str) -> tuple[DiskFolder, str]:
        pure = PurePosixPath(path)
        folder = self._find(str(pure.parent))
        assert isinstance(folder, DiskFolder), path
        return folder, pure.name

    def lose_power(self, image: Path, unsynced: Unsynced, seed: int) -> None:
        """Write to the new folder `image` what is found after the power loss."""
        _PowerLoss(unsynced, random.Random(seed)).save(self._root, image, is_top=True)


class _PowerLoss:
    def __init__(self, unsynced: Unsynced, chance: random.Random) -> None:
        self._unsynced = unsynced
        self._chance = chance

    def _kept(self, count: int) -> int:
        """How many of `count` changes of names are kept."""
        if self._unsynced in (Unsynced.NOTHING, Unsynced.ALL, Unsynced.SOME_FILES):
            return count * self._keeps()()
        return self._chance.randint(0, count)

    def _keeps(self) -> Selects:
        """Which of the writes to one file are kept."""
        if self._unsynced is Unsynced.SOME_FILES:
            coin = self._chance.random() < 0.5
            return lambda: coin
        share = {Unsynced.NOTHING: 0.0, Unsynced.ALL: 1.1}.get(self._unsynced, self._chance.choice([0.1, 0.5, 0.9]))
        return lambda: self._chance.random() < share

    def save(self, folder: DiskFolder, image: Path, *, is_top: bool = False) -> None:
        image.mkdir()
        sector_bytes = {Unsynced.SOME_PAGES: 4096, Unsynced.SOME_SECTORS: 512}.get(self._unsynced, 0)
        names = folder.now if is_top else folder.after_loss(self._kept(len(folder.changes)))
        for name, node in sorted(names.items()):
            if isinstance(node, DiskFolder):
                self.save(node, image / name)
            else:
                node.after_loss(self._keeps(), sector_bytes).save(image / name)
