# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests about the mount itself: its state, storing and publishing, its end, and statistics."""

from typing import Any

import attrs

from cas3fs.control.messages.base import SENT_AS_NULL, EmptyReply, Request


@attrs.frozen
class StatusReply:
    """Which process serves what; `pending` is what is not in the store yet."""

    pid: int
    url: str
    mountpoint: str
    read_only: bool
    pending: dict[str, Any]


@attrs.frozen
class StatusRequest(Request[StatusReply]):
    """Ask which process serves what."""

    verb = "status"
    reply = StatusReply


@attrs.frozen
class StoreRequest(Request[EmptyReply]):
    """Store everything that was written before; nothing is published unless files cannot be stored."""

    verb = "store"
    reply = EmptyReply


@attrs.frozen
class FlushReply:
    """The newest snapshot, and the files that could not be stored although others could."""

    snapshot: str
    unstored: list[dict[str, Any]] = attrs.field(factory=list)


@attrs.frozen
class FlushRequest(Request[FlushReply]):
    """Store everything that was written before, and publish a snapshot of it."""

    verb = "flush"
    reply = FlushReply
    name: str | None = None


@attrs.frozen
class EndReply:
    """How the volume was left: released with a snapshot, or held for files that could not be stored."""

    snapshot: str | None
    refused: int = 0
    """Files whose attributes the index did not accept."""
    unstored: list[dict[str, Any]] = attrs.field(factory=list)
    told: str = ""
    """Why it is held."""


@attrs.frozen
class EndRequest(Request[EndReply]):
    """Wait until the volume is unmounted, published and released."""

    verb = "end"
    reply = EndReply


@attrs.frozen
class StatsReply:
    """What a volume holds, as ``cas3fs stats --json`` prints it; see the manual for the meaning of each number."""

    url: str
    uuid: str
    label: str
    chunker: str
    compression: str
    files: int
    directories: int
    symlinks: int
    others: int
    logical_bytes: int
    chunks: int
    chunk_bytes: int
    blocks: int
    unique_bytes: int
    stored_bytes: int
    packs: int
    pack_bytes: int
    dedup_ratio: float
    compression_ratio: float
    snapshot: str | None
    dead_packs: int = 0
    dead_pack_bytes: int = 0
    cipher: str | None = None
    """None: the volume is not encrypted."""
    fingerprint: str | None = None
    """That of the root of an encrypted volume."""
    snapshot_bytes: int | None = attrs.field(default=None, metadata=SENT_AS_NULL)
    maintenance: dict[str, Any] = attrs.field(factory=dict)
    # what follows, only the process of a mount reports
    mountpoint: str | None = None
    read_only: bool | None = None
    read_only_reason: str | None = None
    not_on_disk_reason: str | None = None
    is_view: bool | None = None
    fenced: bool | None = None
    snapshot_gone: bool | None = None
    snapshots: dict[str, Any] | None = None
    troubles: dict[str, Any] | None = None
    pending: dict[str, Any] | None = None
    unstored: list[dict[str, Any]] | None = None
    process: dict[str, Any] | None = None
    kernel_requests: dict[str, int] | None = None


@attrs.frozen
class StatsRequest(Request[StatsReply]):
    """Count what the volume holds, and report what its mount has done."""

    verb = "stats"
    reply = StatsReply
