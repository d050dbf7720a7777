# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a file has data, and where holes: the answers to lseek(2) with SEEK_DATA and SEEK_HOLE.

Everything here needs the file system's lock.
"""

from cas3fs.filesystem.state.extents import Range
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layers import LayerLookup
from cas3fs.index import ChunkTable


def next_data(chunks: ChunkTable, inode: Inode, position: int) -> int | None:
    """Where data begin from `position` on; None when there are none.

    It takes no longer for a long hole than for a short one.
    """
    lookup = LayerLookup(inode.layers, position, inode.size)
    first = min((begin for begin, _, _ in lookup.pieces), default=inode.size)
    for begin, stop in lookup.gaps:
        if begin >= first:
            break
        if spans := chunks.spans(inode.number, begin, min(stop, first), 1):
            first = max(begin, spans[0].offset)
            break
    return first if first < inode.size else None


def data_ranges(chunks: ChunkTable, inode: Inode, start: int, end: int) -> list[Range]:
    """The parts of ``[start, end)`` that hold data: ascending, none touching the next."""
    lookup = LayerLookup(inode.layers, start, end)
    found = [(begin, stop) for begin, stop, _ in lookup.pieces]
    for begin, stop in lookup.gaps:
        spans = chunks.spans(inode.number, begin, stop)
        found += [(max(begin, span.offset), min(stop, span.offset + span.length)) for span in spans]
    return _joined(sorted(found))


def _joined(ranges: list[Range]) -> list[Range]:
    """Ascending, disjoint ranges, those that touch made one."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
