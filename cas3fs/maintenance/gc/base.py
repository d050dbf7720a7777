# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gc is asked to do, and what it has done.

This module imports no other of cas3fs, as commands need it to ask a mount.
"""

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class GcSettings:
    """How a gc is to be done.

    min_live: packs of which less is used are rewritten; 0 for none.
    max_rewrite_bytes: no more than that is copied; None for no limit.
    grace_s: what is unknown and younger stays.
    """

    min_live: float = 0.7
    max_rewrite_bytes: int | None = None
    grace_s: float = 3600.0


@attrs.frozen
class GcResult:
    """What a gc has done; sizes are in bytes."""

    dropped_blocks: int
    deleted_packs: int
    freed_bytes: int
    deleted_strays: int
    stray_bytes: int
    rewritten_packs: int
    rewritten_bytes: int
    held_bytes: int
    """Of dead packs that snapshots may still need."""
    strays_left: int
    snapshot: str
    """The newest snapshot."""
    hurt_snapshots: tuple[str, ...] = ()
    """Those of which the store has lost pages: they cannot be restored."""
    refused_objects: int = 0
    """What the store did not let it delete; a later gc tries again."""
    unreadable_packs: int = 0
    """Sparse packs that stay as they are, since a block in them cannot be read."""
    left: tuple[Mapping[str, Any], ...] = ()
    """Sparse packs that were not to be rewritten, and why: as `Left`."""
    problems: tuple[str, ...] = ()
    """What a person should look at, a sentence each; everything else was done."""

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return attrs.asdict(self)
