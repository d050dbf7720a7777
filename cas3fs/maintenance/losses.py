# SPDX-License-Identifier: GPL-3.0-or-later
"""Known losses: what a repair has found to be gone for good, so that nobody is told of it again and again.

Two lists of packs' names, one a line, are kept as texts in the index:

- *lost*: the object is gone. Its blocks stay in the chunk lists, so that whoever reads them gets an I/O error and
  never zeros; a gc does not take its absence from the listing for a listing that is incomplete.
- *damaged*: the object is there, with bytes that are wrong in blocks that only snapshots need. Of blocks that the
  volume itself needs each is known for itself: it lies in the lost pack (`cas3fs.index.repairs`).
"""

from collections.abc import Iterable
from typing import Final

from cas3fs.index import Index

LOST: Final = "lost_packs"
DAMAGED: Final = "damaged_packs"


def known_losses(index: Index, which: str = LOST) -> frozenset[str]:
    """The names of packs that are known to be lost, or `DAMAGED`; needs the index's lock."""
    return frozenset((index.state.get(which) or "").split())


def set_losses(index: Index, packs: Iterable[str], which: str = LOST) -> None:
    """Writes down which packs are lost, or `DAMAGED`, in place of what was there; within an operation."""
    text = "\n".join(sorted(set(packs)))
    if text:
        index.state.set(which, text)
    else:
        index.state.remove(which)
