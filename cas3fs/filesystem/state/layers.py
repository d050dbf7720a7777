# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers: what was written to a file and is not in the store yet.

A file with unstored data has a stack of *layers* over what the index says of it.  A layer knows

- its **sequence number**: one more than that of the layer below it, or than the inode's ``stored_seq``;
- the **ranges** that were written while it was on top, and their bytes;
- its **floor**: the least size that the file had while the layer was on top.  Whatever lies below the layer (lower
  layers and the index) is dead from the floor on and reads as zeros, whatever size the file grows to again;
- the **size and times** of the file at the layer's last change.

Only the top layer takes changes, and only until it is *frozen*, which the storer does when it begins to store the
file: from then on the layer is an exact state that the file had, which can be read without any lock, while later
changes go to a new layer above it.  When the index durably holds a layer's content, the layer is dropped whole.  So
writes, truncations, changed times and removals during an upload win without any merging.

The bytes of a layer are kept in memory while they are few, else in a sparse file (modules `extents`, `layer_files`).
Nothing here takes a lock: `Staging` says who may call what, and when.
"""

from collections.abc import Sequence

from cas3fs.filesystem.state.extents import MemoryBytes, Range, RangeSet
from cas3fs.filesystem.state.layer_files import FileBytes


class Layer:
    """See the module; the flags belong to `Staging` and are changed under the file system's lock.

    base: the file's size when the layer began.
    closing: about to be frozen; no more writers may begin.
    frozen: takes no more changes.
    stored: the open or a committed index transaction holds the content.
    unsaved: changed since the staging row was written.
    row: a staging row of this layer may exist.
    dropped: not needed any more; the last reader closes the file.
    writers: those whose bytes are on the way into the layer's file.
    readers: those who read the layer's file.
    """

    __slots__ = (
        "base",
        "bytes",
        "closing",
        "ctime_ns",
        "dropped",
        "floor",
        "frozen",
        "mtime_ns",
        "readers",
        "row",
        "seq",
        "size",
        "stored",
        "unsaved",
        "writers",
    )

    def __init__(self, seq: int, size: int, mtime_ns: int, ctime_ns: int) -> None:
        self.seq = seq
        self.base = size
        self.floor = size
        self.size = size
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.bytes: MemoryBytes | FileBytes = MemoryBytes()
        self.closing = False
        self.frozen = False
        self.stored = False
        self.unsaved = True
        self.row = False
        self.dropped = False
        self.writers = 0
        self.readers = 0

    def sync(self) -> None:
        """The bytes of its file, if it has one, are on the disk when this returns, or count as lost.

        Raises:
            OSError: nothing was tried, as the file cannot be opened.
        """
        if isinstance(self.bytes, FileBytes):
            self.bytes.sync()


class LayerLookup:
    """What a file's bytes are, seen through some of its layers: a plan that is made under the lock and read outside.

    `pieces` are the parts found in layers; `gaps` are those that only the index can tell; the rest is zeros.
    """

    __slots__ = ("gaps", "pieces")

    def __init__(self, layers: Sequence[Layer], start: int, end: int) -> None:
        self.pieces: list[tuple[int, int, Layer]] = []
        self.gaps: list[Range] = [(start, end)] if start < end else []
        for layer in reversed(layers):
            if not self.gaps:
                break
            self.gaps = self._take(layer)

    def _take(self, layer: Layer) -> list[Range]:
        """Takes what `layer` holds out of the gaps; what is left from its floor on is dead."""
        left: list[Range] = []
        # a file of many small ranges has many layers, most of which hold nothing of this
        is_here = layer.bytes.overlaps(self.gaps[0][0], self.gaps[-1][1])
        for start, end in self.gaps if is_here else ():
            position = start
            for begin, stop in layer.bytes.within(start, end):
                self.pieces.append((begin, stop, layer))
                if position < begin:
                    left.append((position, begin))
                position = stop
            if position < end:
                left.append((position, end))
        left = left if is_here else self.gaps
        floor = layer.floor
        return [(start, min(end, floor)) for start, end in left if start < floor]


def dirty_ranges(layers: Sequence[Layer]) -> RangeSet:
    """What was written in `layers` (bottom to top) and not cut off by a later one."""
    ranges = RangeSet()
    for layer in layers:
        ranges.truncate(layer.floor)
        for start, end in layer.bytes.ranges():
            ranges.add(start, end)
    return ranges
