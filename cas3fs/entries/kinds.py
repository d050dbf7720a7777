# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of object in a volume, with all attributes, coercers and defaults.

Attributes without a default are required. Sizes are in bytes, times in UTC. Kinds and the names of attributes are
formats: they never change.
"""

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from cas3fs.entries.attributes import attribute, entry_kind
from cas3fs.entries.coercers import (
    optional,
    to_boolean,
    to_bytes,
    to_counts,
    to_natural,
    to_string,
    to_timestamp,
    to_uuid,
    tuple_of,
)
from cas3fs.entries.entry import Entry, IdSource
from cas3fs.entries.nodes import NodeEntry

VOLUME_ID = "volume"
RELEASED_ID = "released"
BASE_ID = "base"
PLAIN_FORMAT = 1
ENCRYPTED_FORMAT = 2
VOLUME_FORMAT = ENCRYPTED_FORMAT
"""The newest format of a volume that this version reads and writes."""


@entry_kind
class VolumeEntry(Entry):
    """``volume``: what mkfs decided, for good."""

    kind: ClassVar[str] = "volume"
    id: str = VOLUME_ID

    uuid: UUID = attribute(to_uuid, metadata=True)
    format: int = attribute(to_natural, metadata=True)
    created: datetime = attribute(to_timestamp, metadata=True)
    chunker: str = attribute(to_string)
    block_size: int = attribute(to_natural)
    pack_size: int = attribute(to_natural)
    compression: str = attribute(to_string)
    label: str = attribute(to_string, default="", metadata=True)
    fenced: bool = attribute(to_boolean, default=True)
    """The format's name for `conditional_writes`."""
    cipher: str | None = attribute(optional(to_string), default=None)
    """What the volume is encrypted with (`cas3fs.encryption.ciphers`); None: it is not."""

    @property
    def conditional_writes(self) -> bool:
        """Whether the store honours conditional writes, so that two writers never both claim an epoch."""
        return self.fenced


@entry_kind
class ForkEntry(Entry):
    """``forks/00000001``: a copy of a volume has become a separate volume.

    The entry with the greatest id holds. Ids begin with 1 and leave no gaps, so that entries can be read by their ids.
    """

    kind: ClassVar[str] = "fork"
    folder: ClassVar[str] = "forks"

    uuid: UUID = attribute(to_uuid, metadata=True)
    """The uuid of the volume from now on."""
    was: UUID = attribute(to_uuid, metadata=True)
    time: datetime = attribute(to_timestamp, metadata=True)

    @staticmethod
    def id_of(number: int) -> str:
        """The id of a fork."""
        return f"{number:08d}"


@entry_kind
class KeyEntry(Entry):
    """``keys/<random>``: one way to open an encrypted volume: its root, sealed (`cas3fs.encryption.key_entries`)."""

    kind: ClassVar[str] = "key"
    folder: ClassVar[str] = "keys"
    ids: ClassVar[IdSource] = IdSource.RANDOM

    method: str = attribute(to_string)
    """What opens it: ``passphrase``, ``key-file``, ``recovery`` or ``kms``."""
    created: datetime = attribute(to_timestamp)
    root: str = attribute(to_string)
    """The fingerprint of the root."""
    salt: bytes = attribute(to_bytes)
    argon2: Mapping[str, int] = attribute(to_counts, default={})
    """Of a passphrase: ``memory_kib``, ``iterations`` and ``lanes`` of Argon2id."""
    kms_key: str | None = attribute(optional(to_string), default=None)
    """The name (ARN) of the key of AWS KMS, which decrypts `kms_data_key`."""
    kms_data_key: bytes = attribute(to_bytes, default=b"")
    commitment: bytes = attribute(to_bytes)
    sealed: bytes = attribute(to_bytes)
    note: bytes = attribute(to_bytes, default=b"")
    """What its owner calls it, sealed with a key that is derived from the root."""


@entry_kind
class KeyringEntry(Entry):
    """``keyring/00000001-<fingerprint of the root>``: all keys, sealed with the root (`cas3fs.encryption.keyring`).

    Of those with one root, the entry with the greatest number holds.
    """

    kind: ClassVar[str] = "keyring"
    folder: ClassVar[str] = "keyring"

    sequence: int = attribute(to_natural)
    created: datetime = attribute(to_timestamp)
    salt: bytes = attribute(to_bytes)
    commitment: bytes = attribute(to_bytes)
    sealed: bytes = attribute(to_bytes)

    @staticmethod
    def id_of(sequence: int, root: str) -> str:
        """The id of a keyring."""
        return f"{sequence:08d}-{root}"


