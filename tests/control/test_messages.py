# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of every request and reply on the socket: other versions of cas3fs read and send it."""

from typing import Any

import attrs
import pytest

from cas3fs.commands.requests import OPERATIONS
from cas3fs.control.conversion import decode_reply, decode_request, encode_args, encode_reply
from cas3fs.control.messages.base import EmptyReply, Request
from cas3fs.control.messages.maintenance import FsckReply, FsckRequest, GcPlanReply, GcPlanRequest, GcRequest
from cas3fs.control.messages.mount import (
    EndReply,
    EndRequest,
    FlushReply,
    FlushRequest,
    StatsReply,
    StatsRequest,
    StatusReply,
    StatusRequest,
    StoreRequest,
)
from cas3fs.control.messages.snapshots import (
    CreateSnapshotRequest,
    DeleteSnapshotsReply,
    DeleteSnapshotsRequest,
    ListSnapshotsReply,
    ListSnapshotsRequest,
    PolicyRequest,
    PruneReply,
    PruneRequest,
    RestorePathReply,
    RestorePathRequest,
    ShowSnapshotRequest,
    SnapshotReply,
)
from cas3fs.control.messages.usage import UsageReply, UsageRequest
from cas3fs.errors import ControlError
from cas3fs.maintenance.gc.request import GcResult
from cas3fs.snapshots.policy import RetentionPolicy

POLICY = RetentionPolicy(within_s=60, last=2, names=("v*",))
ID = "00000001-0000000002"
REQUESTS: list[tuple[Request[Any], str, dict[str, Any]]] = [
    (StatusRequest(), "status", {}),
    (StoreRequest(), "store", {}),
    (FlushRequest(), "flush", {"name": None}),
    (EndRequest(), "end", {}),
    (StatsRequest(), "stats", {}),
    (UsageRequest([7], ["/a"], 2), "du", {"inodes": [7], "paths": ["/a"], "depth": 2}),
    (
        GcRequest(0.5, 10, 60.0),
        "gc",
        {"dry_run": False, "min_live": 0.5, "max_rewrite_bytes": 10, "grace_s": 60.0, "reencrypt": False},
    ),
    (
        GcPlanRequest(),
        "gc",
        {"dry_run": True, "min_live": 0.7, "max_rewrite_bytes": None, "grace_s": 3600.0, "reencrypt": False},
    ),
    (
        FsckRequest(repair=True, max_duration_s=60.0),
        "fsck",
        {"repair": True, "verify_data": False, "max_duration_s": 60.0},
    ),
    (ListSnapshotsRequest(), "snapshots", {}),
    (ShowSnapshotRequest(ID), "snapshot-show", {"id": ID}),
    (CreateSnapshotRequest("v1"), "snapshot-create", {"name": "v1"}),
    (DeleteSnapshotsRequest([ID]), "snapshot-delete", {"ids": [ID]}),
    (RestorePathRequest("latest", "a/b", "c"), "restore-path", {"snapshot": "latest", "path": "a/b", "folder": "c"}),
    (
        PruneRequest(POLICY, dry_run=True),
        "snapshot-prune",
        {"policy": {"within_s": 60, "last": 2, "names": ("v*",)}, "dry_run": True},
    ),
    (PruneRequest(), "snapshot-prune", {"policy": None, "dry_run": False}),
    (PolicyRequest(), "snapshot-policy", {"policy": None}),
]
COUNTS = {
    "url": "file:///v", "uuid": "u", "label": "", "chunker": "fastcdc", "compression": "zstd:3", "files": 1,
    "directories": 1, "symlinks": 0, "others": 0, "logical_bytes": 1, "chunks": 1, "chunk_bytes": 1, "blocks": 1,
    "unique_bytes": 1, "stored_bytes": 1, "packs": 1, "pack_bytes": 1, "dead_packs": 0, "dead_pack_bytes": 0,
    "dedup_ratio": 1.0, "compression_ratio": 1.0, "snapshot": ID, "maintenance": {},
}  # fmt: skip
OF_MOUNT = {
    "mountpoint": "/mnt", "read_only": False, "read_only_reason": "", "not_on_disk_reason": "", "is_view": False,
    "fenced": False, "snapshot_gone": False, "snapshots": {"newest_age_s": 1.5}, "troubles": {},
    "pending": {"files": 0}, "unstored": [], "process": {"reader.misses": 1},
}  # fmt: skip
SNAPSHOT = {
    "id": ID, "name": None, "time": "2026-01-01T00:00:00+00:00", "epoch": 1, "sequence": 2, "parent": None,
    "restored": None, "files": 1, "logical_bytes": 1, "new_bytes": 1, "new_index_bytes": 1, "index_bytes": 1,
    "newest": True, "off_line": False,
}  # fmt: skip
GC_RESULT = {
    "dropped_blocks": 1, "deleted_packs": 1, "freed_bytes": 1, "deleted_strays": 1, "stray_bytes": 1,
    "rewritten_packs": 1, "rewritten_bytes": 1, "held_bytes": 1, "strays_left": 1, "snapshot": ID,
    "hurt_snapshots": [ID], "refused_objects": 0, "unreadable_packs": 0, "left": [{"packs": 1}], "problems": ["text"],
    "reencryption": {"dropped": [1]},
}  # fmt: skip
GC_PLAN = {
    "dead_blocks": 1, "dead_block_bytes": 1, "dead_packs": 1, "dead_pack_bytes": 1, "free_packs": 1, "free_bytes": 1,
    "held": [{"snapshot": ID}], "rewrite_packs": 1, "rewrite_bytes": 1, "rewrite_frees_bytes": 1, "stray_bytes": 1,
    "strays": {"deletable": 1}, "requests": {"puts": 1, "price_usd": 0.1}, "left": [],
}  # fmt: skip
REPLIES: list[tuple[Request[Any], type, dict[str, Any]]] = [
    (StoreRequest(), EmptyReply, {}),
    (
        StatusRequest(),
        StatusReply,
        {"pid": 1, "url": "u", "mountpoint": "/mnt", "read_only": False, "pending": {"files": 0}},
    ),
    (FlushRequest(), FlushReply, {"snapshot": ID, "unstored": [{"path": "/a", "reason": "full"}]}),
    (EndRequest(), EndReply, {"snapshot": None, "refused": 0, "unstored": [{"path": "/a"}], "told": "why"}),
    (StatsRequest(), StatsReply, COUNTS | {"snapshot_bytes": 5}),
    (StatsRequest(), StatsReply, COUNTS | OF_MOUNT | {"snapshot_bytes": None}),
    (UsageRequest([], []), UsageReply, {"count": 2}),
    (GcRequest(), GcResult, GC_RESULT),
    (GcPlanRequest(), GcPlanReply, GC_PLAN),
    (
        FsckRequest(),
        FsckReply,
        {"status": 4, "codes": {"pack-missing": 1}, "verified": None, "checked": {"index": "local"}, "lost": 0},
    ),
    (ListSnapshotsRequest(), ListSnapshotsReply, {"count": 2}),
    (ShowSnapshotRequest(ID), SnapshotReply, SNAPSHOT | {"facts": {"files": 1}, "pages": [{"id": ID}]}),
    (CreateSnapshotRequest(), SnapshotReply, SNAPSHOT | {"facts": {}, "pages": [], "unstored": []}),
    (
        RestorePathRequest("latest", "a", ""),
        RestorePathReply,
        {"snapshot": ID, "name": ".hidden", "files": 2, "logical_bytes": 3},
    ),
    (DeleteSnapshotsRequest([]), DeleteSnapshotsReply, {"removed": [ID], "pages_removed": 1, "bytes_freed": 1}),
    (
        PruneRequest(),
        PruneReply,
        {"kept": [{"id": ID}], "removed": [], "pages_removed": 0, "bytes_freed": 0, "dry_run": True},
    ),
    (
        PolicyRequest(),
        RetentionPolicy,
        {"within_s": 60, "last": 2, "hourly": 0, "daily": 0, "weekly": 0, "monthly": 0, "names": ["v*"]},
    ),
]


