# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim file of a state directory. It is JSON, replaced atomically and synced::

{"held": [{"epoch": 7, "uuid": "..."}, ...], "pending": null or {"epoch": 8, "uuid": "...", "continues": true}}
"""

import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import attrs

from cas3fs.durable import sync_folder
from cas3fs.entries.kinds import EpochEntry
from cas3fs.epochs.values import EpochState
from cas3fs.errors import StateConflict

LINEAGE_LENGTH: Final = 32
"""Claims that a state directory remembers: more than can have left something behind."""


class Mine(NamedTuple):
    """A claim in the claim file."""

    epoch: int
    uuid: UUID


class Standing(NamedTuple):
    """The greatest number in the store (0: none) and the claims of it: one, unless the store ignores conditions."""

    number: int
    claims: tuple[EpochState, ...]

    @property
    def top(self) -> EpochState | None:
        """The claim that matters, held before released; None where there is none."""
        return min(self.claims, key=lambda one: one.released, default=None)

    def known_to(self, record: "Record") -> "Standing":
        """With claims that cannot be read and that `record` knows to be its own; for a store that honours
        create-if-absent, so that nobody else can have claimed their number."""
        return Standing(self.number, tuple(_named(one, record) for one in self.claims))

    def has(self, mine: Mine) -> bool:
        return any((one.entry.epoch, one.entry.claim) == (mine.epoch, mine.uuid) for one in self.claims)

    def held_by_others(self, mine: "Record") -> list[EpochEntry]:
        return [one.entry for one in self.claims if not one.released and not mine.holds(one.entry)]


@attrs.frozen
class Record:
    """Contents of a claim file."""

    held: tuple[Mine, ...] = ()
    pending: Mine | None = None
    continues: bool = False
    """Whether the pending claim, if it came to be, goes on from those held."""

    def holds(self, entry: EpochEntry) -> bool:
        return Mine(entry.epoch, entry.claim) in self.held

    def settled(self, standing: Standing) -> "Record":
        """Without a pending claim, unless it could still come to be: held if the store has it."""
        if self.pending is None or self.pending.epoch > standing.number:
            return self
        return self.won() if standing.has(self.pending) else Record(self.held)

    def won(self) -> "Record":
        """The pending claim is held."""
        assert self.pending is not None
        earlier = self.held if self.continues else ()
        return Record((*earlier, self.pending)[-LINEAGE_LENGTH:])

    @property
    def newest(self) -> int:
        """The greatest number that is known to have been claimed here; 0 for none."""
        return max((one.epoch for one in self.held), default=0)

    def is_newest(self, standing: Standing) -> bool:
        """Whether nobody but this state directory wrote the newest epoch."""
        return bool(standing.claims) and all(self.holds(one.entry) for one in standing.claims)

    def next_claim(self, number: int, fenced: bool) -> Mine:
        """What to claim as `number`. A claim that may still be on its way to the store keeps its uuid: whichever of two
        requests arrives, it is ours."""
        if fenced and self.pending is not None and self.pending.epoch == number:
            return self.pending
        return Mine(number, uuid4())


def _named(one: EpochState, record: Record) -> EpochState:
    """The claim, in the name of who knows that it is his, where it cannot be read."""
    mine = next((mine for mine in record.held if mine.epoch == one.entry.epoch), None)
    return one._replace(entry=one.entry.changed(claim=mine.uuid)) if one.damage and mine is not None else one


def read_record(path: Path) -> Record:
    try:
        content = json.loads(path.read_bytes())
        pending = content["pending"]
        return Record(
            tuple(_mine(one) for one in content["held"]),
            _mine(pending) if pending else None,
            bool(pending and pending["continues"]),
        )
    except FileNotFoundError:
        return Record()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateConflict(f"{path} is damaged, so this state directory's own epochs are unknown") from error


def _mine(value: dict[str, Any]) -> Mine:
    return Mine(int(value["epoch"]), UUID(value["uuid"]))


def write_record(path: Path, record: Record) -> None:
    """Replace the claim file; it is on the disk on return."""
    held = [{"epoch": one.epoch, "uuid": str(one.uuid)} for one in record.held]
    mine = record.pending
    pending = mine and {"epoch": mine.epoch, "uuid": str(mine.uuid), "continues": record.continues}
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w") as file:
        json.dump({"held": held, "pending": pending}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
