# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests for gc and fsck."""

from types import MappingProxyType
from typing import Any, Final

import attrs

from cas3fs.control.messages.base import Request
from cas3fs.maintenance.gc.request import GcResult, GcSettings

_GC: Final = GcSettings()


@attrs.frozen
class GcRequest(Request[GcResult]):
    """Delete what is not referenced."""

    verb = "gc"
    reply = GcResult
    constants = MappingProxyType({"dry_run": False})
    min_live: float = _GC.min_live
    max_rewrite_bytes: int | None = None
    grace_s: float = _GC.grace_s
    reencrypt: bool = False


@attrs.frozen
class GcPlanReply:
    """What a gc would do; sizes are in bytes, and packs are counted, not named."""

    dead_blocks: int
    dead_block_bytes: int
    dead_packs: int
    dead_pack_bytes: int
    free_packs: int
    free_bytes: int
    held: list[dict[str, Any]]
    rewrite_packs: int
    rewrite_bytes: int
    rewrite_frees_bytes: int
    stray_bytes: int
    strays: dict[str, int]
    requests: dict[str, float]
    left: list[dict[str, Any]] = attrs.field(factory=list)


@attrs.frozen
class GcPlanRequest(Request[GcPlanReply]):
    """Report what a gc would do."""

    verb = "gc"
    reply = GcPlanReply
    constants = MappingProxyType({"dry_run": True})
    min_live: float = _GC.min_live
    max_rewrite_bytes: int | None = None
    grace_s: float = _GC.grace_s
    reencrypt: bool = False


@attrs.frozen
class FsckReply:
    """The exit status, as of fsck(8), and how often each code was found; the findings themselves come as progress."""

    status: int
    codes: dict[str, int]
    verified: dict[str, Any] | None
    checked: dict[str, Any]
    lost: int


@attrs.frozen
class FsckRequest(Request[FsckReply]):
    """Check the volume, and with `repair` repair it."""

    verb = "fsck"
    reply = FsckReply
    repair: bool = False
    verify_data: bool = False
    max_duration_s: float | None = None
