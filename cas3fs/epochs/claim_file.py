# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim file of a state directory. It is JSON, replaced atomically and synced::

{"held": [{"epoch": 7, "uuid": "..."}, ...], "machine": {"machine": "...", "board": "..."}, "seen": 7,
 "pending": null or {"epoch": 8, "uuid": "...", "continues": true, "machine": {...}}}
"""

import json
import logging
import time
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import attrs

from cas3fs.durable import replace_file, sync_folder
from cas3fs.entries.kinds import EpochEntry
from cas3fs.epochs.epoch_entries import EpochState
from cas3fs.epochs.identity import UNKNOWN_MACHINE, MachineId
from cas3fs.errors import StateConflict

_log = logging.getLogger(__name__)

LINEAGE_LENGTH: Final = 32
"""Claims that a state directory remembers: more than can have left something behind."""


class OwnClaim(NamedTuple):
    """A claim in the claim file."""

    epoch: int
    uuid: UUID


class LatestClaims(NamedTuple):
    """The greatest number in the store (0: none) and the claims of it: one, unless the store ignores conditions."""

    number: int
    claims: tuple[EpochState, ...]

    @property
    def top(self) -> EpochState | None:
        """The claim that matters, held before released; None where there is none."""
        return min(self.claims, key=lambda one: one.released, default=None)

    def known_to(self, record: "ClaimRecord") -> "LatestClaims":
        """With claims that cannot be read and that `record` knows to be its own; for a store that honours
        create-if-absent, so that nobody else can have claimed their number."""
        return LatestClaims(self.number, tuple(_named(one, record) for one in self.claims))

    def has(self, mine: OwnClaim) -> bool:
        return any((one.entry.epoch, one.entry.claim) == (mine.epoch, mine.uuid) for one in self.claims)

    def held_by_others(self, mine: "ClaimRecord", machine: MachineId) -> list[EpochEntry]:
        """Those that are not released, but for our own: what is in the claim file is so only on the `machine` that
        wrote it."""
        is_copy = mine.is_copy(machine)
        return [one.entry for one in self.claims if not one.released and (is_copy or not mine.holds(one.entry))]


@attrs.frozen
class ClaimRecord:
    """Contents of a claim file."""

    held: tuple[OwnClaim, ...] = ()
    pending: OwnClaim | None = None
    continues: bool = False
    """Whether the pending claim, if it came to be, goes on from those held."""
    machine: MachineId = UNKNOWN_MACHINE
    """Where those held were claimed last."""
    claimant: MachineId = UNKNOWN_MACHINE
    """Where the pending claim was made."""
    seen: int = 0
    """The greatest number of which anything was seen: no claim may have it, or a lesser one, again."""

    def is_copy(self, machine: MachineId) -> bool:
        """Whether the claim file was copied to `machine` from another one."""
        return bool(self.held) and self.machine.differs(machine)

    def holds(self, entry: EpochEntry) -> bool:
        return OwnClaim(entry.epoch, entry.claim) in self.held

    def settled(self, standing: LatestClaims) -> "ClaimRecord":
        """Without a pending claim, unless it could still come to be: held if the store has it."""
        if self.pending is None or self.pending.epoch > standing.number:
            return self
        if standing.has(self.pending):
            return self.won()
        return attrs.evolve(self, pending=None, continues=False, claimant=UNKNOWN_MACHINE)

    def begun(self, mine: OwnClaim, standing: LatestClaims, machine: MachineId) -> "ClaimRecord":
        """With `mine` as the pending claim."""
        continues, seen = self.is_newest(standing), max(self.seen, standing.number)
        return attrs.evolve(self, pending=mine, continues=continues, claimant=machine, seen=seen)

    def won(self) -> "ClaimRecord":
        """The pending claim is held."""
        assert self.pending is not None
        earlier = self.held if self.continues else ()
        held = (*earlier, self.pending)[-LINEAGE_LENGTH:]
        return ClaimRecord(held, machine=self.claimant, seen=max(self.seen, self.pending.epoch))

    @property
    def newest(self) -> int:
        """The greatest number that is known to have been claimed here; 0 for none."""
        return max((one.epoch for one in self.held), default=0)

    def is_newest(self, standing: LatestClaims) -> bool:
        """Whether nobody but this state directory wrote the newest epoch."""
        return bool(standing.claims) and all(self.holds(one.entry) for one in standing.claims)

    def next_claim(self, number: int, fenced: bool) -> OwnClaim:
        """What to claim as `number`. A claim that may still be on its way to the store keeps its uuid: whichever of two
        requests arrives, it is ours."""
        if fenced and self.pending is not None and self.pending.epoch == number:
            return self.pending
        return OwnClaim(number, uuid4())


def _named(one: EpochState, record: ClaimRecord) -> EpochState:
    """The claim, in the name of who knows that it is his, where it cannot be read."""
    mine = next((mine for mine in record.held if mine.epoch == one.entry.epoch), None)
    return one._replace(entry=one.entry.changed(claim=mine.uuid)) if one.damage and mine is not None else one


def read_claim_file(path: Path) -> ClaimRecord:
    try:
        content = json.loads(path.read_bytes())
        pending = content["pending"]
        held = tuple(_mine(one) for one in content["held"])
        mine = _mine(pending) if pending else None
        return ClaimRecord(
            held,
            mine,
            bool(pending and pending["continues"]),
            machine=_machine(content),
            claimant=_machine(pending or {}),
            seen=max([int(content.get("seen", 0)), *(one.epoch for one in held)]),
        )
    except FileNotFoundError:
        return ClaimRecord()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StateConflict(
            f"{path} is damaged, so which epochs are this state directory's own is not known; a mount with --take-over "
            "begins from the newest snapshot, and sets aside what only this machine has, for `cas3fs rescue`"
        ) from error


def set_aside_if_damaged(path: Path) -> None:
    """Renames a claim file that is damaged: who takes over needs none.

    Raises:
        OSError: it could not be renamed.
    """
    try:
        read_claim_file(path)
    except StateConflict as error:
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        sync_folder(path.parent)
        _log.warning("%s; it is kept as %s", error, aside.name)


def _mine(value: dict[str, Any]) -> OwnClaim:
    return OwnClaim(int(value["epoch"]), UUID(value["uuid"]))


def _machine(content: dict[str, Any]) -> MachineId:
    """What an earlier version wrote says nothing of machines."""
    known = content.get("machine", {})
    return MachineId(str(known.get("machine", "")), str(known.get("board", "")))


def write_claim_file(path: Path, record: ClaimRecord) -> None:
    """Replace the claim file; it is on the disk on return."""
    held = [{"epoch": one.epoch, "uuid": str(one.uuid)} for one in record.held]
    mine = record.pending
    pending = mine and {
        "epoch": mine.epoch,
        "uuid": str(mine.uuid),
        "continues": record.continues,
        "machine": record.claimant._asdict(),
    }
    content = {"held": held, "pending": pending, "machine": record.machine._asdict(), "seen": record.seen}
    replace_file(path, json.dumps(content))
