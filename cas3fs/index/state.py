# SPDX-License-Identifier: GPL-3.0-or-later
"""What the index remembers of itself: a few texts by name, such as the volume's uuid and the snapshot counters."""

from cas3fs.index.database import Database
from cas3fs.index.texts import state as texts


class VolumeState:
    """Texts by name; they belong to the group as any other change does."""

    def __init__(self, database: Database) -> None:
        self._get = texts.GET.on(database)
        self._set = texts.SET.on(database)
        self._remove = texts.REMOVE.on(database)

    def get(self, key: str) -> str | None:
        """The text kept under `key`, or None."""
        row = self._get.one(key)
        return None if row is None else str(row[0])

    def set(self, key: str, value: str) -> None:
        """Keeps `value` under `key`, in place of what was there."""
        self._set.run(key, value)

    def remove(self, key: str) -> None:
        """Forgets `key`; nothing happens where it is unknown."""
        self._remove.run(key)
