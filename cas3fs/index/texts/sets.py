# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.sets`."""

from cas3fs.index.prepared import Prepared

HALF_BITS = 32
BY_TYPE = Prepared(
    "SELECT inodes.mode & 61440 AS type, count(*) AS count_1, sum(inodes.size >> 32) AS sum_1, "
    "sum(inodes.size & 4294967295) AS sum_2 FROM inodes GROUP BY type"
)
CHUNKS = Prepared("SELECT count(*) AS count_1, coalesce(sum(chunks.length), 0) AS coalesce_1 FROM chunks")
BLOCKS = Prepared(
    "SELECT count(*) AS count_1, coalesce(sum(blocks.plain_length), 0) AS coalesce_1, "
    "coalesce(sum(blocks.stored_length), 0) AS coalesce_2 FROM blocks"
)
PACKS = Prepared(
    "SELECT coalesce(sum(CASE WHEN (packs.died IS NOT NULL) THEN 0 ELSE 1 END), 0) AS coalesce_1, "
    "coalesce(sum(packs.size), 0) AS coalesce_2, coalesce(sum(CASE WHEN (packs.died IS NOT NULL) THEN 1 "
    "ELSE 0 END), 0) AS coalesce_3, coalesce(sum(CASE WHEN (packs.died IS NOT NULL) THEN packs.size ELSE "
    "0 END), 0) AS coalesce_4 FROM packs"
)
BORN_AFTER = Prepared("SELECT coalesce(sum(packs.size), 0) AS coalesce_1 FROM packs WHERE packs.born > ?")
