# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.chunks`."""

from cas3fs.index.prepared import Prepared

SPANS = Prepared(
    (
        'SELECT chunks."offset", chunks.length, chunks.skip, blocks.hash, packs.name, blocks."offset" AS '
        "offset_1, blocks.stored_length, blocks.plain_length FROM chunks LEFT OUTER JOIN blocks ON blocks.id "
        "= chunks.block LEFT OUTER JOIN packs ON packs.id = blocks.pack WHERE chunks.inode = ? AND "
        'chunks."offset" >= coalesce((SELECT max("before"."offset") AS max_1 FROM chunks AS "before" WHERE '
        '"before".inode = ? AND "before"."offset" <= ?), ?) AND chunks."offset" < ? AND chunks."offset" + '
        'chunks.length > ? ORDER BY chunks."offset" LIMIT ? OFFSET 0'
    ),
    (0, 0, 1, 1, 2, 1, 3),
)
BOUNDS = Prepared(
    (
        'SELECT chunks."offset", chunks.length FROM chunks WHERE chunks.inode = ? AND chunks."offset" >= '
        'coalesce((SELECT max("before"."offset") AS max_1 FROM chunks AS "before" WHERE "before".inode = ? '
        'AND "before"."offset" <= ?), ?) AND chunks."offset" < ? AND chunks."offset" + chunks.length > ? '
        'ORDER BY chunks."offset"'
    ),
    (0, 0, 1, 1, 2, 1),
)
OVERLAPPING = Prepared(
    (
        'SELECT chunks."offset", chunks.length, chunks.block, chunks.skip FROM chunks WHERE chunks.inode = ? '
        'AND chunks."offset" >= coalesce((SELECT max("before"."offset") AS max_1 FROM chunks AS "before" '
        'WHERE "before".inode = ? AND "before"."offset" <= ?), ?) AND chunks."offset" < ? AND chunks."offset"'
        ' + chunks.length > ? ORDER BY chunks."offset"'
    ),
    (0, 0, 1, 1, 2, 1),
)
LAST = Prepared(
    'SELECT chunks."offset", chunks.length FROM chunks WHERE chunks.inode = ? ORDER BY chunks."offset" '
    "DESC LIMIT 1 OFFSET 0"
)
SUMS_FROM = Prepared(
    "SELECT count(*) AS count_1, coalesce(sum(chunks.block % 2147483647 * ((chunks.offset % 2147483647 * "
    "3 + chunks.length % 2147483647 * 5 + chunks.skip % 2147483647 * 7 + 1) % 2147483647) % 2147483647), "
    '0) AS coalesce_1 FROM chunks WHERE chunks.inode = ? AND chunks."offset" >= ?'
)
DELETE = Prepared('DELETE FROM chunks WHERE chunks.inode = ? AND chunks."offset" >= ? AND chunks."offset" < ?')
DELETE_FROM = Prepared('DELETE FROM chunks WHERE chunks.inode = ? AND chunks."offset" >= ?')
SHORTEN = Prepared(
    (
        'UPDATE chunks SET length=(? - chunks."offset") WHERE chunks.inode = ? AND chunks."offset" = (SELECT '
        'max("before"."offset") AS max_1 FROM chunks AS "before" WHERE "before".inode = ? AND '
        '"before"."offset" < ?) AND chunks."offset" + chunks.length > ?'
    ),
    (1, 0, 0, 1, 1),
)
REACHING_OVER = Prepared(
    (
        'SELECT chunks."offset", chunks.length, chunks.block, chunks.skip FROM chunks WHERE chunks.inode = ? '
        'AND chunks."offset" = (SELECT max("before"."offset") AS max_1 FROM chunks AS "before" WHERE '
        '"before".inode = ? AND "before"."offset" < ?) AND chunks."offset" + chunks.length > ?'
    ),
    (0, 0, 1, 1),
)
INSERT = Prepared('INSERT INTO chunks (inode, "offset", length, block, skip) VALUES (?, ?, ?, ?, ?)')
STORED = Prepared(
    (
        "UPDATE inodes SET size=?, mtime_ns=?, ctime_ns=?, stored_seq=?, chunk_count=(inodes.chunk_count + "
        "?), chunk_sum=(inodes.chunk_sum + ?) WHERE inodes.id = ?"
    ),
    (1, 2, 3, 4, 5, 6, 0),
)
CHANGE_SUMS = Prepared(
    ("UPDATE inodes SET chunk_count=(inodes.chunk_count + ?), chunk_sum=(inodes.chunk_sum + ?) WHERE inodes.id = ?"),
    (1, 2, 0),
)
NO_CHUNKS = Prepared("UPDATE inodes SET chunk_count=0, chunk_sum=0 WHERE inodes.id = ?")
ALLOCATED = Prepared("SELECT coalesce(sum(chunks.length), 0) AS coalesce_1 FROM chunks WHERE chunks.inode = ?")
