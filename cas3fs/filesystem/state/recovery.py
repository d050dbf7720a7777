# SPDX-License-Identifier: GPL-3.0-or-later
"""After a crash: restores the layers that an earlier process of the same lineage has left in staging.

A row counts if its inode exists and has stored nothing as new. Its layer is frozen at once: that process has promised
it to programs, so it is stored before anything that changes from now on.

A damaged row is quarantined (module `quarantine`), and so are the rows of the layers above it, unless one of them hides
everything below: the file is as it was before. `Staging.quarantined` lists them.
"""

import logging
import re
import stat
from pathlib import Path

from cas3fs.filesystem.limits import SIZE_MAX
from cas3fs.filesystem.state.extents import MemoryBytes, RangeSet, unpack_ranges
from cas3fs.filesystem.state.inodes import Inode, InodeTable
from cas3fs.filesystem.state.layer_files import REMOVED_SUFFIX, FileBytes
from cas3fs.filesystem.state.layers import Layer
from cas3fs.filesystem.state.quarantine import Quarantine
from cas3fs.filesystem.state.staging import Staging
from cas3fs.index.staging import StagedRow

_LAYER_FILE = re.compile("[0-9a-f]+-[0-9a-f]+")

_log = logging.getLogger(__name__)


def recover(staging: Staging, inodes: InodeTable) -> int:
    """Restores the layers of the rows of staging.  Needs the file system's lock.

    Returns:
        how many files have layers then.

    Raises:
        IndexDatabaseError: index or rows cannot be read.
        OSError: what is to be quarantined cannot be written.
    """
    known: set[str] = set()
    aside = Quarantine(staging.folder)
    for row in staging.rows.records.rows():
        inode, damage = inodes.find(row.inode) if isinstance(row.inode, int) else None, damage_of(row)
        if has_key(row) and (inode is None or row.seq <= inode.stored_seq):
            staging.rows.delete(row.inode, row.seq)
        elif inode is not None and not (damage := damage or _mismatch(row, inode)):
            staging.restore_layer(inode, _layer_of(row, staging, known))
        else:
            kept = aside.keep(row, damage)
            staging.quarantined.append((inode.number if inode is not None else 0, f"{damage}; it is kept as {kept}"))
            staging.rows.delete(row.inode, row.seq)
    _quarantine_files(staging.folder, known, aside)
    aside.sync()
    return len(staging.files)


def is_layer_file(path: Path) -> bool:
    """Whether a file holds staged bytes, by its name."""
    return _LAYER_FILE.fullmatch(path.name) is not None


def has_key(row: StagedRow) -> bool:
    """Whether a row names an inode and a layer of it that there can be."""
    return isinstance(row.inode, int) and isinstance(row.seq, int) and row.inode > 0 and row.seq >= 0


def damage_of(row: StagedRow) -> str:
    """What is wrong with a row, as far as the row itself shows it; empty where nothing is.

    SQLite keeps values of any type in any column, so all are checked.
    """
    floor = row.size if row.floor is None else row.floor
    numbers = (row.inode, row.seq, row.size, row.mtime_ns, row.ctime_ns, floor)
    if not all(isinstance(one, int) for one in numbers) or not isinstance(row.ranges, bytes):
        return "no file has such a size, time or place"
    if not all(isinstance(one, bytes | None) for one in (row.data, row.lost, row.holes)):
        return "its bytes are no bytes"
    if not has_key(row) or not 0 <= floor <= row.size <= SIZE_MAX:
        return "no file has such a size or number"
    try:
        ranges = unpack_ranges(row.ranges)
        unpack_ranges(row.lost or b"")
        holes = unpack_ranges(row.holes or b"")
    except ValueError as error:
        return str(error)
    if any(one and one[-1][1] > row.size for one in (ranges, holes)):
        return "its bytes or holes reach beyond the size of the file"
    written = RangeSet(ranges)
    if any(written.overlaps(*hole) for hole in holes):
        return "it has bytes and a hole in one place"
    if row.data is not None and len(row.data) != sum(end - start for start, end in ranges):
        return "its ranges and its bytes differ in length"
    return ""


def _mismatch(row: StagedRow, inode: Inode) -> str:
    """Why the layer of a row cannot be put on those of its inode; empty where it can."""
    if not stat.S_ISREG(inode.mode):
        return "it belongs to no regular file"
    below = inode.layers[-1].seq if inode.layers else inode.stored_seq
    if row.seq != below + 1 and row.floor != 0:  # one that was cut to nothing needs nothing from below
        return f"change {row.seq} of the file lies over change {row.seq - 1}, which is missing"
    return ""


def _layer_of(row: StagedRow, staging: Staging, known: set[str]) -> Layer:
    layer = Layer(row.seq, row.size, row.mtime_ns, row.ctime_ns)
    layer.floor = row.size if row.floor is None else row.floor
    layer.frozen, layer.unsaved, layer.has_row = True, False, True
    layer.holes = RangeSet(unpack_ranges(row.holes or b""))
    ranges, lost = unpack_ranges(row.ranges), unpack_ranges(row.lost or b"")
    if row.data is not None:
        layer.bytes = MemoryBytes.from_joined(ranges, row.data)
        return layer
    path = staging.folder / f"{row.inode:x}-{row.seq:x}"
    if not path.is_file():
        _log.error(
            "staged bytes of inode %d are missing: %s is named by staging.sqlite and not there; they cannot be read "
            "until they are written again, and `cas3fs fsck --repair` gives the file back as it was stored last",
            row.inode,
            path,
        )
        lost = ranges
    layer.bytes = FileBytes(path, staging.layer_files, ranges, lost, create=False)
    known.add(path.name)
    return layer


def _quarantine_files(folder: Path, known: set[str], aside: Quarantine) -> None:
    """Moves layer files without a row into the quarantine: they were never promised, or their row is damaged."""
    for path in folder.iterdir():
        if path.name.endswith(REMOVED_SUFFIX):  # its bytes are in the store, or of no use: killed before it was removed
            path.unlink()
        elif is_layer_file(path) and path.name not in known:
            aside.move(path)
            _log.warning("staging file %s has no row; it was moved to %s", path.name, aside.folder)
