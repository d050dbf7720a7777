# SPDX-License-Identifier: GPL-3.0-or-later
"""After a crash: what an earlier process of the same line has left in staging is taken up again.

A row counts if its inode is there and has stored nothing as new.  Its layer is frozen at once: it is what that process
had promised, and is stored before anything that changes from now on.
"""

import logging
import re
import time
from pathlib import Path

from cas3fs.errors import StateConflict
from cas3fs.filesystem.base import SIZE_MAX
from cas3fs.filesystem.extents import MemoryBytes, unpack_ranges
from cas3fs.filesystem.inodes import InodeTable
from cas3fs.filesystem.layerfiles import GONE, FileBytes
from cas3fs.filesystem.layers import Layer
from cas3fs.filesystem.staging import Staging
from cas3fs.index.staging import StagedRow

_LAYER_FILE = re.compile("[0-9a-f]+-[0-9a-f]+")

_log = logging.getLogger(__name__)


def replay(staging: Staging, inodes: InodeTable) -> int:
    """Takes up the rows of staging; gives the number of files.  Needs the file system's lock.

    Raises:
        StateConflict: a row makes no sense.
    """
    known: set[str] = set()
    for row in staging.records.rows():
        inode = inodes.find(row.inode) if isinstance(row.inode, int) else None
        if inode is None or (isinstance(row.seq, int) and row.seq <= inode.stored_seq):
            staging.forget(row)
        else:
            staging.take_up(inode, _layer_of(row, staging, known))
    _set_aside(staging.folder, known)
    return len(staging.files)


def _layer_of(row: StagedRow, staging: Staging, known: set[str]) -> Layer:
    folder = staging.folder
    if not _makes_sense(row):
        raise StateConflict(
            f"the record of staged bytes of inode {row.inode!r} is damaged: no file has such sizes or times; moving "
            f"{folder.parent} away lets a mount begin from the newest snapshot"
        )
    layer = Layer(row.seq, row.size, row.mtime_ns, row.ctime_ns)
    layer.floor = row.size if row.floor is None else row.floor
    layer.frozen, layer.unsaved, layer.row = True, False, True
    try:
        ranges, lost = unpack_ranges(row.ranges), unpack_ranges(row.lost or b"")
        if row.data is not None:
            layer.bytes = MemoryBytes.from_joined(ranges, row.data)
            return layer
    except ValueError as error:
        raise StateConflict(f"the record of staged bytes of inode {row.inode} is damaged: {error}") from error
    path = folder / f"{row.inode:x}-{row.seq:x}"
    if not path.is_file():
        _log.error(
            "staged bytes of inode %d are missing: %s is named by staging.sqlite and not there; they cannot be read "
            "until they are written again, and `cas3fs fsck --repair` gives the file back as it was stored last",
            row.inode,
            path,
        )
        lost = ranges
    layer.bytes = FileBytes(path, staging.open_files, ranges, lost, create=False)
    known.add(path.name)
    return layer


def _makes_sense(row: StagedRow) -> bool:
    """Whether the values are of the types and within the bounds that a file has; SQLite holds whatever it is given."""
    floor = row.size if row.floor is None else row.floor
    numbers = (row.inode, row.seq, row.size, row.mtime_ns, row.ctime_ns, floor)
    if not all(isinstance(one, int) for one in numbers) or not isinstance(row.ranges, bytes):
        return False
    if not isinstance(row.data, bytes | None) or not isinstance(row.lost, bytes | None):
        return False
    return 0 <= row.size <= SIZE_MAX and 0 <= floor <= SIZE_MAX


def _set_aside(folder: Path, known: set[str]) -> None:
    """A file without its row was never promised; it is kept for a person to look at, out of the way."""
    for path in folder.iterdir():
        if path.name.endswith(GONE):  # its bytes are in the store, or of no use: a kill came before it was removed
            path.unlink()
        elif _LAYER_FILE.fullmatch(path.name) and path.name not in known:
            aside = folder / "aside"
            aside.mkdir(mode=0o700, exist_ok=True)
            path.rename(aside / f"{path.name}.{time.time_ns()}")
            _log.warning("staging file %s has no row; it was moved to %s", path.name, aside)
