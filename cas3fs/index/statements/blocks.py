# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.blocks`."""

from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import blocks, packs

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
