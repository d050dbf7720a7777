# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of packs in the object store: ``packs/<epoch, eight digits>/<name, 64 hex digits>``."""

PACKS_PREFIX = "packs/"


def pack_name(epoch: int, image_name: str) -> str:
    """The name by which locations refer to a pack of that epoch."""
    return f"{epoch:08d}/{image_name}"


def pack_key(pack: str) -> str:
    """The key of the object that holds the pack of that name."""
    return PACKS_PREFIX + pack
