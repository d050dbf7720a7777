# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.blocks`."""

from cas3fs.index.prepared import Prepared

BATCH = 64
FIND_ONE = Prepared("SELECT blocks.hash, blocks.id FROM blocks WHERE blocks.hash = ?")
FIND_BATCH = Prepared(
    "SELECT blocks.hash, blocks.id FROM blocks WHERE blocks.hash IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
    "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
    "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
LOCATE_ONE = Prepared(
    'SELECT blocks.hash, packs.name, blocks."offset", blocks.stored_length, blocks.plain_length FROM '
    "blocks JOIN packs ON packs.id = blocks.pack WHERE blocks.hash = ?"
)
LOCATE_BATCH = Prepared(
    'SELECT blocks.hash, packs.name, blocks."offset", blocks.stored_length, blocks.plain_length FROM '
    "blocks JOIN packs ON packs.id = blocks.pack WHERE blocks.hash IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
    "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
    "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
PACK_ID = Prepared("SELECT packs.id FROM packs WHERE packs.name = ?")
PACK_SIZE = Prepared("SELECT packs.size FROM packs WHERE packs.name = ?")
ADD_PACK = Prepared("INSERT INTO packs (name, size, born) VALUES (?, ?, ?)")
ADD_BLOCK = Prepared(
    (
        'INSERT INTO blocks (hash, pack, "offset", stored_length, plain_length) VALUES (?, ?, ?, ?, ?) ON '
        "CONFLICT (hash) DO NOTHING"
    ),
    (1, 0, 2, 3, 4),
)
PACKS = Prepared("SELECT packs.name, packs.size, packs.born, packs.died FROM packs ORDER BY packs.id")
