# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check reads: an index, the store, and staging."""

from pathlib import Path

import attrs

from cas3fs.index import StagingIndex
from cas3fs.maintenance.context import VolumeContext
from cas3fs.maintenance.lost_blocks import damaged_packs, lost_packs
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive


@attrs.frozen
class FsckTarget:
    """What is checked.

    Attributes:
        next_ordinal: of the next snapshot.
        lost_packs: packs that are known to be lost.
        damaged_packs: packs that are known to have damaged blocks which only snapshots need.
        staging: the folder and the records of staging, if no process uses them.
        staging_folder: that folder in any case.
        is_live: whether a file system may be using index and store.
        index_name: which index it is, for people.
    """

    index: Path
    store: ObjectStore
    archive: SnapshotArchive
    next_ordinal: int
    lost_packs: frozenset[str] = frozenset()
    damaged_packs: frozenset[str] = frozenset()
    staging: tuple[Path, StagingIndex] | None = None
    staging_folder: Path | None = None
    is_live: bool = False
    index_name: str = "the local index"


def fsck_target_of(
    context: VolumeContext, next_ordinal: int, *, is_live: bool, staging: tuple[Path, StagingIndex] | None = None
) -> FsckTarget:
    """The target that an open volume is; the arguments are attributes of `FsckTarget`."""
    filesystem = context.filesystem
    filesystem.complete_index()
    with filesystem.index_transaction() as index:
        lost, damaged = lost_packs(index), damaged_packs(index)
    return FsckTarget(
        index=filesystem.index_path,
        store=context.store,
        archive=context.archive,
        next_ordinal=next_ordinal,
        lost_packs=lost,
        damaged_packs=damaged,
        staging=staging,
        staging_folder=filesystem.staging.folder,
        is_live=is_live,
    )
