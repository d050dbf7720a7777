# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.blocks`."""

from typing import Final

from sqlalchemy import delete, func, insert, literal_column, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import blocks, lost_blocks, packs

BATCH: Final = 64
_BATCH_PARAMS: Final = tuple(f"hash{number}" for number in range(BATCH))
_LOCATION = (blocks.c.hash, packs.c.name, blocks.c.offset, blocks.c.stored_length, blocks.c.plain_length)
_JOINED = blocks.join(packs, packs.c.id == blocks.c.pack)
_AMONG_BATCH = blocks.c.hash.in_([param(name) for name in _BATCH_PARAMS])
FIND_ONE = Written(select(blocks.c.hash, blocks.c.id).where(blocks.c.hash == param("hash")), "hash")
FIND_BATCH = Written(select(blocks.c.hash, blocks.c.id).where(_AMONG_BATCH), " ".join(_BATCH_PARAMS))
LOCATE_ONE = Written(select(*_LOCATION).select_from(_JOINED).where(blocks.c.hash == param("hash")), "hash")
LOCATE_BATCH = Written(select(*_LOCATION).select_from(_JOINED).where(_AMONG_BATCH), " ".join(_BATCH_PARAMS))
PACK_ID = Written(select(packs.c.id).where(packs.c.name == param("name")), "name")
PACK_SIZE = Written(select(packs.c.size).where(packs.c.name == param("name")), "name")
ADD_PACK = Written(
    insert(packs).values(name=param("name"), size=param("size"), born=param("born")).inline(), "name size born"
)
ADD_BLOCK = Written(
    upsert(blocks)
    .values(
        hash=param("hash"),
        pack=param("pack"),
        offset=param("offset"),
        stored_length=param("stored_length"),
        plain_length=param("plain_length"),
    )
    .on_conflict_do_nothing(index_elements=["hash"])
    .inline(),
    "pack hash offset stored_length plain_length",
)
PACKS = Written(select(packs.c.name, packs.c.size, packs.c.born, packs.c.died).order_by(packs.c.id))
PACKS_AFTER = Written(select(packs.c.name).where(packs.c.born > param("born")).order_by(packs.c.id), "born")

# what is lost
_IN_PACK = select(blocks.c.id).select_from(_JOINED).where(packs.c.name == param("pack"))
_PACK_NAME = select(packs.c.name).where(packs.c.id == blocks.c.pack).scalar_subquery()
_BLOCK_IN_PACK = select(blocks.c.id).where(
    blocks.c.hash == param("hash"), func.coalesce(_PACK_NAME, literal_column("''")) == param("pack")
)
_LOSE = upsert(lost_blocks)
ANY_LOST = Written(select(lost_blocks.c.block).limit(literal_column("1")).offset(literal_column("0")))
IS_LOST = Written(select(lost_blocks.c.block).where(lost_blocks.c.block == param("block")), "block")
LOSE_BLOCK = Written(_LOSE.from_select(["block"], _BLOCK_IN_PACK).on_conflict_do_nothing(), "hash pack")
LOSE_PACK = Written(_LOSE.from_select(["block"], _IN_PACK).on_conflict_do_nothing(), "pack")
HEAL = Written(
    update(blocks)
    .where(blocks.c.hash == param("hash"), blocks.c.id.in_(select(lost_blocks.c.block)))
    .values(
        pack=param("pack"),
        offset=param("offset"),
        stored_length=param("stored_length"),
        plain_length=param("plain_length"),
    ),
    "pack hash offset stored_length plain_length",
)
_PLACED = select(blocks.c.id).where(blocks.c.hash == param("hash"), blocks.c.pack == param("pack"))
HEALED = Written(delete(lost_blocks).where(lost_blocks.c.block.in_(_PLACED)), "hash pack")
LOST = Written(
    select(*_LOCATION)
    .select_from(lost_blocks.join(blocks, blocks.c.id == lost_blocks.c.block).join(packs, packs.c.id == blocks.c.pack))
    .order_by(packs.c.name, blocks.c.offset)
)
