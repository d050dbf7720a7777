# SPDX-License-Identifier: GPL-3.0-or-later
"""What a tree looks like, as values: of two sides that can be compared, and of one side at two times.

A *place* is a path of names, or an open file; several places may be one inode, and then have the same *identity*.
"""

import stat
from collections.abc import Hashable

import attrs

Place = tuple[bytes, ...]


@attrs.frozen
class Facts:
    """All that a program can see of an inode but its number and times; what differs by nature is left out.

    links: None for directories, of which some file systems count no links.
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
class Times:
    """Nanoseconds."""

    atime: int
    mtime: int
    ctime: int


@attrs.frozen
class Look:
    """A tree, as seen at one instant."""

    facts: dict[Place, Facts]
    identity: dict[Place, Hashable]
    times: dict[Hashable, Times]

    @property
    def aliases(self) -> set[frozenset[Place]]:
        """Which places are one inode."""
        together: dict[Hashable, set[Place]] = {}
        for place, identity in self.identity.items():
            together.setdefault(identity, set()).add(place)
        return {frozenset(places) for places in together.values()}

    def times_of(self, place: Place) -> Times:
        return self.times[self.identity[place]]

    def changed_times(self, place: Place, before: Times) -> set[str]:
        now = self.times_of(place)
        changed = {name for name in ("atime", "mtime", "ctime") if getattr(now, name) != getattr(before, name)}
        return changed - {"atime"} if self.facts[place].kind == "symlink" else changed

    def named(self) -> "Look":
        """Without open files."""
        kept = {place for place in self.facts if not is_open_file(place)}
        identity = {place: self.identity[place] for place in self.identity if place in kept}
        there = set(identity.values())
        return Look(
            {place: self.facts[place] for place in self.facts if place in kept},
            identity,
            {one: times for one, times in self.times.items() if one in there},
        )


def open_file(slot: str) -> Place:
    """The place of an open file; no path has an empty name."""
    return b"", slot.encode()


def is_open_file(place: Place) -> bool:
    return place[:1] == (b"",)


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


def differences(reference: Look, ours: Look) -> list[str]:
    """Each difference between two looks but for times, as a line."""
    lines = []
    for place in sorted(reference.facts.keys() | ours.facts.keys()):
        right, found = reference.facts.get(place), ours.facts.get(place)
        if right is None or found is None:
            lines.append(f"{place}: {'is there' if right is None else 'is not there'}")
        elif right != found:
            lines += [
                f"{place}: {field.name} is {getattr(found, field.name)!r}, not {getattr(right, field.name)!r}"
                for field in attrs.fields(Facts)
                if getattr(right, field.name) != getattr(found, field.name)
            ]
    if not lines and reference.aliases != ours.aliases:
        lines.append(f"hard links are {ours.aliases}, not {reference.aliases}")
    return lines


def changes_of_times(before: Look, after: Look, was: dict[Place, Place]) -> dict[Place, set[str]]:
    """Which times an operation changed, of each inode that was there before and is now.

    `was` maps a place of now to one that the same inode had before.  The atime of a symbolic link is left out: to look
    at it changes it.
    """
    return {place: after.changed_times(place, before.times_of(earlier)) for place, earlier in was.items()}


def same_inodes(before: Look, after: Look) -> dict[Place, Place]:
    """For each place of now whose inode was there before: a place that it had then."""
    places = {identity: place for place, identity in before.identity.items()}
    return {place: places[identity] for place, identity in after.identity.items() if identity in places}
