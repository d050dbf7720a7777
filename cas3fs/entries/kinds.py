# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of object in a volume, with every attribute, coercer and default.

Attributes without a default are required. Sizes are in bytes, times in UTC.
"""

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from cas3fs.entries.attributes import attribute, stored_kind
from cas3fs.entries.coercers import counts, flag, identifier, moment, natural, optional, sequence_of, text
from cas3fs.entries.entry import Entry, IdSource
from cas3fs.entries.nodes import NodeEntry

VOLUME_ID = "volume"
RELEASED_ID = "released"
BASE_ID = "base"
VOLUME_FORMAT = 1
"""The newest format of a volume that this version reads and writes."""


@stored_kind
class VolumeEntry(Entry):
    """``volume``: what was decided at mkfs, for good."""

    kind: ClassVar[str] = "volume"
    id: str = VOLUME_ID

    uuid: UUID = attribute(identifier, metadata=True)
    format: int = attribute(natural, metadata=True)
    created: datetime = attribute(moment, metadata=True)
    chunker: str = attribute(text)
    block_size: int = attribute(natural)
    pack_size: int = attribute(natural)
    compression: str = attribute(text)
    label: str = attribute(text, default="", metadata=True)
    fenced: bool = attribute(flag, default=True)
    """The store honours create-if-absent, so that two writers never both claim an epoch."""


@stored_kind
class ForkEntry(Entry):
    """``forks/00000001``: a copy of a volume has become a volume of its own; the greatest id counts. Numbers begin with
    1, and none is left out, so that they can be asked for by name."""

    kind: ClassVar[str] = "fork"
    folder: ClassVar[str] = "forks"

    uuid: UUID = attribute(identifier, metadata=True)
    """Of the volume from now on."""
    was: UUID = attribute(identifier, metadata=True)
    time: datetime = attribute(moment, metadata=True)

    @staticmethod
    def id_of(number: int) -> str:
        """The id of a fork's number."""
        return f"{number:08d}"


@stored_kind
class EpochEntry(Entry):
    """``epochs/00000007``: one writer's claim; ``epochs/00000007-<claim>`` where the store ignores conditions."""

    kind: ClassVar[str] = "epoch"
    folder: ClassVar[str] = "epochs"

    epoch: int = attribute(natural, metadata=True)
    claim: UUID = attribute(identifier, metadata=True)
    host: str = attribute(text)
    user: str = attribute(text)
    pid: int = attribute(natural)
    boot_id: str = attribute(text, default="")
    machine: str = attribute(text, default="")
    board: str = attribute(text, default="")
    """Hashes of what is known of the machine (`cas3fs.epochs.identity`); empty where it is not."""
    time: datetime = attribute(moment, metadata=True)
    took_over: str | None = attribute(optional(text), default=None)
    """Key of the unreleased epoch that this one took over."""
    overruled: tuple[int, ...] | None = attribute(optional(sequence_of(natural)), default=None)
    """The epochs before that were taken over and not released by then; None where that was not found out."""
    bases: tuple[int, ...] | None = attribute(optional(sequence_of(natural)), default=None)
    """The epochs before that have a base; None where that was not found out."""
    unsettled: bool = attribute(flag, default=False)
    """A writer before took over and left no base, so this one writes a base as if it had taken over itself."""
    handover: str | None = attribute(optional(text), default=None)
    """Key of the epoch with the last release before this claim, whose snapshots must be there."""


@stored_kind
class ReleaseEntry(Entry):
    """``epochs/00000007.released``: the sub-entry with which a writer gives its epoch back."""

    kind: ClassVar[str] = "release"
    id: str = RELEASED_ID

    claim: UUID = attribute(identifier, metadata=True)
    time: datetime = attribute(moment, metadata=True)
    snapshot: str | None = attribute(optional(text), default=None)
    """Id of the newest snapshot: the next writer asks for it by name, whatever a listing shows. None where there was
    none, or where an older cas3fs released."""
    retained: tuple[str, ...] = attribute(sequence_of(text), default=())
    """Ids of the snapshots that were there."""


@stored_kind
class BaseEntry(Entry):
    """``epochs/00000007.base``: the sub-entry in which a writer who took over says where it went on from. Whatever
    earlier epochs publish after that is not on the line of writers (`cas3fs.snapshots.divergence`)."""

    kind: ClassVar[str] = "base"
    id: str = BASE_ID

    epoch: int = attribute(natural)
    snapshot: str | None = attribute(optional(text), default=None)
    """Id of the newest snapshot that the writer found; none where there was none."""


