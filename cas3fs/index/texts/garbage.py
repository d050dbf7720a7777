# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.garbage`."""

from cas3fs.index.prepared import Prepared

PACK_BATCH = 64
PER_PACK = Prepared(
    "SELECT packs.id, packs.name, packs.size, packs.born, packs.died, coalesce(sums.blocks, 0) AS "
    "coalesce_1, coalesce(sums.block_bytes, 0) AS coalesce_2, coalesce(sums.live_blocks, 0) AS "
    "coalesce_3, coalesce(sums.live_bytes, 0) AS coalesce_4 FROM packs LEFT OUTER JOIN (SELECT "
    '"each".pack AS pack, count(*) AS blocks, sum("each".stored_length) AS block_bytes, sum("each".live) '
    'AS live_blocks, sum("each".live * "each".stored_length) AS live_bytes FROM (SELECT blocks.pack AS '
    "pack, blocks.stored_length AS stored_length, CAST(blocks.id IN (SELECT chunks.block FROM chunks) AS "
    'INTEGER) AS live FROM blocks) AS "each" GROUP BY "each".pack) AS sums ON sums.pack = packs.id ORDER '
    "BY packs.id"
)
LIMITS = Prepared(
    "SELECT ranked.id FROM (SELECT blocks.id AS id, row_number() OVER (ORDER BY blocks.id) AS place, "
    "count(*) OVER () AS total FROM blocks WHERE (blocks.id NOT IN (SELECT chunks.block FROM chunks)) AND"
    " blocks.pack IN (SELECT packs.id FROM packs WHERE packs.born < ?)) AS ranked WHERE ranked.place % ? "
    "= 0 OR ranked.place = ranked.total ORDER BY ranked.id"
)
DROP = Prepared(
    (
        "DELETE FROM blocks WHERE blocks.id > ? AND blocks.id <= ? AND blocks.pack IN (SELECT packs.id FROM "
        "packs WHERE packs.born < ?) AND (blocks.id NOT IN (SELECT chunks.block FROM chunks WHERE "
        "chunks.block > ? AND chunks.block <= ?))"
    ),
    (1, 2, 0, 1, 2),
)
LIVE_OF = Prepared(
    'SELECT blocks.hash, packs.name, blocks."offset", blocks.stored_length, blocks.plain_length FROM '
    "blocks JOIN packs ON packs.id = blocks.pack WHERE packs.name IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
    " ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
    "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AND blocks.id IN (SELECT chunks.block FROM "
    'chunks) ORDER BY packs.id, blocks."offset"'
)
USED = Prepared(
    "SELECT packs.name FROM packs WHERE packs.id IN (SELECT blocks.pack FROM blocks WHERE blocks.id IN "
    "(SELECT chunks.block FROM chunks))"
)
FILLED = Prepared(
    "SELECT packs.name FROM packs WHERE packs.died IS NULL AND packs.id IN (SELECT blocks.pack FROM blocks)"
)
BURY = Prepared(
    "UPDATE packs SET died=? WHERE packs.died IS NULL AND packs.born < ? AND (packs.id NOT IN (SELECT "
    "blocks.pack FROM blocks))"
)
SET_DEATH = Prepared("UPDATE packs SET died=? WHERE packs.name = ? AND packs.died IS NOT NULL")
FORGET = Prepared("DELETE FROM packs WHERE packs.name = ? AND packs.died IS NOT NULL")
PACK = Prepared("SELECT packs.id, packs.born, packs.died FROM packs WHERE packs.name = ?")
ADD_PACK = Prepared("INSERT INTO packs (name, size, born, died) VALUES (?, ?, ?, ?)")
WIDEN = Prepared("UPDATE packs SET born=?, died=? WHERE packs.id = ?", (1, 2, 0))
MOVE = Prepared(
    'UPDATE blocks SET pack=?, "offset"=?, stored_length=? WHERE blocks.hash = ? AND blocks.pack = ?', (2, 3, 4, 0, 1)
)
DROP_UNNAMED = Prepared("DELETE FROM blocks WHERE (blocks.id NOT IN (SELECT chunks.block FROM chunks))")
FORGET_LOST = Prepared("DELETE FROM lost_blocks WHERE (lost_blocks.block NOT IN (SELECT blocks.id FROM blocks))")
