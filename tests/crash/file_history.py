# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to a file, and so what it may contain after a crash.

A *mark* is a number of events: "from here on nothing is guaranteed". Between two marks every unit may be as at the
first one, or as any event between them made it. One thread at a time changes a history; an event is recorded before the
operation is started, since a crash may come before its result.

Where operations may fail, an event becomes *uncertain* when its operation has failed: from then on a unit may be as
before, or as the event made it. Where the disk may lose bytes, any unsynced unit may be `LOST`: reading it is an I/O
error.
"""

from collections.abc import Collection, Iterable
from typing import Any

from tests.crash.stamps import HOLE, UNIT_BYTES, NotWritten, versions

ABSENT = None
LOST = -1
"""The version of an unreadable unit."""
Key = str | int
"""``size`` (in units; None while the file does not exist), or the number of a unit (its version)."""


class FileHistory:
    """The history of one file, with its number and its path below the top."""

    def __init__(self, file: int, path: str, *, whole: bool = False) -> None:
        """`whole`: the content is only ever replaced by a rename, so it must be of one version."""
        self.file, self.path, self.whole = file, path, whole
        self.events: list[dict[Key, Any]] = [{"size": ABSENT}]
        self.size: int | None = ABSENT
        self.version = HOLE
        self.synced = 1
        """The mark up to which everything is durable on this machine."""
        self.uncertain: set[int] = set()
        """The events that may not have happened."""
        self.disk_loses = False
        """Whether the local disk may lose unsynced data."""

    @property
    def mark(self) -> int:
        """The mark of this moment."""
        return len(self.events)

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def replaced(self, version: int, units: int) -> None:
        """The file was replaced by one of that version and length."""
        gone = dict.fromkeys(range(units, self.size or 0), ABSENT)
        self.events.append({"size": units, **dict.fromkeys(range(units), version), **gone})
        self.size = units

    def wrote(self, start: int, units: int, version: int) -> None:
        """Some units were written; those between the end and `start` become a hole."""
        size = self.size or 0
        holes = dict.fromkeys(range(size, start), HOLE)
        self.size = max(size, start + units)
        self.events.append({"size": self.size, **holes, **dict.fromkeys(range(start, start + units), version)})

    def punched(self, start: int, units: int) -> None:
        """Some units became a hole; the size stayed."""
        end = min(start + units, self.size or 0)
        self.events.append({"size": self.size, **dict.fromkeys(range(start, end), HOLE)})

    def truncated(self, units: int) -> None:
        size = self.size or 0
        gone = dict.fromkeys(range(units, size), ABSENT)
        self.events.append({"size": units, **gone, **dict.fromkeys(range(size, units), HOLE)})
        self.size = units

    def removed(self) -> None:
        self.events.append({"size": ABSENT, **dict.fromkeys(range(self.size or 0), ABSENT)})
        self.size = ABSENT

    def failed(self, mark: int, size: int | None) -> None:
        """The operation whose events were recorded since `mark` has failed; the file now has `size` units."""
        self.uncertain.update(range(mark, self.mark))
        greatest = max((event["size"] or 0 for event in self.events), default=0)
        self.events.append({"size": size, **dict.fromkeys(range(size or 0, greatest), ABSENT)})
        self.size = size

    def lost(self) -> None:
        """An fsync has failed: data since the last successful one may be lost."""
        self.uncertain.add(self.mark)
        self.events.append({"size": self.size, **dict.fromkeys(self._touched(self.synced, self.mark), LOST)})

    def _touched(self, low: int, high: int) -> set[int]:
        return {key for event in self.events[low:high] for key in event if isinstance(key, int)}

    # -- possible contents

    def possible(self, low: int, high: int) -> dict[Key, set[Any]]:
        """The possible versions of each unit, and sizes, if exactly the events up to the mark `low` are certain."""
        found: dict[Key, set[Any]] = {}
        for number, event in enumerate(self.events[:high]):
            for key, value in event.items():
                if number >= low or number in self.uncertain:
                    found.setdefault(key, {ABSENT}).add(value)
                else:
                    found[key] = {value}
        if self.disk_loses:
            for key in self._touched(low, high):
                found[key].add(LOST)
        return found

    def problems(
        self,
        data: bytes | None,
        low: int,
        high: int,
        unreadable: Collection[int] = frozenset(),
        *,
        errors_are_fine: bool = False,
    ) -> Iterable[str]:
        """What is wrong with the content `data` (None: no such file), whose units in `unreadable` cannot be read."""
        possible = self.possible(low, high)
        size = None if data is None else len(data) // UNIT_BYTES
        if size not in possible["size"] or len(data or b"") % UNIT_BYTES:
            yield f"{self.path}: has {None if data is None else len(data)} bytes; units: {possible['size']}"
            return
        if data is None:
            return
        seen: set[int] = set()
        for unit in range(len(data) // UNIT_BYTES):
            if unit in unreadable:
                if not errors_are_fine and LOST not in possible.get(unit, set()):
                    yield f"{self.path}: unit {unit} of {size} cannot be read, may be {possible.get(unit)}"
                continue
            piece = data[unit * UNIT_BYTES : (unit + 1) * UNIT_BYTES]
            try:
                found = versions(self.file, unit, piece)
            except NotWritten as error:
                yield f"{self.path}: {error}"
                continue
            if wrong := found - possible.get(unit, set()):
                yield f"{self.path}: unit {unit} of {size} is of version {wrong}, may be {possible.get(unit)}"
            seen |= found
        if self.whole and len(seen) > 1:
            yield f"{self.path}: is a mixture of versions {sorted(seen)}"
