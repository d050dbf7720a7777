# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.staging`."""

from typing import Final

from sqlalchemy import Integer, delete, literal_column, select
from sqlalchemy.dialects.sqlite import insert

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import staged, staging_meta

_COLUMNS = tuple(staged.c.keys())
_KEY = ("inode", "seq")
_INSERT = insert(staged).values({name: param(name) for name in _COLUMNS})
SAVE = Written(
    _INSERT.on_conflict_do_update(
        index_elements=_KEY, set_={name: _INSERT.excluded[name] for name in _COLUMNS if name not in _KEY}
    ),
    " ".join(_COLUMNS),
)
DELETE = Written(delete(staged).where(staged.c.inode == param("inode"), staged.c.seq == param("seq")), "inode seq")
KEYS = Written(select(staged.c.inode, staged.c.seq).order_by(staged.c.inode, staged.c.seq))
ROW = Written(select(*staged.c).where(staged.c.inode == param("inode"), staged.c.seq == param("seq")), "inode seq")
_ROWID: Final = literal_column("rowid", Integer)
_ONE: Final = literal_column("1", Integer)
_ZERO: Final = literal_column("0", Integer)
NEXT = Written(
    select(_ROWID, *staged.c).where(param("rowid") < _ROWID).order_by(_ROWID).limit(_ONE).offset(_ZERO), "rowid"
)
GET = Written(select(staging_meta.c.value).where(staging_meta.c.key == param("key")), "key")
_INSERT_META = insert(staging_meta).values(key=param("key"), value=param("value"))
SET = Written(
    _INSERT_META.on_conflict_do_update(index_elements=["key"], set_={"value": _INSERT_META.excluded.value}), "key value"
)
