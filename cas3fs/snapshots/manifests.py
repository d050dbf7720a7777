# SPDX-License-Identifier: GPL-3.0-or-later
"""What a manifest says about a snapshot, the checks that it must pass, and the errors of snapshots."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import attrs

from cas3fs.entries.kinds import PagesUse, SnapshotEntry
from cas3fs.errors import (
    EntryError,
    ObjectArchived,
    ObjectDamaged,
    ObjectMissing,
    ObjectTooShort,
    SnapshotArchived,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    VolumeFormatError,
)
from cas3fs.snapshots.tree import longest_list_bytes
from cas3fs.values import PagesNumber, SnapshotNumber

_LARGEST_SEGMENT_BYTES: Final = 1024 * 1024
_LONGEST_LIST: Final = 65535
NEW_PACK_BYTES: Final = "new_pack_bytes"
"""The fact that records how many bytes of packs were stored since the previous snapshot."""


class SnapshotOrigin(NamedTuple):
    """Where a snapshot comes from."""

    lineage: UUID | None = None
    """Identifies the local index that it is a copy of, from its creation on."""
    claim: UUID | None = None
    """The claim under which it is published."""


UNKNOWN_ORIGIN: Final = SnapshotOrigin()


class CopiedSnapshot(NamedTuple):
    """A snapshot of another volume, of which one is a copy."""

    id: str
    time: datetime
    """That of the copy, too."""


@attrs.frozen
class SnapshotInfo:
    """What a manifest says about its snapshot; sizes are in bytes."""

    id: str
    number: SnapshotNumber
    parent: str | None
    name: str | None
    time: datetime
    index_size: int
    new_size: int
    """Bytes that it added to the store, without the manifest and packs."""
    facts: Mapping[str, int]
    pages: tuple[PagesUse, ...]
    """The pages entries that it refers to."""
    restored: str | None = None
    """Id of the older snapshot that this one made the head again."""
    claim: UUID | None = None
    """The claim under which it was published; None if an earlier version published it."""
    digest: str = ""
    """BLAKE3 of the manifest's bytes, in hex."""
    bypassed: tuple[str, ...] = ()
    """Ids of damaged snapshots that the volume did not continue from."""
    copied: str | None = None
    """Id of the snapshot of another volume that this one is a copy of."""
    stored_at: datetime | None = None
    """When the manifest was stored, by the store's clock; None if unknown."""


def snapshot_info(entry: SnapshotEntry, digest: str) -> SnapshotInfo:
    """Return what a manifest says; `digest` is that of its bytes."""
    return SnapshotInfo(
        id=entry.id,
        number=SnapshotNumber(entry.epoch, entry.sequence),
        parent=entry.parent,
        name=entry.name,
        time=entry.time,
        index_size=entry.index_size,
        new_size=entry.new_size,
        facts=entry.facts,
        pages=entry.pages,
        restored=entry.restored,
        bypassed=entry.around,
        copied=entry.copied,
        claim=entry.claim,
        digest=digest,
    )


def snapshots_of_pages(pages: Iterable[str]) -> set[str]:
    """Return the ids of the snapshots for which these pages entries were stored; skips invalid names."""
    found = set()
    for one in pages:
        with contextlib.suppress(ValueError):
            found.add(str(PagesNumber.parse(one).snapshot))
    return found


def bypassed_by(infos: Iterable[SnapshotInfo]) -> set[str]:
    """Return the ids of damaged snapshots that any of these bypassed. Only a person deletes them."""
    return {one for info in infos for one in info.bypassed}


def snapshots_named_by(infos: Iterable[SnapshotInfo]) -> set[str]:
    """Return the ids of all snapshots that these manifests mention."""
    infos = tuple(infos)
    named = {one for info in infos for one in (info.parent, info.restored) if one is not None}
    return named | snapshots_of_pages(use.id for info in infos for use in info.pages)


def no_such_snapshot(url: str, snapshot_id: str) -> SnapshotMissing:
    """Return the error for a snapshot that does not exist."""
    return SnapshotMissing(f"{url} has no snapshot {snapshot_id}")


def check_snapshot_id(snapshot_id: str) -> str:
    """Return `snapshot_id` if it is valid.

    Raises:
        VolumeFormatError: it is not.
    """
    try:
        if str(SnapshotNumber.parse(snapshot_id)) == snapshot_id:
            return snapshot_id
    except ValueError:
        pass
    raise VolumeFormatError(
        f"{snapshot_id!r} is not the id of a snapshot, such as 00000007-0000000123; `cas3fs snapshot list` shows all"
    )


def check_entry_sizes(entry: SnapshotEntry) -> None:
    """Check that the sizes in a manifest fit each other, so that nothing is allocated for a wrong one.

    Raises:
        SnapshotDamaged: they do not.
    """
    segment_ok = 512 <= entry.segment_size <= _LARGEST_SEGMENT_BYTES
    if not segment_ok or not 1 <= entry.list_length <= _LONGEST_LIST:
        raise SnapshotDamaged(f"snapshot {entry.id} has segments of {entry.segment_size} bytes")
    segments = -(-entry.index_size // entry.segment_size)
    if len(entry.parts) != -(-segments // entry.list_length):
        raise SnapshotDamaged(f"snapshot {entry.id} has {len(entry.parts)} lists for {segments} segments")
    if any(one.length > longest_list_bytes(entry.list_length) for one in entry.parts):
        raise SnapshotDamaged(f"snapshot {entry.id} has a list that is too long")


def expected_references(entry: SnapshotEntry, number: int) -> int:
    """Return how many references list `number` must have."""
    segments = -(-entry.index_size // entry.segment_size)
    return min(entry.list_length, segments - number * entry.list_length)


@contextlib.contextmanager
def as_snapshot_damage(entry: SnapshotEntry) -> Iterator[None]:
    """Raise errors about missing or wrong objects as damage of this snapshot."""
    try:
        yield
    except (ObjectMissing, ObjectTooShort, ObjectDamaged, EntryError) as error:
        raise SnapshotDamaged(f"snapshot {entry.id} is incomplete: {error}") from error
    except ObjectArchived as error:
        raise SnapshotArchived(f"snapshot {entry.id} cannot be read: {error}") from error
    except SnapshotDamaged as error:
        raise SnapshotDamaged(f"snapshot {entry.id}: {error}") from error


@contextlib.contextmanager
def local_disk_errors(what: str) -> Iterator[None]:
    """Raise errors of the local disk as `SnapshotError`."""
    try:
        yield
    except OSError as error:
        raise SnapshotError(f"cannot write the {what} to the local disk: {error}") from error
