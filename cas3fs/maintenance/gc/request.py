# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a gc, and its result.

This module imports no other of cas3fs, since commands need it to ask a mount.
"""

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class GcSettings:
    """How a gc is done.

    Attributes:
        min_live: packs of which less is used are rewritten; 0 for none.
        max_rewrite_bytes: the most bytes that are copied; None for no limit.
        grace_s: orphans that are younger are left alone.
        reencrypt: whether what is sealed with older generations of the keys is sealed anew.
    """

    min_live: float = 0.7
    max_rewrite_bytes: int | None = None
    grace_s: float = 3600.0
    reencrypt: bool = False


@attrs.frozen
class GcResult:
    """What a gc has done; sizes are in bytes. The attributes are the keys of ``--json``, where orphans are "strays".

    Attributes:
        held_bytes: of dead packs that snapshots may still need.
        snapshot: the id of the newest snapshot.
        hurt_snapshots: snapshots of which the store has lost pages: they cannot be restored.
        refused_objects: how many objects the store refused to delete; a later gc tries again.
        unreadable_packs: how many sparsely used packs stay as they are, since a block in them cannot be read.
        left: sparsely used packs that were not selected to be rewritten, and why, as `SkippedPacks`.
        reencryption: what is left of older generations of the keys, as `Reencryption`; empty unless that was asked for.
        problems: what a person should look at, a sentence each; everything else was done.
    """

    dropped_blocks: int
    deleted_packs: int
    freed_bytes: int
    deleted_strays: int
    stray_bytes: int
    rewritten_packs: int
    rewritten_bytes: int
    held_bytes: int
    strays_left: int
    snapshot: str
    hurt_snapshots: tuple[str, ...] = ()
    refused_objects: int = 0
    unreadable_packs: int = 0
    left: tuple[Mapping[str, Any], ...] = ()
    reencryption: Mapping[str, Any] = attrs.field(factory=dict)
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return attrs.asdict(self)
