# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.state`."""

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import volume_state

GET = Written(select(volume_state.c.value).where(volume_state.c.key == param("key")), "key")
_INSERT = insert(volume_state).values(key=param("key"), value=param("value"))
SET = Written(
    _INSERT.on_conflict_do_update(index_elements=["key"], set_={"value": _INSERT.excluded.value}), "key value"
)
REMOVE = Written(delete(volume_state).where(volume_state.c.key == param("key")), "key")
