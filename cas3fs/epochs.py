# SPDX-License-Identifier: GPL-3.0-or-later
"""Epochs: one mount's turn as the only writer of a volume.

- *claim*: an entry ``epochs/<number>`` with a random uuid; who creates it is the writer. Numbers only grow. -
*release*: its sub-entry, written when the mount has stored everything. An epoch without one is *held*. - *claim
file*: what a state directory knows of its own claims. It is written before the entry is, so that after a crash or
  an unclear answer of the store the uuid tells whether a claim is our own.
- *lineage*: the claims of a state directory up to now with no other writer in between: local state that belongs to
one of
  them is a continuation of what the store has.

Where the store honours create-if-absent, at most one claim of a number can exist. Where it does not, claims are named
``epochs/<number>-<uuid>``: after creating one, the writer lists, and any rival makes it withdraw, wait for a random
while and try again. As every writer lists after creating, of two at the same time one at least sees the other.

An epoch is refused to others while it is held, by anyone but the state directory that holds it, or one that was told
to take over. Taking over means to claim the next number: the old writer finds it when it next asks
`Epochs.is_newest`.

The claim file is JSON, replaced atomically and synced::

    {"held": [{"epoch": 7, "uuid": "..."}, ...], "pending": null or {"epoch": 8, "uuid": "...", "continues": true}}

No threads here: claiming and releasing are done once in a mount's life, `Epochs.is_newest` keeps no state.
"""

import json
import os
import pwd
import random
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from uuid import UUID, uuid4

import attrs

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import RELEASED_ID, EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import EpochHeld, ObjectExists, ObjectMissing, StateConflict, VolumeFormatError

ATTEMPTS: Final = 8
"""How often a claim that met a rival is tried."""
FIRST_WAIT_S: Final = 0.2
LINEAGE_LENGTH: Final = 32
"""Claims that a state directory remembers: more than can have left something behind."""

