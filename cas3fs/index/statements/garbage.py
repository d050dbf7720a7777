# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.garbage`."""

from typing import Final

from sqlalchemy import ColumnElement, Integer, cast, delete, func, insert, literal_column, select, update

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import blocks, chunks, lost_blocks, packs

_ZERO: ColumnElement[int] = literal_column("0")
_NAMED = select(chunks.c.block)
PACK_BATCH: Final = 64
_BATCH_PARAMS: Final = tuple(f"name{number}" for number in range(PACK_BATCH))


def _per_pack() -> Written:
    is_live = cast(blocks.c.id.in_(_NAMED), Integer).label("live")
    each = select(blocks.c.pack, blocks.c.stored_length, is_live).subquery("each")
    sums = (
        select(
            each.c.pack,
            func.count().label("blocks"),
            func.sum(each.c.stored_length).label("block_bytes"),
            func.sum(each.c.live).label("live_blocks"),
            func.sum(each.c.live * each.c.stored_length).label("live_bytes"),
        )
        .group_by(each.c.pack)
        .subquery("sums")
    )
    numbers = [func.coalesce(sums.c[name], _ZERO) for name in ("blocks", "block_bytes", "live_blocks", "live_bytes")]
    return Written(
        select(packs.c.id, packs.c.name, packs.c.size, packs.c.born, packs.c.died, *numbers)
        .select_from(packs.outerjoin(sums, sums.c.pack == packs.c.id))
        .order_by(packs.c.id)
    )


def _is_old() -> ColumnElement[bool]:
    """The block's pack is not young."""
    return blocks.c.pack.in_(select(packs.c.id).where(packs.c.born < param("young")))


def _limits() -> Written:
    """The greatest id of each batch of dead blocks."""
    place = func.row_number().over(order_by=blocks.c.id).label("place")
    ranked = (
        select(blocks.c.id, place, func.count().over().label("total"))
        .where(blocks.c.id.not_in(_NAMED), _is_old())
        .subquery("ranked")
    )
    ends_batch = (ranked.c.place % param("batch") == _ZERO) | (ranked.c.place == ranked.c.total)
    return Written(select(ranked.c.id).where(ends_batch).order_by(ranked.c.id), "young batch")


def _drop() -> Written:
    in_range = (blocks.c.id > param("after")) & (blocks.c.id <= param("upto"))
    named = _NAMED.where(chunks.c.block > param("after"), chunks.c.block <= param("upto"))
    return Written(delete(blocks).where(in_range, _is_old(), blocks.c.id.not_in(named)), "young after upto")


PER_PACK = _per_pack()
LIMITS = _limits()
DROP = _drop()
LIVE_OF = Written(
    select(blocks.c.hash, packs.c.name, blocks.c.offset, blocks.c.stored_length, blocks.c.plain_length)
    .select_from(blocks.join(packs, packs.c.id == blocks.c.pack))
    .where(packs.c.name.in_([param(name) for name in _BATCH_PARAMS]), blocks.c.id.in_(_NAMED))
    .order_by(packs.c.id, blocks.c.offset),
    " ".join(_BATCH_PARAMS),
)
USED = Written(select(packs.c.name).where(packs.c.id.in_(select(blocks.c.pack).where(blocks.c.id.in_(_NAMED)))))
FILLED = Written(select(packs.c.name).where(packs.c.died.is_(None), packs.c.id.in_(select(blocks.c.pack))))
BURY = Written(
    update(packs)
    .where(packs.c.died.is_(None), packs.c.born < param("young"), packs.c.id.not_in(select(blocks.c.pack)))
    .values(died=param("died")),
    "died young",
)
SET_DEATH = Written(
    update(packs).where(packs.c.name == param("name"), packs.c.died.is_not(None)).values(died=param("died")),
    "died name",
)
FORGET = Written(delete(packs).where(packs.c.name == param("name"), packs.c.died.is_not(None)), "name")
PACK = Written(select(packs.c.id, packs.c.born, packs.c.died).where(packs.c.name == param("name")), "name")
ADD_PACK = Written(
    insert(packs).values(name=param("name"), size=param("size"), born=param("born"), died=param("died")).inline(),
    "name size born died",
)
WIDEN = Written(
    update(packs).where(packs.c.id == param("id")).values(born=param("born"), died=param("died")), "id born died"
)
MOVE = Written(
    update(blocks)
    .where(blocks.c.hash == param("hash"), blocks.c.pack == param("old"))
    .values(pack=param("new"), offset=param("offset"), stored_length=param("stored_length")),
    "hash old new offset stored_length",
)
DROP_UNNAMED = Written(delete(blocks).where(blocks.c.id.not_in(_NAMED)))
FORGET_LOST = Written(delete(lost_blocks).where(lost_blocks.c.block.not_in(select(blocks.c.id))))
