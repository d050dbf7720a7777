# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to a file, and what may therefore be found of it after a crash.

A *mark* is a number of events: "from here on nothing is promised". Between two marks every unit may be as it was at the
first, or as any event between them made it. One thread at a time changes a history; an event is noted before the
operation is asked for, since a crash may come before the answer.
"""

from collections.abc import Iterable
from typing import Any

from tests.crash.stamps import HOLE, UNIT_BYTES, NotWritten, versions

ABSENT = None
Key = str | int
"""``size`` (units, None while there is no file) or the number of a unit (its version)."""


class History:
    """One file, by its number and its path below the top."""

    def __init__(self, file: int, path: str, *, whole: bool = False) -> None:
        """`whole`: its content is only ever replaced, by renaming, so it is found whole."""
        self.file, self.path, self.whole = file, path, whole
        self.events: list[dict[Key, Any]] = [{"size": ABSENT}]
        self.size: int | None = ABSENT
        self.version = HOLE
        self.synced = 1
        """The mark up to which everything is durable on the machine."""

    @property
    def mark(self) -> int:
        """Everything up to now."""
        return len(self.events)

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def replaced(self, version: int, units: int) -> None:
        """The file becomes one of that version and length."""
        gone = dict.fromkeys(range(units, self.size or 0), ABSENT)
        self.events.append({"size": units, **dict.fromkeys(range(units), version), **gone})
        self.size = units

    def wrote(self, start: int, units: int, version: int) -> None:
        """Some units are written; those between the end and `start` become a hole."""
        size = self.size or 0
        holes = dict.fromkeys(range(size, start), HOLE)
        self.size = max(size, start + units)
        self.events.append({"size": self.size, **holes, **dict.fromkeys(range(start, start + units), version)})

    def truncated(self, units: int) -> None:
        size = self.size or 0
        gone = dict.fromkeys(range(units, size), ABSENT)
        self.events.append({"size": units, **gone, **dict.fromkeys(range(size, units), HOLE)})
        self.size = units

    def removed(self) -> None:
        self.events.append({"size": ABSENT, **dict.fromkeys(range(self.size or 0), ABSENT)})
        self.size = ABSENT

    # -- what may be found

    def possible(self, low: int, high: int) -> dict[Key, set[Any]]:
        """What each unit, and the size, may be if everything up to the mark `low` is certain, and nothing after."""
        now: dict[Key, Any] = {}
        for event in self.events[:low]:
            now.update(event)
        found: dict[Key, set[Any]] = {key: {value} for key, value in now.items()}
        for event in self.events[low:high]:
            for key, value in event.items():
                found.setdefault(key, {ABSENT}).add(value)
        return found

    def problems(self, data: bytes | None, low: int, high: int) -> Iterable[str]:
        """What is wrong with the content `data` (None: no such file)."""
        possible = self.possible(low, high)
        size = None if data is None else len(data) // UNIT_BYTES
        if size not in possible["size"] or len(data or b"") % UNIT_BYTES:
            yield f"{self.path}: has {None if data is None else len(data)} bytes; units: {possible['size']}"
            return
        if data is None:
            return
        seen: set[int] = set()
        for unit in range(len(data) // UNIT_BYTES):
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
            yield f"{self.path}: is mixed of versions {sorted(seen)}"
