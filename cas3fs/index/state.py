# SPDX-License-Identifier: GPL-3.0-or-later
"""What the index remembers of itself: a few texts by name, such as the volume's uuid and the snapshot counters."""

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, param
from cas3fs.index.tables import volume_state

_GET = Prepared(select(volume_state.c.value).where(volume_state.c.key == param("key")), "key")
_INSERT = insert(volume_state).values(key=param("key"), value=param("value"))
_SET = Prepared(
    _INSERT.on_conflict_do_update(index_elements=["key"], set_={"value": _INSERT.excluded.value}), "key value"
)
_REMOVE = Prepared(delete(volume_state).where(volume_state.c.key == param("key")), "key")


class State:
    """Texts by name; they belong to the group as any other change does."""

    def __init__(self, database: Database) -> None:
        self._get = _GET.on(database)
        self._set = _SET.on(database)
        self._remove = _REMOVE.on(database)

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