_NAME = re.compile(r"(\d{8,})(-[0-9a-f]{32})?\Z")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Identity(NamedTuple):
    """Who claims, as others are told."""

    host: str
    user: str
    pid: int
    boot_id: str = ""

    @classmethod
    def of_this_process(cls) -> Self:
        """This process on this machine."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
        boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        return cls(socket.gethostname(), user, os.getpid(), boot_id)


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


class EpochState(NamedTuple):
    """An epoch as the store shows it."""

    entry: EpochEntry
    released: bool


class _Mine(NamedTuple):
    """A claim in the claim file."""

    epoch: int
    uuid: UUID


class _Standing(NamedTuple):
    """The greatest number in the store (0: none) and the claims of it: one, unless the store ignores conditions."""

    number: int
    claims: tuple[EpochState, ...]

    def has(self, mine: _Mine) -> bool:
        return any((one.entry.epoch, one.entry.claim) == (mine.epoch, mine.uuid) for one in self.claims)

    def held_by_others(self, mine: "_Record") -> list[EpochEntry]:
        return [one.entry for one in self.claims if not one.released and not mine.holds(one.entry)]


@attrs.frozen
class _Record:
    """Contents of a claim file."""

    held: tuple[_Mine, ...] = ()
    pending: _Mine | None = None
    continues: bool = False
    """Whether the pending claim, if it came to be, goes on from those held."""

    def holds(self, entry: EpochEntry) -> bool:
        return _Mine(entry.epoch, entry.claim) in self.held

    def settled(self, standing: _Standing) -> "_Record":
        """Without a pending claim, unless it could still come to be: held if the store has it."""
        if self.pending is None or self.pending.epoch > standing.number:
            return self
        return self.won() if standing.has(self.pending) else _Record(self.held)

    def won(self) -> "_Record":
        """The pending claim is held."""
        assert self.pending is not None
        earlier = self.held if self.continues else ()
        return _Record((*earlier, self.pending)[-LINEAGE_LENGTH:])

    def is_newest(self, standing: _Standing) -> bool:
        """Whether nobody but this state directory wrote the newest epoch."""
        return bool(standing.claims) and all(self.holds(one.entry) for one in standing.claims)

    def next_claim(self, number: int, fenced: bool) -> _Mine:
        """What to claim as `number`. A claim that may still be on its way to the store keeps its uuid: whichever of two
        requests arrives, it is ours."""
        if fenced and self.pending is not None and self.pending.epoch == number:
            return self.pending
        return _Mine(number, uuid4())


class Epochs:
    """Claims and releases epochs of a volume.

    Args:
        shelf: the volume's entries.
        fenced: the store honours create-if-absent.
        now, sleep, jitter: clock, waiting (seconds) and a random number from 0 to 1, for tests.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        fenced: bool = True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._shelf = shelf
        self._fenced = fenced
        self._now = now
        self._sleep = sleep
        self._jitter = jitter

    def newest(self) -> EpochState | None:
        """The newest epoch, held before released where there are rivals; None if there never was one.

        Raises:
            VolumeFormatError: something among the epochs is none.
            StoreError: the store does not answer, or not well.
        """
        return min(self._standing().claims, key=lambda one: one.released, default=None)

    def claim(self, identity: Identity, claim_file: Path, *, take_over: bool = False) -> Claim:
        """Become the only writer.

        Args:
            identity: what others are told when they are refused.
            claim_file: of the state directory, which only this process may use now; made if it is not there.
            take_over: claim although another writer has not released: whoever it was when this began.

        Raises:
            EpochHeld: another writer holds the volume.
            StateConflict: the claim file cannot be read.
            StoreError: the store failed; claiming again is safe.
        """
        overruled: frozenset[str] | None = None
        for attempt in range(ATTEMPTS):
            standing = self._standing()
            record = _read(claim_file).settled(standing)
            others = standing.held_by_others(record)
            if overruled is None:
                overruled = frozenset(one.key for one in others) if take_over else frozenset()
            if any(one.key not in overruled for one in others):
                raise EpochHeld(self._refusal(others[0], identity))
            claim = self._attempt(identity, claim_file, record, standing, others)
            if claim is not None:
                return claim
            self._sleep(FIRST_WAIT_S * 2**attempt * self._jitter())
        raise EpochHeld(f"{self._shelf.store.url}: other writers keep claiming the volume; try again later")

    def release(self, claim: Claim) -> None:
        """Give the volume back: everything is stored. Releasing twice is fine.

        Raises:
            StoreError: the store failed; releasing again is safe.
        """
        entry = ReleaseEntry(owner=claim.key, claim=claim.uuid, time=self._now())
        try:
            self._shelf.save(entry)
        except ObjectExists:
            # Only the holder writes it: an earlier attempt of ours.
            return

    def is_newest(self, claim: Claim) -> bool:
        """Whether no later writer has claimed the volume; one LIST.

        Raises:
            StoreError: the store failed, so nobody knows.
        """
        start = EpochEntry.key_of(f"{claim.epoch:08d}")
        later = (_number_of(info.key) for info in self._shelf.store.list(EpochEntry.prefix(), start))
        return all(number <= claim.epoch for number in later)

    def overruled(self) -> frozenset[int]:
        """The numbers of epochs that were taken over and not released since: their writers may not know it yet, and
        may still put what belongs to those epochs. One LIST, and a GET for each epoch that was never released.

        Raises:
            StoreError: the store failed.
        """
        keys = [info.key for info in self._shelf.store.list(EpochEntry.prefix())]
        released = {key for key in keys if key.endswith(SUB_SEPARATOR + RELEASED_ID)}
        claims = {_number_of(key): key for key in keys if SUB_SEPARATOR not in key}
        numbers = sorted(claims)
        found = set()
        for number, following in pairwise(numbers):
            key = claims[number]
            if key + SUB_SEPARATOR + RELEASED_ID in released:
                continue
            next_claim = self._load(claims[following], released=False)
            if next_claim is None or next_claim.entry.took_over == key:
                found.add(number)
        return frozenset(found)

    def _attempt(
        self, identity: Identity, path: Path, record: _Record, standing: _Standing, others: list[EpochEntry]
    ) -> Claim | None:
        """Try the next number once; None when a rival was met."""
        continues = record.is_newest(standing)
        mine = record.next_claim(standing.number + 1, self._fenced)
        pending = attrs.evolve(record, pending=mine, continues=continues)
        _write(path, pending)
        took_over = others[0].key if others else None
        entry = self._entry(identity, mine, took_over)
        if not self._create(entry) or not (self._fenced or self._is_alone(entry)):
            return None
        _write(path, pending.won())
        lineage = tuple(one.uuid for one in record.held) if continues else ()
        return Claim(mine.epoch, mine.uuid, entry.key, lineage, took_over)

    def _entry(self, identity: Identity, mine: _Mine, took_over: str | None) -> EpochEntry:
        number = f"{mine.epoch:08d}"
        return EpochEntry(
            id=number if self._fenced else f"{number}-{mine.uuid.hex}",
            epoch=mine.epoch,
            claim=mine.uuid,
            time=self._now(),
            took_over=took_over,
            **identity._asdict(),
        )

    def _create(self, entry: EpochEntry) -> bool:
        """Whether the entry is in the store and ours."""
        try:
            self._shelf.save(entry)
        except ObjectExists:
            # Perhaps an attempt of ours that seemed to fail.
            return self._shelf.load(EpochEntry, entry.id).claim == entry.claim
        return True

    def _is_alone(self, entry: EpochEntry) -> bool:
        """Whether no rival claims the same number or a later one; otherwise `entry` is withdrawn."""
        start = EpochEntry.key_of(f"{entry.epoch - 1:08d}")
        keys = (info.key for info in self._shelf.store.list(EpochEntry.prefix(), start))
        rivals = [key for key in keys if _number_of(key) >= entry.epoch and key != entry.key]
        if rivals:
            self._shelf.remove(entry)
        return not rivals

    def _standing(self) -> _Standing:
        keys = [info.key for info in self._shelf.store.list(EpochEntry.prefix())]
        number = max((_number_of(key) for key in keys), default=0)
        newest = [key for key in keys if _number_of(key) == number]
        released = {key.removesuffix(SUB_SEPARATOR + RELEASED_ID) for key in newest if SUB_SEPARATOR in key}
        claims = [self._load(key, key in released) for key in newest if SUB_SEPARATOR not in key]
        return _Standing(number, tuple(claim for claim in claims if claim is not None))

    def _load(self, key: str, released: bool) -> EpochState | None:
        try:
            return EpochState(self._shelf.load(EpochEntry, key.removeprefix(EpochEntry.prefix())), released)
        except ObjectMissing:
            # Withdrawn since it was listed.
            return None

    def _refusal(self, holder: EpochEntry, identity: Identity) -> str:
        where = "this machine, but another state directory" if holder.host == identity.host else "another machine"
        return (
            f"{self._shelf.store.url} is held by a writer that has not released it: host {holder.host} ({where}), "
            f"user {holder.user}, process {holder.pid}, since {holder.time:%Y-%m-%d %H:%M:%S} UTC; "
            "unmount it there, or, if it is gone for good, mount with --take-over"
        )


def _number_of(key: str) -> int:
    """The number of the epoch that `key`, of an epoch or its sub-entry, belongs to."""
    name = key.removeprefix(EpochEntry.prefix()).partition(SUB_SEPARATOR)[0]
    match = _NAME.match(name)
    if match is None:
        raise VolumeFormatError(f"{key} is no epoch that this version of cas3fs knows: was it made by a newer one?")
    return int(match[1])


def _read(path: Path) -> _Record:
    try:
        content = json.loads(path.read_bytes())
        pending = content["pending"]
        return _Record(
            tuple(_mine(one) for one in content["held"]),
            _mine(pending) if pending else None,
            bool(pending and pending["continues"]),
        )
    except FileNotFoundError:
        return _Record()
    except (ValueError, KeyError, TypeError) as error:
        raise StateConflict(f"{path} is damaged, so this state directory's own epochs are unknown") from error


def _mine(value: dict[str, Any]) -> _Mine:
    return _Mine(int(value["epoch"]), UUID(value["uuid"]))


def _write(path: Path, record: _Record) -> None:
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
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
