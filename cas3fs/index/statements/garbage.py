# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.garbage`."""

from sqlalchemy import delete, insert, select, update

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import blocks, chunks, lost_blocks, packs

_NAMED = select(chunks.c.block)
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