@entry_kind
class EpochEntry(Entry):
    """``epochs/00000007``: one writer's claim; ``epochs/00000007-<claim>`` where the store ignores conditions."""

    kind: ClassVar[str] = "epoch"
    folder: ClassVar[str] = "epochs"

    epoch: int = attribute(to_natural, metadata=True)
    claim: UUID = attribute(to_uuid, metadata=True)
    host: str = attribute(to_string)
    user: str = attribute(to_string)
    pid: int = attribute(to_natural)
    boot_id: str = attribute(to_string, default="")
    machine: str = attribute(to_string, default="")
    board: str = attribute(to_string, default="")
    """``machine`` and ``board`` are hashes that identify the machine (`cas3fs.epochs.identity`), or empty."""
    time: datetime = attribute(to_timestamp, metadata=True)
    took_over: str | None = attribute(optional(to_string), default=None)
    """The key of the unreleased epoch that this one took over."""
    overruled: tuple[int, ...] | None = attribute(optional(tuple_of(to_natural)), default=None)
    """The earlier epochs that were taken over and not released by then; None where that is unknown."""
    bases: tuple[int, ...] | None = attribute(optional(tuple_of(to_natural)), default=None)
    """The earlier epochs that have a base entry; None where that is unknown."""
    unsettled: bool = attribute(to_boolean, default=False)
    """An earlier writer took over and wrote no base entry, so this one writes it in its place."""
    handover: str | None = attribute(optional(to_string), default=None)
    """The key of the epoch with the last release before this claim; its snapshots must exist."""


@entry_kind
class ReleaseEntry(Entry):
    """``epochs/00000007.released``: the sub-entry with which a writer releases its epoch."""

    kind: ClassVar[str] = "release"
    id: str = RELEASED_ID

    claim: UUID = attribute(to_uuid, metadata=True)
    time: datetime = attribute(to_timestamp, metadata=True)
    snapshot: str | None = attribute(optional(to_string), default=None)
    """The id of the newest snapshot: the next writer reads it by its id, whatever a listing shows. None where there was
    no snapshot, or where an older cas3fs released the epoch."""
    retained: tuple[str, ...] = attribute(tuple_of(to_string), default=())
    """The ids of the snapshots that existed."""


@entry_kind
class BaseEntry(Entry):
    """``epochs/00000007.base``: the sub-entry in which a writer that took over records the snapshot it started from.

    Snapshots that earlier epochs publish later have diverged (`cas3fs.snapshots.divergence`).
    """

    kind: ClassVar[str] = "base"
    id: str = BASE_ID

    epoch: int = attribute(to_natural)
    snapshot: str | None = attribute(optional(to_string), default=None)
    """The id of the newest snapshot that the writer found; None where there was none."""


@entry_kind
class PolicyEntry(Entry):
    """``policies/00000003``: which snapshots are kept; the entry with the greatest id holds.

    Where the store ignores conditions a random number follows: ``policies/00000003-<32 hex digits>``.
    """

    kind: ClassVar[str] = "policy"
    folder: ClassVar[str] = "policies"

    time: datetime = attribute(to_timestamp)
    keep: Mapping[str, int] = attribute(to_counts)
    """The numbers of the rules of `cas3fs.snapshots.retention`."""
    keep_names: tuple[str, ...] = attribute(tuple_of(to_string))
    """Patterns of names, as in a shell."""


@entry_kind
class CopyEntry(Entry):
    """``copies/00000001``: the volume was made to hold a copy of another one (`cas3fs.copying`)."""

    kind: ClassVar[str] = "copy"
    folder: ClassVar[str] = "copies"

    source: UUID = attribute(to_uuid)
    """The uuid of the other volume."""
    started: datetime = attribute(to_timestamp)


@entry_kind
class PackEntry(Entry):
    """``packs/00000007/3f9c...``: a pack of blocks (`cas3fs.blocks.packs`); the id ends with its hash."""

    kind: ClassVar[str] = "pack"
    folder: ClassVar[str] = "packs"
    framed: ClassVar[bool] = False

    blocks: int | None = attribute(optional(to_natural), default=None, metadata=True)