@stored_kind
class PolicyEntry(Entry):
    """``policies/00000003``: which snapshots are kept; the greatest id is in force. Where the store ignores conditions
    a random number follows: ``policies/00000003-<32 hex digits>``."""

    kind: ClassVar[str] = "policy"
    folder: ClassVar[str] = "policies"

    time: datetime = attribute(moment)
    keep: Mapping[str, int] = attribute(counts)
    """Numbers by rule; the rules are those of `cas3fs.snapshots.retention`."""
    keep_names: tuple[str, ...] = attribute(sequence_of(text))
    """Patterns of names, as of a shell."""


@stored_kind
class PackEntry(Entry):
    """``packs/00000007/3f9c...``: blocks, in the format of `cas3fs.blocks.packs`; its hash ends the id."""

    kind: ClassVar[str] = "pack"
    folder: ClassVar[str] = "packs"
    framed: ClassVar[bool] = False

    blocks: int | None = attribute(optional(natural), default=None, metadata=True)


class PagesUse(NamedTuple):
    """How much a snapshot needs of a pages entry: `live_size` of its `total_size` bytes."""

    id: str
    live_size: int
    total_size: int


def _pages_use(value: Any) -> PagesUse:
    if not isinstance(value, list | tuple) or len(value) != len(PagesUse._fields):
        raise TypeError("not the use of a pages entry")
    # many manifests name the same pages, and many are held at once
    return PagesUse(sys.intern(text(value[0])), natural(value[1]), natural(value[2]))


@stored_kind
class SnapshotEntry(NodeEntry):
    """``snapshots/00000007-0000000123``: the manifest. Its parts are the lists of segment references, each in a pages
    entry; the format of lists and segments is that of `cas3fs.snapshots.tree`."""

    kind: ClassVar[str] = "snapshot"
    folder: ClassVar[str] = "snapshots"

    epoch: int = attribute(natural, metadata=True)
    sequence: int = attribute(natural, metadata=True)
    parent: str | None = attribute(optional(text), default=None, metadata=True)
    name: str | None = attribute(optional(text), default=None, metadata=True)
    time: datetime = attribute(moment, metadata=True)
    index_size: int = attribute(natural, metadata=True)
    segment_size: int = attribute(natural)
    list_length: int = attribute(natural)
    """Segments to a list; the last list may have fewer."""
    pages: tuple[PagesUse, ...] = attribute(sequence_of(_pages_use))
    """Every pages entry that the lists and their segments lie in."""
    new_size: int = attribute(natural, default=0, metadata=True)
    """What this snapshot added to the store, without the manifest."""
    restored: str | None = attribute(optional(text), default=None)
    """The older snapshot that this one made the head again; the parent is still the one that was the head before."""
    lineage: UUID | None = attribute(optional(identifier), default=None)
    """The life of the local index that it was made of (`cas3fs.volume.comparison`)."""
    claim: UUID | None = attribute(optional(identifier), default=None)
    """The claim under which it was published."""
    around: tuple[str, ...] = attribute(sequence_of(text), default=())
    """Ids of damaged snapshots that the line has gone around: they stay, with all that they may need."""
    whole_at: datetime | None = attribute(optional(moment), default=None)
    """When the last snapshot that refers to no pages of earlier ones was stored, of those that this one stems from."""
    since_size: int = attribute(natural, default=0)
    """What the snapshots after that one have added to the store, this one included, without manifests."""
    facts: Mapping[str, int] = attribute(counts, default={})
    """What is told of the file system at that moment: files, logical bytes and the like."""


@stored_kind
class PagesEntry(Entry):
    """``pages/00000007-0000000123``: the segments and lists that were new in that snapshot; where they are many, its
    further parts are ``pages/00000007-0000000123-000001`` and so on. Its data is found by the references in manifests
    and lists, which give offsets in the object."""

    kind: ClassVar[str] = "pages"
    folder: ClassVar[str] = "pages"

    epoch: int = attribute(natural, metadata=True)
    sequence: int = attribute(natural, metadata=True)
    part: int = attribute(natural, default=0)
    time: datetime = attribute(moment)


@stored_kind
class PartEntry(Entry):
    """``parts/<BLAKE3>``: a part of some node's data that lies in no other object."""

    kind: ClassVar[str] = "part"
    folder: ClassVar[str] = "parts"
    ids: ClassVar[IdSource] = IdSource.CONTENT
    framed: ClassVar[bool] = False


ALL_KINDS: tuple[type[Entry], ...] = (
    VolumeEntry,
    ForkEntry,
    EpochEntry,
    ReleaseEntry,
    BaseEntry,
    PolicyEntry,
    PackEntry,
    SnapshotEntry,
    PagesEntry,
    PartEntry,
)
