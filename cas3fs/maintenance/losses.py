# SPDX-License-Identifier: GPL-3.0-or-later
"""Known losses: packs of which a repair has found that they are gone for good.

They are kept as a text in the index, under `KEY`: the packs' names, one a line. Their blocks stay in the chunk lists,
so that whoever reads them gets an I/O error and never zeros; but nobody is told of them again and again, and a gc does
not take their absence from the listing for a listing that is incomplete.
"""

from collections.abc import Iterable
from typing import Final

from cas3fs.index import Index

KEY: Final = "lost_packs"


def known_losses(index: Index) -> frozenset[str]:
    """The names of packs that are known to be lost; needs the index's lock."""
    return frozenset((index.state.get(KEY) or "").split())


def set_losses(index: Index, packs: Iterable[str]) -> None:
    """Writes down which packs are lost, in place of what was there; within an operation."""
    text = "\n".join(sorted(set(packs)))
    if text:
        index.state.set(KEY, text)
    else:
        index.state.remove(KEY)
