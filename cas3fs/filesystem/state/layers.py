# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers: what was written to a file and is not in the store yet.

A file with unstored data has a stack of *layers* over what the index has of it. A layer has

- a **sequence number**: one more than that of the layer below it, or than the inode's ``stored_seq``;
- the **ranges** that were written while it was on top, and their bytes;
- its **holes**: the ranges that were punched while it was on top, and not written again. Nothing below the layer
  shows there, so they read as zeros;
- a **floor**: the least size that the file had while the layer was on top. Whatever lies below the layer (lower layers
  and the index) is dead from the floor on and reads as zeros, whatever size the file grows to again;
- the **size and times** of the file at the layer's last change.

Only the top layer changes, and only until the storer *freezes* it, when it begins to store the file. A frozen layer is
an exact state that the file had, which can be read without any lock; later changes go to a new layer above it. When the
index durably has a layer's content, the layer is dropped whole. So writes, truncations, changed times and removals
during an upload win without any merging.

The bytes of a layer are in memory while they are few, else in a sparse file (modules `extents`, `layer_files`). Nothing
here takes a lock: `Staging` says which method needs which.
"""

from collections.abc import Sequence

from cas3fs.filesystem.state.extents import MemoryBytes, Range, RangeSet
from cas3fs.filesystem.state.layer_files import FileBytes


class Layer:
    """One layer of a file; `Staging` changes its flags, under the file system's lock.

    Attributes:
        initial_size: the file's size when the layer began.
        closing: about to be frozen; no more writers may begin.
        frozen: takes no more changes.
        stored: the open or a committed transaction of the index has the content.
        unsaved: changed since the staging row was written.
        has_row: a staging row of this layer may exist.
        dropped: not needed any more; the last reader closes the file.
        holes: the ranges that are dead below and have no bytes here; none of them overlaps those of `bytes`.
        hidden: it is stored, and the index has got newer content since: no read uses it.
        writers: how many writers are writing to the layer's file.
        readers: how many readers are reading the layer's file.
    """

    __slots__ = (
        "bytes",
        "closing",
        "ctime_ns",
        "dropped",
        "floor",
        "frozen",
        "has_row",
        "hidden",
        "holes",
        "initial_size",
        "mtime_ns",
        "readers",
        "seq",
        "size",
        "stored",
        "unsaved",
        "writers",
    )

    def __init__(self, seq: int, size: int, mtime_ns: int, ctime_ns: int) -> None:
        self.seq = seq
        self.initial_size = size
        self.floor = size
        self.size = size
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.bytes: MemoryBytes | FileBytes = MemoryBytes()
        self.holes = RangeSet()
        self.closing = False
        self.frozen = False
        self.stored = False
        self.unsaved = True
        self.has_row = False
        self.dropped = False
        self.hidden = False
        self.writers = 0
        self.readers = 0

    def allocated_over(self, below: int) -> int:
        """At most how many bytes the file has with this layer, where it has `below` of them without it.

        Exact where none of those lie below bytes or holes of the layer, or behind its floor; and where there are no
        holes at all.
        """
        held = self.bytes.size_bytes
        seen_through = self.floor - self.holes.size_bytes - max(0, held - (self.size - self.floor))
        return held + max(0, min(below, seen_through))

    def sync(self) -> None:
        """Puts the bytes of its file, if it has one, on the disk; what the disk does not take counts as lost.

        Raises:
            OSError: the file cannot be opened, so nothing was tried.
        """
        if isinstance(self.bytes, FileBytes):
            self.bytes.sync()


class LayerLookup:
    """Which layer has which bytes of a range; made under the lock.

    Attributes:
        pieces: the parts that layers have: from, to, and the layer.
        gaps: the parts that the index may have; the rest of the range is zeros.
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
        """The gaps without what `layer` has, and without what is dead below it."""
        left, first, last = self.gaps, self.gaps[0][0], self.gaps[-1][1]
        # a file of many small ranges has many layers, most of which hold nothing of this
        if layer.bytes.overlaps(first, last):
            left = self._take_bytes(layer)
        if layer.holes.overlaps(first, last):
            left = [part for start, end in left for part in layer.holes.outside(start, end)]
        floor = layer.floor
        return [(start, min(end, floor)) for start, end in left if start < floor]

    def _take_bytes(self, layer: Layer) -> list[Range]:
        left: list[Range] = []
        for start, end in self.gaps:
            position = start
            for begin, stop in layer.bytes.within(start, end):
                self.pieces.append((begin, stop, layer))
                if position < begin:
                    left.append((position, begin))
                position = stop
            if position < end:
                left.append((position, end))
        return left


def changed_ranges(layers: Sequence[Layer]) -> tuple[RangeSet, RangeSet]:
    """The ranges that `layers` (bottom to top) have written, and those that they have punched; each without what a
    later layer has changed or cut off. From the least floor on everything else is dead."""
    written, holes = RangeSet(), RangeSet()
    for layer in layers:
        written.truncate(layer.floor)
        holes.truncate(layer.floor)
        for start, end in layer.holes:
            written.remove(start, end)
            holes.add(start, end)
        for start, end in layer.bytes.ranges():
            written.add(start, end)
            holes.remove(start, end)
    return written, holes
