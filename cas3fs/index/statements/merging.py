# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.pack_merge`."""

from sqlalchemy import column, insert, select, table, update

from cas3fs.index.statements.writing import Written, param
from cas3fs.index.tables import packs

_sequences = table("sqlite_sequence", column("name"), column("seq"))
SEQUENCES = Written(select(_sequences.c.name, _sequences.c.seq))
SET_SEQUENCE = Written(
    update(_sequences).values(seq=param("seq")).where(_sequences.c.name == param("name")), "name seq"
)
ADD_SEQUENCE = Written(insert(_sequences).values(name=param("name"), seq=param("seq")).inline(), "name seq")
KNOWN = Written(select(packs.c.name))
