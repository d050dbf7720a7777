# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.reader`."""

import stat
from typing import Final

from sqlalchemy import ColumnElement, case, func, literal_column, select

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import blocks, chunks, inodes, packs

_ZERO: ColumnElement[int] = literal_column("0")
HALF_BITS: Final = 32
_TYPE = inodes.c.mode.bitwise_and(literal_column(str(stat.S_IFMT(0o177777)))).label("type")
BY_TYPE = Written(
    select(
        _TYPE,
        func.count(),
        # in two parts: two sparse files may be larger together than a number can be
        func.sum(inodes.c.size.bitwise_rshift(literal_column(str(HALF_BITS)))),
        func.sum(inodes.c.size.bitwise_and(literal_column(str(2**HALF_BITS - 1)))),
    ).group_by(literal_column("type"))
)
CHUNKS = Written(select(func.count(), func.coalesce(func.sum(chunks.c.length), _ZERO)).select_from(chunks))
BLOCKS = Written(
    select(
        func.count(),
        func.coalesce(func.sum(blocks.c.plain_length), _ZERO),
        func.coalesce(func.sum(blocks.c.stored_length), _ZERO),
    ).select_from(blocks)
)
_ONE: ColumnElement[int] = literal_column("1")
_IS_DEAD = packs.c.died.is_not(None)
PACKS = Written(
    select(
        func.coalesce(func.sum(case((_IS_DEAD, _ZERO), else_=_ONE)), _ZERO),
        func.coalesce(func.sum(packs.c.size), _ZERO),
        func.coalesce(func.sum(case((_IS_DEAD, _ONE), else_=_ZERO)), _ZERO),
        func.coalesce(func.sum(case((_IS_DEAD, packs.c.size), else_=_ZERO)), _ZERO),
    ).select_from(packs)
)
BORN_AFTER = Written(select(func.coalesce(func.sum(packs.c.size), _ZERO)).where(packs.c.born > param("born")), "born")
