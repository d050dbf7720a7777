# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests about the snapshots of a volume."""

from typing import Any

import attrs

from cas3fs.control.messages.base import Request
from cas3fs.snapshots.policy import RetentionPolicy


@attrs.frozen
class ListSnapshotsReply:
    """How many snapshots there are; they come as progress, each a `SnapshotReply` and its sizes.

    ``added_bytes`` is what it needs and no snapshot before it that is still there, packs and index; ``frees_bytes`` is
    what only it needs, so that the next gc after its deletion frees it. Both are null where that is not known.
    """

    count: int


@attrs.frozen
class ListSnapshotsRequest(Request[ListSnapshotsReply]):
    """List the snapshots, ascending."""

    verb = "snapshots"
    reply = ListSnapshotsReply


@attrs.frozen
class SnapshotReply:
    """One snapshot; sizes are in bytes."""

    id: str
    name: str | None
    time: str
    epoch: int
    sequence: int
    parent: str | None
    restored: str | None
    files: int
    logical_bytes: int
    new_bytes: int
    new_index_bytes: int
    index_bytes: int
    newest: bool
    off_line: bool
    """Whether a writer published it that had been taken over from."""
    facts: dict[str, Any] | None = None
    """Counts of what it holds; not in a listing."""
    pages: list[dict[str, Any]] | None = None
    """The pages objects that it needs; not in a listing."""
    unstored: list[dict[str, Any]] | None = None
    """Files that could not be stored although others could; only of a snapshot that was made just now."""


@attrs.frozen
class ShowSnapshotRequest(Request[SnapshotReply]):
    """Show one snapshot."""

    verb = "snapshot-show"
    reply = SnapshotReply
    id: str
    """Its id, or what else selects it (`cas3fs.snapshots.selection`)."""


@attrs.frozen
class CreateSnapshotRequest(Request[SnapshotReply]):
    """Publish a snapshot, even when nothing has changed."""

    verb = "snapshot-create"
    reply = SnapshotReply
    name: str | None = None


@attrs.frozen
class RestorePathReply:
    """How much was restored, and its hidden name in the folder."""

    snapshot: str
    name: str
    files: int
    """Files, folders and all else."""
    logical_bytes: int


@attrs.frozen
class RestorePathRequest(Request[RestorePathReply]):
    """Enter a file or tree of a snapshot in a folder, under a name that nothing has; the client renames it.

    A mount enters it under a hidden name, so that the kernel learns of the real one by the rename.
    """

    verb = "restore-path"
    reply = RestorePathReply
    snapshot: str
    """Its id, or what else selects it."""
    path: str
    """Within the volume."""
    folder: str
    """The folder to enter it in, within the volume."""


@attrs.frozen
class DeleteSnapshotsReply:
    """What was deleted."""

    removed: list[str]
    pages_removed: int
    bytes_freed: int


@attrs.frozen
class DeleteSnapshotsRequest(Request[DeleteSnapshotsReply]):
    """Delete snapshots."""

    verb = "snapshot-delete"
    reply = DeleteSnapshotsReply
    ids: list[str]
    """Their ids, or what else selects each."""


@attrs.frozen
class PruneReply:
    """Which snapshots the policy keeps, and which were or would be deleted."""

    kept: list[dict[str, Any]]
    removed: list[str]
    pages_removed: int
    bytes_freed: int
    dry_run: bool


@attrs.frozen
class PruneRequest(Request[PruneReply]):
    """Delete the snapshots that `policy`, or else the volume's own, does not keep."""

    verb = "snapshot-prune"
    reply = PruneReply
    policy: RetentionPolicy | None = None
    dry_run: bool = False


@attrs.frozen
class PolicyRequest(Request[RetentionPolicy]):
    """Return the volume's retention policy, after replacing it by `policy` where one is given."""

    verb = "snapshot-policy"
    reply = RetentionPolicy
    policy: RetentionPolicy | None = None
