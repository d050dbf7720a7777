# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.garbage`."""

from cas3fs.index.prepared import Prepared

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