def plain(value: Any) -> Any:
    """With lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(("request_", "verb", "args"), REQUESTS, ids=lambda one: type(one).__name__)
def test_a_request_has_its_form_on_the_socket_and_is_read_from_it(
    request_: Request[Any], verb: str, args: dict[str, Any]
) -> None:
    assert (request_.verb, encode_args(request_)) == (verb, args)
    assert decode_request(OPERATIONS[verb]().requests, plain(args)) == request_


@pytest.mark.parametrize(("request_", "kind", "reply"), REPLIES, ids=lambda one: type(one).__name__)
def test_a_reply_has_its_form_on_the_socket_and_is_read_from_it(
    request_: Request[Any], kind: type, reply: dict[str, Any]
) -> None:
    decoded = decode_reply(request_, reply)
    assert type(decoded) is kind
    assert plain(encode_reply(decoded)) == reply


def test_every_request_and_reply_is_covered_here() -> None:
    table = {kind for load in OPERATIONS.values() for kind in load().requests}
    assert {type(request) for request, *_ in REQUESTS} == table
    assert {type(request) for request, *_ in REPLIES} == table
    assert all(kind.verb == verb for verb, load in OPERATIONS.items() for kind in load().requests)


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("flush", {"name": 5}),
        ("gc", {"min_live": "much"}),
        ("gc", {"grace_s": True}),
        ("fsck", {"repair": 1}),
        ("snapshot-show", {}),
        ("snapshot-delete", {"ids": "all"}),
        ("snapshot-delete", {"ids": [1]}),
        ("snapshot-prune", {"policy": {"last": "2"}}),
    ],
)
def test_a_request_with_a_wrong_or_missing_value_is_refused(verb: str, args: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match=f"^invalid request '{verb}': .* @ "):
        decode_request(OPERATIONS[verb]().requests, args)


def test_a_rule_that_is_not_known_is_refused_as_the_policy_would_delete_what_it_keeps() -> None:
    with pytest.raises(ControlError, match="yearly"):
        decode_request((PruneRequest,), {"policy": {"yearly": 3}})


def test_what_another_version_lacks_is_one_clear_line() -> None:
    with pytest.raises(ControlError, match=r"another version of cas3fs .*snapshot\): unmount the volume and mount it"):
        decode_reply(FlushRequest(), {})


def test_a_key_that_is_not_known_is_ignored() -> None:
    assert decode_reply(ListSnapshotsRequest(), {"count": 1, "newer": True}) == ListSnapshotsReply(1)
    assert decode_request((StatusRequest,), {"newer": 1}) == StatusRequest()


def test_a_reply_of_the_oldest_version_lacks_what_has_a_default() -> None:
    required = {field.name for field in attrs.fields(StatsReply) if field.default is attrs.NOTHING}
    decoded = decode_reply(StatsRequest(), {name: value for name, value in COUNTS.items() if name in required})
    assert (decoded.dead_packs, decoded.process) == (0, None)
