# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs that the index does not know, though a retained snapshot of the epoch that wrote them does.

The index descends from every snapshot on its line, so what it does not know, no snapshot needs: if it does descend. A
cas3fs that knew no better may have gone on from an old copy of a state folder, and published after snapshots that
that copy had never seen. So before packs of an earlier epoch go, the last snapshot of that epoch is asked. It is
restored for that, which costs as much as its index is large; unknown packs of an earlier epoch are rare.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import attrs

from cas3fs.blockstore.keys import PACKS_PREFIX
from cas3fs.errors import SnapshotArchived, SnapshotDamaged
from cas3fs.index import PackRow
from cas3fs.maintenance.base import Premises
from cas3fs.maintenance.looking import known_packs
from cas3fs.maintenance.strays import COLLECT, Stray
from cas3fs.maintenance.survey import epoch_of_pack
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import SnapshotNumber

_log = logging.getLogger(__name__)


@attrs.frozen
class Named:
    """What the last snapshots of earlier epochs know."""

    rows: Mapping[SnapshotNumber, Sequence[PackRow]]
    """The packs among the strays that a snapshot knows, by its number."""
    known: Mapping[int, frozenset[str]]
    """Those of the strays that the last snapshot of an epoch knows, by epoch, of the epochs that were looked into."""
    last: Mapping[int, SnapshotInfo]
    """The last snapshot of each earlier epoch."""

    def spares(self, stray: Stray) -> bool:
        """Whether it is a pack that a snapshot of its epoch needs, or may need for all that is known."""
        name = stray.key.removeprefix(PACKS_PREFIX)
        epoch = epoch_of_pack(name)
        if epoch is None or epoch not in self.last:
            return False
        return epoch not in self.known or name in self.known[epoch]


def find_named(strays: Iterable[Stray], snapshots: Sequence[SnapshotInfo], at: Premises) -> Named:
    """Looks into the last snapshot of every earlier epoch of which a pack among `strays` is to go.

    Args:
        snapshots: all that are retained, ascending.

    Raises:
        StoreError, IndexDatabaseError: the store or the local disk failed.
    """
    last = {one.number.epoch: one for one in snapshots if one.number.epoch < at.epoch}
    names = {one.key.removeprefix(PACKS_PREFIX) for one in strays if one.verdict == COLLECT}
    rows: dict[SnapshotNumber, Sequence[PackRow]] = {}
    known: dict[int, frozenset[str]] = {}
    for each in sorted({found for name in names if (found := epoch_of_pack(name)) in last and found is not None}):
        try:
            packs = [row for row in known_packs(at.archive, last[each].id, at.scratch) if row.name in names]
        except (SnapshotDamaged, SnapshotArchived) as error:
            _log.warning("packs of epoch %d that nothing else names are kept: %s", each, error)
            continue
        known[each] = frozenset(row.name for row in packs)
        # whatever it still lists may be needed by an earlier one, too, so it counts as needed up to here
        rows[last[each].number] = [row._replace(died=None) for row in packs]
    return Named(rows, known, last)
