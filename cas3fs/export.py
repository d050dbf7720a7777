# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying files out of a file system to a local folder: types, contents with their holes, links, extended attributes,
owners, modes and times.

It does only what this process may do: without root's rights owners stay the caller's, and devices are left out. What
could not be copied is reported, file by file, and the rest is copied.

Trees may be deeper than Python's stack: what is left to do is kept in a list. A path longer than the kernel takes is a
problem of its own file.

The index may come from a store that others can write to. So a name that no file can have (``..``, or with a slash) is a
problem, as are values without sense, and a directory that was met before; and no file is made through a link that was
made before, since every name has to be new. Nothing is ever made outside of the destination.
"""

import contextlib
import errno
import os
import reprlib
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import attrs

from cas3fs.errors import Cas3fsError, FileSystemError
from cas3fs.filesystem.filesystem import FileSystem
from cas3fs.filesystem.limits import NAME_MAX
from cas3fs.filesystem.settings import Owner
from cas3fs.filesystem.state.extents import Range
from cas3fs.filesystem.state.inodes import Inode

_WINDOW_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20
_ROOT_ID = 0
_OF_ONE_FILE: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG, errno.EINVAL}
)
"""Errors of the local disk that say nothing of the next file."""

_NOT_IN_NAMES: Final = frozenset(b"/\0")

OnProgress = Callable[[int, int], None]
"""Called with how many files and bytes are copied."""


@attrs.define
class ExportResult:
    """What was copied, and what could not be."""

    files: int = 0
    """Everything that has a name, folders included."""
    size_bytes: int = 0
    """Of contents, without holes."""
    problems: list[str] = attrs.field(factory=list)
    """What could not be copied, a line each."""


class _Step(NamedTuple):
    """An inode to be copied to a name, or, at its `end`, the attributes of a directory whose entries are copied."""

    number: int
    destination: Path
    end: bool = False
    within: bool = False
    """Only what is in the directory."""


class Exporter:
    """Copies out of one file system, which must not change meanwhile. Not thread-safe."""

    def __init__(self, filesystem: FileSystem, on_progress: OnProgress = lambda files, size_bytes: None) -> None:
        self._fs = filesystem
        self._on_progress = on_progress
        self._linked: dict[int, Path] = {}
        self._met: set[int] = set()
        """Directories, each of which has one place."""
        self.result = ExportResult()

    def copy(self, number: int, destination: Path) -> None:
        """Copies an inode, and all below it, to the name `destination`, where nothing may be.

        Raises:
            OSError: the local disk takes no more.
        """
        self._run([_Step(number, destination)])

    def copy_entries(self, number: int, destination: Path) -> None:
        """Copies all that is in a directory into the folder `destination`; raises as `copy`."""
        self._run([_Step(number, destination, within=True)])

    def copy_wanted(self, number: int, destination: Path, wanted: Collection[int], whole: Collection[int] = ()) -> None:
        """Copies those of the inodes `wanted` that lie below a directory, and all of the directories `whole`, with the
        folders that lead to them, which are made when there is something to copy. Raises as `copy`.
        """
        made: list[_Step] = []
        left = [_Step(number, destination)]
        met: set[int] = set()
        while left:
            parent = left.pop()
            if parent.number in met:
                continue
            met.add(parent.number)
            for name, child in self._entries(parent.number):
                step = _Step(child, parent.destination / os.fsdecode(name))
                if child in whole or (child in wanted and not self._fs.getattr(child).is_directory):
                    self._make_folders(step.destination.parent)
                    self.copy(child, step.destination)
                elif self._fs.getattr(child).is_directory:
                    left.append(step)
                    made.append(step)
                    if child in wanted:
                        self._make_folders(step.destination)
        for step in reversed(made):
            if step.destination.is_dir():
                self._copy_attributes(self._fs.getattr(step.number), step.destination)

    @staticmethod
    def _make_folders(path: Path) -> None:
        """Makes a folder and those that lead to it, however deep; pathlib's own way calls itself for each."""
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for one in reversed(missing):
            one.mkdir()

    # -- step by step

    def _run(self, left: list[_Step]) -> None:
        """Takes the steps, the last one first, and those that they lead to."""
        while left:
            step = left.pop()
            try:
                left += self._take(step)
            except Cas3fsError as error:
                self._report(step, error)
            except (ValueError, TypeError, OverflowError) as error:
                self._report(step, f"what the index says of it makes no sense: {error}")
            except OSError as error:
                if error.errno not in _OF_ONE_FILE:
                    raise
                self._report(step, error)

    def _report(self, step: _Step, error: Exception | str) -> None:
        self.result.problems.append(f"{step.destination}: {error}")

    def _take(self, step: _Step) -> list[_Step]:
        """Takes a step.

        Returns:
            the steps that follow from it, the last one to be taken first.
        """
        if step.within:
            return self._steps_into(step.number, step.destination)
        inode = self._fs.getattr(step.number)
        if inode.is_directory and not step.end:
            if step.number in self._met:
                raise FileSystemError(errno.ELOOP, "the directory has another place already")
            self._met.add(step.number)
            step.destination.mkdir(mode=0o700)
            return [step._replace(end=True), *self._steps_into(step.number, step.destination)]
        if inode.is_directory:
            self._copy_attributes(inode, step.destination)
        else:
            self._copy(inode, step.destination)
        self.result.files += 1
        self._on_progress(self.result.files, self.result.size_bytes)
        return []

    def _steps_into(self, number: int, destination: Path) -> list[_Step]:
        entries = self._entries(number)
        return [_Step(child, destination / os.fsdecode(name)) for name, child in reversed(entries)]

    def _copy(self, inode: Inode, destination: Path) -> None:
        """Copies anything but a directory."""
        known = self._linked.get(inode.number)
        if known is not None:
            os.link(known, destination, follow_symlinks=False)
            return
        if stat.S_ISREG(inode.mode):
            self._copy_content(inode, destination)
        elif stat.S_ISLNK(inode.mode):
            destination.symlink_to(os.fsdecode(self._fs.readlink(inode.number)))
        else:
            os.mknod(destination, stat.S_IFMT(inode.mode) | 0o600, inode.rdev)
        if inode.nlink > 1:
            self._linked[inode.number] = destination
        self._copy_attributes(inode, destination)

    def _entries(self, number: int) -> list[tuple[bytes, int]]:
        handle = self._fs.opendir(number)
        try:
            found = [(name, inode.number) for name, inode, _ in self._fs.readdir(handle, 0)]
        finally:
            self._fs.releasedir(handle)
        named = [entry for entry in found if is_name(entry[0])]
        if len(named) < len(found):
            bad = next(name for name, _ in found if not is_name(name))
            left_out = (
                f"{len(found) - len(named)} entries have names that no file can have, such as {reprlib.repr(bad)}"
            )
            self.result.problems.append(f"directory {number}: {left_out}")
        return named

    # -- contents

    def _copy_content(self, inode: Inode, destination: Path) -> None:
        handle = self._fs.open(inode.number, os.O_RDONLY, Owner())
        try:
            with open(destination, "xb", buffering=0) as file:
                try:
                    self._fill(file.fileno(), handle, inode)
                except BaseException:
                    destination.unlink()  # half a file would look like a whole one
                    raise
        finally:
            self._fs.release(handle)

    def _fill(self, descriptor: int, handle: int, inode: Inode) -> None:
        os.ftruncate(descriptor, inode.size)  # first: where the destination refuses the size, nothing is copied in vain
        for start, end in self._pieces(inode):
            data = self._fs.read(handle, start, end - start)
            os.pwrite(descriptor, data, start)
            self.result.size_bytes += len(data)
            self._on_progress(self.result.files, self.result.size_bytes)

    def _pieces(self, inode: Inode) -> Iterator[Range]:
        """The ranges that hold data, in pieces, ascending; the rest are holes, which cost no time however long."""
        window_end = 0
        while (window := self._fs.next_data(inode.number, window_end)) is not None:
            window_end = min(window + _WINDOW_BYTES, inode.size)
            for start, end in self._fs.data_ranges(inode.number, window, window_end):
                for piece in range(start, end, _PIECE_BYTES):
                    yield piece, min(piece + _PIECE_BYTES, end)

    # -- attributes

    def _copy_attributes(self, inode: Inode, destination: Path) -> None:
        """Copies attributes: the owner first, as that clears bits of the mode; times last, as all else changes them."""
        if os.geteuid() == _ROOT_ID:
            os.chown(destination, inode.uid, inode.gid, follow_symlinks=False)
        if not stat.S_ISLNK(inode.mode):
            destination.chmod(stat.S_IMODE(inode.mode) | stat.S_IWUSR)
        for name in self._fs.listxattr(inode.number):
            try:
                value = self._fs.getxattr(inode.number, name)
                os.setxattr(destination, name, value, follow_symlinks=False)
            except (OSError, FileSystemError) as error:
                self.result.problems.append(f"{destination}: attribute {os.fsdecode(name)}: {error}")
        if not stat.S_ISLNK(inode.mode):
            destination.chmod(stat.S_IMODE(inode.mode))
        with contextlib.suppress(PermissionError):
            os.utime(destination, ns=(inode.atime_ns, inode.mtime_ns), follow_symlinks=False)


def is_name(name: object) -> bool:
    """Whether a file can have that name in its directory."""
    if not isinstance(name, bytes) or not 0 < len(name) <= NAME_MAX or name in (b".", b".."):
        return False
    return _NOT_IN_NAMES.isdisjoint(name)
