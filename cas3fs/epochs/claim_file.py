# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim file of a state directory: which claims are its own. It is JSON, replaced atomically and synced::

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
from cas3fs.epochs.latest_epoch import LatestClaims
from cas3fs.errors import StateConflict

_log = logging.getLogger(__name__)

LINEAGE_LENGTH: Final = 32
"""How many claims a state directory remembers: more than can have left data behind."""


class OwnClaim(NamedTuple):
    """A claim in the claim file."""

    epoch: int
    uuid: UUID


@attrs.frozen
class ClaimRecord:
    """The content of a claim file."""

    held: tuple[OwnClaim, ...] = ()
    pending: OwnClaim | None = None
    """A claim that was written down before it was made; it may or may not exist."""
    continues: bool = False
    """Whether the pending claim, if it exists, continues the lineage of those held."""
    machine: MachineId = UNKNOWN_MACHINE
    """The machine on which the last of those held was claimed."""
    claimant: MachineId = UNKNOWN_MACHINE
    """The machine on which the pending claim was made."""
    seen: int = 0
    """The greatest number that was seen in the store: a new claim must have a greater one."""

    @property
    def newest(self) -> int:
        """The greatest number that is known to have been claimed here; 0 for none."""
        return max((one.epoch for one in self.held), default=0)

    def is_copy(self, machine: MachineId) -> bool:
        """Return whether the claim file was copied to `machine` from another one."""
        return bool(self.held) and self.machine.differs(machine)

    def holds(self, entry: EpochEntry) -> bool:
        """Return whether this state directory made the claim."""
        return OwnClaim(entry.epoch, entry.claim) in self.held

    def holds_all(self, latest: LatestClaims) -> bool:
        """Return whether the newest epoch belongs to this state directory alone."""
        return bool(latest.claims) and all(self.holds(one.entry) for one in latest.claims)

    def identify(self, latest: LatestClaims) -> LatestClaims:
        """Return `latest` with our own claims identified, also those whose entries cannot be read.

        Only for a store that honours conditional writes: there, nobody else can have claimed their numbers.
        """
        return LatestClaims(latest.number, tuple(self._identify(one) for one in latest.claims))

    def held_by_others(self, latest: LatestClaims, machine: MachineId) -> list[EpochEntry]:
        """Return the claims that are not released and not our own.

        A claim in the claim file is our own only on the machine that wrote the file.
        """
        is_copy = self.is_copy(machine)
        return [one.entry for one in latest.claims if not one.released and (is_copy or not self.holds(one.entry))]

    def with_pending_resolved(self, latest: LatestClaims) -> "ClaimRecord":
        """Return the record without a pending claim, unless it may still arrive; held if the store has it."""
        if self.pending is None or self.pending.epoch > latest.number:
            return self
        if any(OwnClaim(one.entry.epoch, one.entry.claim) == self.pending for one in latest.claims):
            return self.with_pending_held()
        return attrs.evolve(self, pending=None, continues=False, claimant=UNKNOWN_MACHINE)

    def with_pending(self, claim: OwnClaim, latest: LatestClaims, machine: MachineId) -> "ClaimRecord":
        """Return the record with `claim` as the pending one."""
        continues, seen = self.holds_all(latest), max(self.seen, latest.number)
        return attrs.evolve(self, pending=claim, continues=continues, claimant=machine, seen=seen)

    def with_pending_held(self) -> "ClaimRecord":
        """Return the record with the pending claim among those held."""
        assert self.pending is not None
        earlier = self.held if self.continues else ()
        held = (*earlier, self.pending)[-LINEAGE_LENGTH:]
        return ClaimRecord(held, machine=self.claimant, seen=max(self.seen, self.pending.epoch))

    def next_claim(self, number: int, *, conditional_writes: bool) -> OwnClaim:
        """Return the claim to make for `number`.

        A pending claim of that number may still be on its way to the store, and keeps its uuid: whichever of the two
        requests arrives, the claim is ours.
        """
        if conditional_writes and self.pending is not None and self.pending.epoch == number:
            return self.pending
        return OwnClaim(number, uuid4())

    def _identify(self, one: EpochState) -> EpochState:
        own = next((own for own in self.held if own.epoch == one.entry.epoch), None)
        return one._replace(entry=one.entry.changed(claim=own.uuid)) if one.damage and own is not None else one


def read_claim_file(path: Path) -> ClaimRecord:
    """Read a claim file; a missing one is empty.

    Raises:
        StateConflict: it is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        pending = content["pending"]
        held = tuple(_own_claim(one) for one in content["held"])
        return ClaimRecord(
            held,
            _own_claim(pending) if pending else None,
            bool(pending and pending["continues"]),
            machine=_machine_id(content),
            claimant=_machine_id(pending or {}),
            seen=max([int(content.get("seen", 0)), *(one.epoch for one in held)]),
        )
    except FileNotFoundError:
        return ClaimRecord()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StateConflict(
            f"the claim file {path} is damaged, so it is unknown which epochs this state directory owns; mount with "
            "--take-over to begin from the newest snapshot (changes that only this machine has are set aside for "
            "`cas3fs rescue`)"
        ) from error


def write_claim_file(path: Path, record: ClaimRecord) -> None:
    """Replace the claim file; it is durable on return."""
    held = [{"epoch": one.epoch, "uuid": str(one.uuid)} for one in record.held]
    pending = record.pending and {
        "epoch": record.pending.epoch,
        "uuid": str(record.pending.uuid),
        "continues": record.continues,
        "machine": record.claimant._asdict(),
    }
    content = {"held": held, "pending": pending, "machine": record.machine._asdict(), "seen": record.seen}
    replace_file(path, json.dumps(content))


def set_aside_if_damaged(path: Path) -> None:
    """Rename a damaged claim file; a take-over does not need one.

    Raises:
        OSError: it could not be renamed.
    """
    try:
        read_claim_file(path)
    except StateConflict as error:
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        sync_folder(path.parent)
        _log.warning("%s; the file was renamed to %s", error, aside.name)


def _own_claim(value: dict[str, Any]) -> OwnClaim:
    return OwnClaim(int(value["epoch"]), UUID(value["uuid"]))


def _machine_id(content: dict[str, Any]) -> MachineId:
    """Read a machine's id; files of earlier versions have none."""
    known = content.get("machine", {})
    return MachineId(str(known.get("machine", "")), str(known.get("board", "")))
