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
PACKS_AFTER = Prepared("SELECT packs.name FROM packs WHERE packs.born > ? ORDER BY packs.id")
ANY_LOST = Prepared("SELECT lost_blocks.block FROM lost_blocks LIMIT 1 OFFSET 0")
IS_LOST = Prepared("SELECT lost_blocks.block FROM lost_blocks WHERE lost_blocks.block = ?")
LOSE_BLOCK = Prepared(
    "INSERT INTO lost_blocks (block) SELECT blocks.id FROM blocks WHERE blocks.hash = ? AND "
    "coalesce((SELECT packs.name FROM packs WHERE packs.id = blocks.pack), '') = ? ON CONFLICT DO NOTHING"
)
LOSE_PACK = Prepared(
    "INSERT INTO lost_blocks (block) SELECT blocks.id FROM blocks JOIN packs ON packs.id = blocks.pack "
    "WHERE packs.name = ? ON CONFLICT DO NOTHING"
)
HEAL = Prepared(
    (
        'UPDATE blocks SET pack=?, "offset"=?, stored_length=?, plain_length=? WHERE blocks.hash = ? AND '
        "blocks.id IN (SELECT lost_blocks.block FROM lost_blocks)"
    ),
    (0, 2, 3, 4, 1),
)
HEALED = Prepared(
    "DELETE FROM lost_blocks WHERE lost_blocks.block IN (SELECT blocks.id FROM blocks WHERE blocks.hash ="
    " ? AND blocks.pack = ?)"
)
LOST = Prepared(
    'SELECT blocks.hash, packs.name, blocks."offset", blocks.stored_length, blocks.plain_length FROM '
    "lost_blocks JOIN blocks ON blocks.id = lost_blocks.block JOIN packs ON packs.id = blocks.pack ORDER "
    'BY packs.name, blocks."offset"'
)
