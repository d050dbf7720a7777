# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests: what is told of a snapshot, what one must satisfy before it is believed, and how errors are named."""

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
    ObjectMissing,
    ObjectTooShort,
    SnapshotArchived,
    SnapshotDamaged,
    SnapshotError,
    VolumeFormatError,
)
from cas3fs.snapshots.tree import most_list_bytes
from cas3fs.values import PagesNumber, SnapshotNumber

_LARGEST_SEGMENT_BYTES: Final = 1024 * 1024
_LONGEST_LIST: Final = 65535
NEW_PACK_BYTES: Final = "new_pack_bytes"
"""The fact that says how many bytes of packs were stored since the snapshot before."""


class SnapshotOrigin(NamedTuple):
    """Where a snapshot comes from."""

    lineage: UUID | None = None
    """The life of the local index that it is a copy of."""
    claim: UUID | None = None
    """The claim under which it is published."""


UNKNOWN_ORIGIN: Final = SnapshotOrigin()


@attrs.frozen
class SnapshotInfo:
    """What is told of a snapshot; sizes are in bytes."""

    id: str
    number: SnapshotNumber
    parent: str | None
    name: str | None
    time: datetime
    index_size: int
    new_size: int
    """What it added to the store, without the manifest and packs."""
    facts: Mapping[str, int]
    pages: tuple[PagesUse, ...]
    """The pages entries that it needs."""
    restored: str | None = None
    """The older snapshot that this one made the head again."""
    claim: UUID | None = None
    """The claim under which it was published; None where an earlier version did."""
    digest: str = ""
    """BLAKE3 of the manifest's bytes, in hex digits."""
    bypassed: tuple[str, ...] = ()
    """The damaged snapshots that the line has gone around."""
    stored_at: datetime | None = None
    """When the manifest was stored, by the store's clock; None where that was not asked for."""


def info_of(entry: SnapshotEntry, digest: str) -> SnapshotInfo:
    """What is told of the snapshot of that manifest, whose bytes have that digest."""
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
        claim=entry.claim,
        digest=digest,
    )


def snapshots_of_pages(pages: Iterable[str]) -> set[str]:
    """The ids of the snapshots for which those pages entries were stored; what is none is passed over."""
    found = set()
    for one in pages:
        with contextlib.suppress(ValueError):
            found.add(str(PagesNumber.parse(one).snapshot))
    return found


def bypassed_by(infos: Iterable[SnapshotInfo]) -> set[str]:
    """The ids of damaged snapshots that any of these went around: only a person deletes them."""
    return {one for info in infos for one in info.bypassed}


def snapshots_named_by(infos: Iterable[SnapshotInfo]) -> set[str]:
    """The ids of snapshots that manifests tell of."""
    infos = tuple(infos)
    named = {one for info in infos for one in (info.parent, info.restored) if one is not None}
    return named | snapshots_of_pages(use.id for info in infos for use in info.pages)


def check_snapshot_id(snapshot_id: str) -> str:
    """`snapshot_id`, if it is one.

    Raises:
        VolumeFormatError: it is not.
    """
    try:
        if str(SnapshotNumber.parse(snapshot_id)) == snapshot_id:
            return snapshot_id
    except ValueError:
        pass
    raise VolumeFormatError(
        f"{snapshot_id!r} is not the id of a snapshot, such as 00000007-0000000123: `cas3fs snapshot list` shows them"
    )


def check_sizes(entry: SnapshotEntry) -> None:
    """The sizes that a manifest names fit each other, so that nothing is allocated on a wrong one's word.

    Raises:
        SnapshotDamaged: they do not.
    """
    segment_ok = 512 <= entry.segment_size <= _LARGEST_SEGMENT_BYTES
    if not segment_ok or not 1 <= entry.list_length <= _LONGEST_LIST:
        raise SnapshotDamaged(f"snapshot {entry.id} has segments of {entry.segment_size} bytes")
    segments = -(-entry.index_size // entry.segment_size)
    if len(entry.parts) != -(-segments // entry.list_length):
        raise SnapshotDamaged(f"snapshot {entry.id} has {len(entry.parts)} lists for {segments} segments")
    if any(one.length > most_list_bytes(entry.list_length) for one in entry.parts):
        raise SnapshotDamaged(f"snapshot {entry.id} has a list that is longer than lists can be")


def references_in(entry: SnapshotEntry, number: int) -> int:
    """How many references list `number` has to have."""
    segments = -(-entry.index_size // entry.segment_size)
    return min(entry.list_length, segments - number * entry.list_length)


@contextlib.contextmanager
def as_snapshot_damage(entry: SnapshotEntry) -> Iterator[None]:
    """What is missing or wrong in the store is damage of this snapshot."""
    try:
        yield
    except (ObjectMissing, ObjectTooShort, EntryError) as error:
        raise SnapshotDamaged(f"snapshot {entry.id} is incomplete: {error}") from error
    except ObjectArchived as error:
        raise SnapshotArchived(f"snapshot {entry.id} cannot be read: {error}") from error
    except SnapshotDamaged as error:
        raise SnapshotDamaged(f"snapshot {entry.id}: {error}") from error


@contextlib.contextmanager
def local_disk_errors(what: str) -> Iterator[None]:
    """What fails on the local disk is a failure of the snapshot."""
    try:
        yield
    except OSError as error:
        raise SnapshotError(f"the {what} cannot be written on the local disk: {error}") from error