class PagesUse(NamedTuple):
    """How much a snapshot uses of a pages entry: `live_size` of its `total_size` bytes."""

    id: str
    live_size: int
    total_size: int


def _to_pages_use(value: Any) -> PagesUse:
    if not isinstance(value, list | tuple) or len(value) != len(PagesUse._fields):
        raise TypeError("not the use of a pages entry")
    # many manifests refer to the same pages entries, and many are in memory at once
    return PagesUse(sys.intern(to_string(value[0])), to_natural(value[1]), to_natural(value[2]))


@entry_kind
class SnapshotEntry(NodeEntry):
    """``snapshots/00000007-0000000123``: the manifest of a snapshot.

    Its parts are the lists of segment references, each in a pages entry; the format of lists and segments is that of
    `cas3fs.snapshots.tree`.
    """

    kind: ClassVar[str] = "snapshot"
    folder: ClassVar[str] = "snapshots"

    epoch: int = attribute(to_natural, metadata=True)
    sequence: int = attribute(to_natural, metadata=True)
    parent: str | None = attribute(optional(to_string), default=None, metadata=True)
    name: str | None = attribute(optional(to_string), default=None, metadata=True)
    time: datetime = attribute(to_timestamp, metadata=True)
    index_size: int = attribute(to_natural, metadata=True)
    segment_size: int = attribute(to_natural)
    list_length: int = attribute(to_natural)
    """The number of segments of a list; the last list may have fewer."""
    pages: tuple[PagesUse, ...] = attribute(tuple_of(_to_pages_use))
    """Every pages entry that contains lists or segments of this snapshot."""
    seals: tuple[str, ...] = attribute(tuple_of(to_string), default=())
    """For each of `pages`, in an encrypted volume: its header in hex (`cas3fs.encryption.sealing`), or an empty text.
    """
    new_size: int = attribute(to_natural, default=0, metadata=True)
    """How many bytes this snapshot added to the store, without the manifest."""
    restored: str | None = attribute(optional(to_string), default=None)
    """The older snapshot that this one restored as the head; the parent is the previous head."""
    copied: str | None = attribute(optional(to_string), default=None)
    """The id of the snapshot of another volume that this one is a copy of; `CopyEntry` says which volume."""
    lineage: UUID | None = attribute(optional(to_uuid), default=None)
    """Identifies the local index that it was made of (`cas3fs.volume.comparison`)."""
    claim: UUID | None = attribute(optional(to_uuid), default=None)
    """The claim of the writer that published it."""
    around: tuple[str, ...] = attribute(tuple_of(to_string), default=())
    """The ids of damaged snapshots that were skipped: they are kept, with everything that they may need."""
    whole_at: datetime | None = attribute(optional(to_timestamp), default=None)
    """When the last snapshot that refers to no pages of earlier ones was stored, among the ancestors of this one."""
    since_size: int = attribute(to_natural, default=0)
    """How many bytes the snapshots since then, with this one, have added in place of older ones, without manifests."""
    facts: Mapping[str, int] = attribute(to_counts, default={})
    """Figures of the file system at that moment, such as the numbers of files and logical bytes."""


@entry_kind
class PagesEntry(Entry):
    """``pages/00000007-0000000123``: the segments and lists that were new in that snapshot.

    Where they are many, further parts are ``pages/00000007-0000000123-000001`` and so on. Manifests and lists refer to
    the data by offsets in the object.
    """

    kind: ClassVar[str] = "pages"
    folder: ClassVar[str] = "pages"

    epoch: int = attribute(to_natural, metadata=True)
    sequence: int = attribute(to_natural, metadata=True)
    part: int = attribute(to_natural, default=0)
    time: datetime = attribute(to_timestamp)


@entry_kind
class PartEntry(Entry):
    """``parts/<BLAKE3>``: a part of the data of nodes, in an object of its own."""

    kind: ClassVar[str] = "part"
    folder: ClassVar[str] = "parts"
    ids: ClassVar[IdSource] = IdSource.CONTENT
    framed: ClassVar[bool] = False


ALL_KINDS: tuple[type[Entry], ...] = (
    VolumeEntry,
    ForkEntry,
    KeyEntry,
    KeyringEntry,
    EpochEntry,
    ReleaseEntry,
    BaseEntry,
    PolicyEntry,
    CopyEntry,
    PackEntry,
    SnapshotEntry,
    PagesEntry,
    PartEntry,
)
