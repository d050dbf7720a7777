# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest index of a volume that no process of this machine has open, for reading, without a claim.

That is the local index, if it holds what the newest snapshot holds; else a copy that is restored from that snapshot. So
what a mount that crashed has left on this machine is not in it.
"""

import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from cas3fs.errors import IndexDatabaseError, StateInUse
from cas3fs.index import Index, migrations
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.volume.comparison import IndexStatus, LineageRecord, StoreComparison
from cas3fs.volume.state_directory import StateDirectory

T = TypeVar("T")


def read_newest_index(state: Path, archive: SnapshotArchive, newest: str | None, read: Callable[[Path], T]) -> T:
    """What `read` returns of the newest index; it is called once more where the local one turns out to be damaged. The
    state directory is held meanwhile, so that no mount begins.

    Args:
        state: the state directory of the volume, which need not exist.
        archive: its snapshots.
        newest: the id of the newest one.
        read: what is to be known.

    Raises:
        SnapshotError, StoreError, IndexDatabaseError: there is no local one, and none can be restored.
    """
    if newest is not None and state.is_dir():
        with suppress(StateInUse, IndexDatabaseError), closing(StateDirectory(state)) as local:
            if _is_current(local.index, archive, newest):
                return read(local.index)
    with tempfile.TemporaryDirectory(prefix="cas3fs-") as folder:
        return read(_restored(Path(folder), archive, newest))


def _is_current(path: Path, archive: SnapshotArchive, newest: str) -> bool:
    """Whether the local index is the newest state."""
    if not path.exists() or migrations.current(path) != migrations.head():
        return False
    with Index.open(path) as index:
        found = StoreComparison(archive, LineageRecord.read(index), newest, ()).compare()
    return found.status is IndexStatus.CURRENT


def _restored(folder: Path, archive: SnapshotArchive, newest: str | None) -> Path:
    path = folder / "index.sqlite"
    if newest is not None:
        archive.restore(newest, path)
    migrations.upgrade(path)
    return path
