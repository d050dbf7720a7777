# SPDX-License-Identifier: GPL-3.0-or-later
"""Claiming an epoch, giving it back, and finding out that another has gone on; see the room's own words."""

import itertools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import RELEASED_ID, EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.claimfile import Mine, Record, Standing, read_record, write_record
from cas3fs.epochs.history import History
from cas3fs.epochs.values import Claim, EpochState, Identity, number_of
from cas3fs.errors import EpochHeld, ObjectExists, ObjectMissing

ATTEMPTS: Final = 8
"""How often a claim that met a rival is tried."""
FIRST_WAIT_S: Final = 0.2


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
            record = read_record(claim_file).settled(standing)
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
        later = (number_of(info.key) for info in self._shelf.store.list(EpochEntry.prefix(), start))
        return all(number <= claim.epoch for number in later)

    def overruled(self) -> frozenset[int]:
        """The numbers of epochs that were taken over and not released since: their writers may not know it yet, and
        may still put what belongs to those epochs. One LIST, and a GET for each epoch that was never released.

        Raises:
            StoreError: the store failed.
        """
        return History(self._shelf).overruled()

    def _attempt(
        self, identity: Identity, path: Path, record: Record, standing: Standing, others: list[EpochEntry]
    ) -> Claim | None:
        """Try the next number once; None when a rival was met."""
        continues = record.is_newest(standing)
        mine = record.next_claim(standing.number + 1, self._fenced)
        pending = attrs.evolve(record, pending=mine, continues=continues)
        write_record(path, pending)
        took_over = others[0].key if others else None
        entry = self._entry(identity, mine, took_over)
        if not self._create(entry) or not (self._fenced or self._is_alone(entry, standing)):
            return None
        write_record(path, pending.won())
        lineage = tuple(one.uuid for one in record.held) if continues else ()
        return Claim(mine.epoch, mine.uuid, entry.key, lineage, took_over)

    def _entry(self, identity: Identity, mine: Mine, took_over: str | None) -> EpochEntry:
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

    def _is_alone(self, entry: EpochEntry, standing: Standing) -> bool:
        """Whether nobody has claimed anything since `standing` was read; otherwise `entry` is withdrawn.

        Not only this number and later ones count: who read a standing that was just withdrawn claims a greater number
        than a rival who did not.
        """
        start = EpochEntry.key_of(f"{standing.number:08d}")
        keys = {info.key.partition(SUB_SEPARATOR)[0] for info in self._shelf.store.list(EpochEntry.prefix(), start)}
        rivals = keys - {entry.key} - {one.entry.key for one in standing.claims}
        if rivals:
            self._shelf.remove(entry)
        return not rivals

    def _standing(self) -> Standing:
        keys = [info.key for info in self._shelf.store.list(EpochEntry.prefix())]
        released = {key.removesuffix(SUB_SEPARATOR + RELEASED_ID) for key in keys if SUB_SEPARATOR in key}
        names = sorted((key for key in keys if SUB_SEPARATOR not in key), key=number_of, reverse=True)
        for number, group in itertools.groupby(names, number_of):
            claims = [self._load(key, key in released) for key in group]
            # A number that is withdrawn whole never was: what stands is the one below.
            if found := tuple(claim for claim in claims if claim is not None):
                return Standing(number, found)
        return Standing(0, ())

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
