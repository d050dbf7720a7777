# SPDX-License-Identifier: GPL-3.0-or-later
"""What a writer holds once it has claimed an epoch, and what the release before it says."""

from typing import Final, NamedTuple
from uuid import UUID

import attrs


class Handover(NamedTuple):
    """What the last release before a claim says is in the store."""

    snapshot: str | None = None
    """Id of the newest snapshot; None where it names none."""
    retained: tuple[str, ...] = ()
    """Ids of all snapshots."""


EMPTY_HANDOVER: Final = Handover()


@attrs.frozen
class Claim:
    """A won claim."""

    epoch: int
    uuid: UUID
    key: str
    """Of its entry in the store."""
    lineage: tuple[UUID, ...]
    """Earlier claims of this state directory, oldest first, since another writer last held the volume. Empty: what the
    state directory holds, if anything, is not of the line that the store is on."""
    took_over: str | None = None
    """Key of the held epoch that this claim took over from another writer."""
    before: int = 0
    """Number of the epoch before; 0 where there was none."""
    after_release: bool = True
    """Whether the epoch before was released, or there was none."""
    base_due: bool = False
    """Whether a writer was taken over from, and no base tells where the line went on: this claim has to write one."""
    handover: Handover = EMPTY_HANDOVER
    overruled: frozenset[int] | None = None
    """The epochs that were taken over and not released at the time of the claim; None where that is not known."""
    bases: frozenset[int] | None = None
    """The epochs before that have a base; None where that is not known."""
