# SPDX-License-Identifier: GPL-3.0-or-later
"""The visible state of a tree, as values: of two trees that are compared, and of one tree at two times.

A *location* is a path of names, or an open file. Several locations may be one inode and then have the same *identity*.
"""

import stat
from collections.abc import Hashable

import attrs

Location = tuple[bytes, ...]


@attrs.frozen
class InodeState:
    """Everything that a program can see of an inode except its number and times.

    links: None for directories, whose links some file systems do not count.
    size: None for directories.
    """

    kind: str
    mode: str
    uid: int
    gid: int
    links: int | None
    rdev: int
    size: int | None
    content: bytes
    xattrs: dict[str, bytes]


@attrs.frozen
class InodeTimes:
    """Nanoseconds."""

    atime: int
    mtime: int
    ctime: int


@attrs.frozen
class TreeState:
    """A tree at one instant."""

    inodes: dict[Location, InodeState]
    identity: dict[Location, Hashable]
    times: dict[Hashable, InodeTimes]

    @property
    def hard_links(self) -> set[frozenset[Location]]:
        """The sets of locations that are one inode."""
        together: dict[Hashable, set[Location]] = {}
        for location, identity in self.identity.items():
            together.setdefault(identity, set()).add(location)
        return {frozenset(locations) for locations in together.values()}

    def times_of(self, location: Location) -> InodeTimes:
        return self.times[self.identity[location]]

    def changed_times(self, location: Location, before: InodeTimes) -> set[str]:
        now = self.times_of(location)
        changed = {name for name in ("atime", "mtime", "ctime") if getattr(now, name) != getattr(before, name)}
        return changed - {"atime"} if self.inodes[location].kind == "symlink" else changed

    def without_open_files(self) -> "TreeState":
        """The same without open files."""
        kept = {location for location in self.inodes if not is_open_file(location)}
        identity = {location: self.identity[location] for location in self.identity if location in kept}
        there = set(identity.values())
        return TreeState(
            {location: self.inodes[location] for location in self.inodes if location in kept},
            identity,
            {one: times for one, times in self.times.items() if one in there},
        )


def open_file(slot: str) -> Location:
    """The location of an open file; no path has an empty name."""
    return b"", slot.encode()


def is_open_file(location: Location) -> bool:
    return location[:1] == (b"",)


def kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return kinds[stat.S_IFMT(mode)]


def differences(reference: TreeState, ours: TreeState) -> list[str]:
    """The differences between two trees except for times, one per line."""
    lines = []
    for location in sorted(reference.inodes.keys() | ours.inodes.keys()):
        right, found = reference.inodes.get(location), ours.inodes.get(location)
        if right is None or found is None:
            lines.append(f"{location}: {'unexpected' if right is None else 'missing'}")
        elif right != found:
            lines += [
                f"{location}: {field.name} is {getattr(found, field.name)!r}, not {getattr(right, field.name)!r}"
                for field in attrs.fields(InodeState)
                if getattr(right, field.name) != getattr(found, field.name)
            ]
    if not lines and reference.hard_links != ours.hard_links:
        lines.append(f"hard links are {ours.hard_links}, not {reference.hard_links}")
    return lines


def changes_of_times(before: TreeState, after: TreeState, was: dict[Location, Location]) -> dict[Location, set[str]]:
    """The times that an operation changed, of each inode that existed before and exists now.

    `was` maps a location of now to one of the same inode before. The atime of a symbolic link is left out, since
    reading the link changes it.
    """
    return {location: after.changed_times(location, before.times_of(earlier)) for location, earlier in was.items()}


def same_inodes(before: TreeState, after: TreeState) -> dict[Location, Location]:
    """For each location of now whose inode existed before: a location that it had then."""
    locations = {identity: location for location, identity in before.identity.items()}
    return {location: locations[identity] for location, identity in after.identity.items() if identity in locations}
