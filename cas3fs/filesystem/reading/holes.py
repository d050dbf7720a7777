# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a file has data, and where holes: the answers to lseek(2) with SEEK_DATA and SEEK_HOLE.

A hole or a stretch of data may be long, so both are looked for in steps, each of which asks the index for a bounded
number of chunks. Data that the index has lost count as data: reading them is an error.

Everything here needs the file system's lock.
"""

from cas3fs.filesystem.state.extents import Range
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layers import LayerLookup
from cas3fs.index import ChunkTable

_STEP_CHUNKS = 1024


def seek_step(chunks: ChunkTable, inode: Inode, position: int, window: int, *, to_data: bool) -> tuple[int, bool]:
    """Looks for data, or else for a hole, from `position` on, within `window` bytes.

    Returns:
        where it begins (the size of the file where none does) and True; or where to look on, and False.
    """
    ranges, reached = _data_ranges(chunks, inode, position, min(position + window, inode.size), _STEP_CHUNKS)
    if to_data:
        if ranges:
            return ranges[0][0], True
    else:
        hole = ranges[0][1] if ranges and ranges[0][0] == position else position
        if hole < reached:
            return hole, True
    return reached, reached >= inode.size


def data_ranges(chunks: ChunkTable, inode: Inode, start: int, end: int) -> list[Range]:
    """The parts of ``[start, end)`` that hold data: ascending, none touching the next."""
    return _data_ranges(chunks, inode, start, end, -1)[0]


def _data_ranges(chunks: ChunkTable, inode: Inode, start: int, end: int, limit: int) -> tuple[list[Range], int]:
    """The parts of ``[start, reached)`` that hold data, and `reached`, which is less than `end` where there are more
    than `limit` chunks."""
    lookup = LayerLookup(inode.read_layers, start, end)
    found = [(begin, stop) for begin, stop, _ in lookup.pieces]
    for begin, stop in lookup.gaps:
        bounds = chunks.bounds(inode.number, begin, stop, limit)
        found += [(max(begin, offset), min(stop, offset + length)) for offset, length in bounds]
        if len(bounds) == limit:
            end = found[-1][1]
            break
        limit -= len(bounds) if limit > 0 else 0
    return _joined(sorted((begin, min(stop, end)) for begin, stop in found if begin < end)), end


def _joined(ranges: list[Range]) -> list[Range]:
    """Ascending, disjoint ranges, those that touch made one."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
