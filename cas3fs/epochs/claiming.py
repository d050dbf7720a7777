# SPDX-License-Identifier: GPL-3.0-or-later
"""Claiming an epoch, giving it back, and finding out that another has gone on; see the room's own words.

What must exist is asked for by its name, and listings only add to that: numbers are claimed without a gap where the
store honours create-if-absent, so the next one's name is known; a release is asked for under its epoch's key. An entry
that cannot be read counts as held by nobody that is known: only a take-over goes past it, or the state directory that
knows it as its own.

An `Epochs` remembers the greatest epoch of which anything was seen; it only grows, and a writer that asks after another
thread has seen more learns it one question later at worst.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import BASE_ID, RELEASED_ID, BaseEntry, EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.claim_file import (
    ClaimRecord,
    LatestClaims,
    OwnClaim,
    read_claim_file,
    set_aside_if_damaged,
    write_claim_file,
)
from cas3fs.epochs.claims import Claim, Handover
from cas3fs.epochs.epoch_entries import (
    EpochState,
    epoch_number,
    list_epoch_keys,
    read_epoch,
    read_epoch_entry,
    read_release,
)
from cas3fs.epochs.history import EpochHistory
from cas3fs.epochs.identity import MachineId, WriterIdentity
from cas3fs.errors import EpochHeld, ObjectExists

ATTEMPTS: Final = 8
"""How often a claim that met a rival is tried."""
FIRST_WAIT_S: Final = 0.2
MOST_FILLED: Final = 1000
"""So many lost numbers are claimed one by one."""


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
        self._seen = 0

    def newest(self) -> EpochState | None:
        """The newest epoch, held before released where there are rivals; None if there never was one.

        Raises:
            VolumeFormatError: something among the epochs is none.
            StoreError: the store does not answer, or not well.
        """
        return self._standing().top

    def claim(self, identity: WriterIdentity, claim_file: Path, *, take_over: bool = False) -> Claim:
        """Become the only writer.

        Args:
            identity: what others are told when they are refused.
            claim_file: of the state directory, which only this process may use now; made if it is not there.
            take_over: claim although another writer has not released: whoever it was when this began; and although the
                claim file is damaged, which is put aside.

        Raises:
            EpochHeld: another writer holds the volume.
            StateConflict: the claim file cannot be read.
            StoreError: the store failed; claiming again is safe.
        """
        overruled: frozenset[str] | None = None
        if take_over:
            set_aside_if_damaged(claim_file)
        for attempt in range(ATTEMPTS):
            record = read_claim_file(claim_file)
            standing = self._standing(record.newest)
            if self._fenced:
                standing = standing.known_to(record)
            record = record.settled(standing)
            others = standing.held_by_others(record, identity.home)
            if overruled is None:
                overruled = frozenset(one.key for one in others) if take_over else frozenset()
            if any(one.key not in overruled for one in others):
                raise EpochHeld(self._refusal(standing, others[0], identity, record))
            claim = self._attempt(identity, claim_file, record, standing, others)
            if claim is not None:
                return self._past(record.seen, claim, identity, claim_file)
            self._sleep(FIRST_WAIT_S * 2**attempt * self._jitter())
        raise EpochHeld(f"{self._shelf.store.url}: other writers keep claiming the volume; try again later")

    def _past(self, seen: int, claim: Claim, identity: WriterIdentity, claim_file: Path) -> Claim:
        """A claim of a number greater than `seen`: where the store has lost epochs that were claimed from here, as one
        that was put back from a backup, what they named is not named again. No number is left out, unless they are
        more than `MOST_FILLED`. Those in between count as taken over: what the store may still have of them stays until
        a person releases it.
        """
        first = claim
        while claim.epoch <= seen:
            record = read_claim_file(claim_file)
            standing = self._standing(claim.epoch)
            if seen - claim.epoch > MOST_FILLED:
                standing = standing._replace(number=seen)
            lost = [one.entry for one in standing.claims]
            following = self._attempt(identity, claim_file, record, standing, lost)
            if following is None or not record.is_newest(standing):
                raise EpochHeld(f"{self._shelf.store.url}: another writer has just claimed the volume; try again later")
            claim = following
        return attrs.evolve(
            claim,
            lineage=(*first.lineage, *(one for one in claim.lineage if one not in first.lineage)),
            took_over=first.took_over,
            before=first.before,
            after_release=first.after_release,
            base_due=first.base_due or claim.base_due,
            handover=first.handover,
        )

    def release(self, claim: Claim, snapshot: str | None = None, retained: tuple[str, ...] = ()) -> None:
        """Give the volume back: everything is stored. Releasing twice is fine.

        Args:
            snapshot: the newest; None where that is not known, or where it is the one that was found.
            retained: ids of all snapshots; none where that is not known.

        Raises:
            StoreError: the store failed; releasing again is safe.
        """
        entry = ReleaseEntry(
            owner=claim.key,
            claim=claim.uuid,
            time=self._now(),
            snapshot=snapshot or claim.handover.snapshot,
            retained=retained or claim.handover.retained,
        )
        try:
            self._shelf.save(entry)
        except ObjectExists:
            # Only the holder writes it: an earlier attempt of ours.
            return

    def is_newest(self, claim: Claim) -> bool:
        """Whether no later writer has claimed the volume: one LIST, and where the store honours create-if-absent the
        epoch that comes next is asked for by its name, as a listing may lack it.

        Raises:
            StoreError: the store failed, so nobody knows.
        """
        start = EpochEntry.key_of(f"{claim.epoch:08d}")
        later = map(epoch_number, list_epoch_keys(self._shelf, start))
        self.note_epoch(max(later, default=0))
        if self._fenced and self._seen <= claim.epoch and self._has(claim.epoch + 1):
            self.note_epoch(claim.epoch + 1)
        return self._seen <= claim.epoch

    def note_epoch(self, epoch: int) -> None:
        """Something of that epoch is in the store: whoever claimed an earlier one has lost its turn."""
        self._seen = max(self._seen, epoch)

    def overruled(self, claim: Claim | None = None) -> frozenset[int]:
        """The numbers of epochs that were taken over and not released since: their writers may not know it yet, and
        may still put what belongs to those epochs. What `claim` knows of them costs a GET for each; without it, it is
        one LIST, and a GET for each epoch that was never released, or one where the newest claim tells.

        Raises:
            StoreError: the store failed.
        """
        if claim is None or claim.overruled is None:
            return EpochHistory(self._shelf).overruled()
        return self._unreleased(claim.overruled)

    def _unreleased(self, numbers: Iterable[int]) -> frozenset[int]:
        """Those of the epochs that are not released."""
        keys = {number: EpochEntry.key_of(f"{number:08d}") for number in numbers}
        return frozenset(number for number, key in keys.items() if not self._shelf.has(ReleaseEntry, RELEASED_ID, key))

    def _has(self, number: int) -> bool:
        """Whether that epoch was claimed; where the store honours create-if-absent, as the name tells nothing more."""
        return self._shelf.has(EpochEntry, f"{number:08d}")

    def _attempt(
        self,
        identity: WriterIdentity,
        path: Path,
        record: ClaimRecord,
        standing: LatestClaims,
        others: list[EpochEntry],
    ) -> Claim | None:
        """Try the next number once; None when a rival was met."""
        mine = record.next_claim(standing.number + 1, self._fenced)
        pending = record.begun(mine, standing, identity.home)
        write_claim_file(path, pending)
        entry = self._entry(identity, mine, standing, others[0].key if others else None)
        handover = self._handover(entry.handover)
        if not self._create(entry) or not (self._fenced or self._is_alone(entry, standing)):
            return None
        write_claim_file(path, pending.won())
        return Claim(
            mine.epoch,
            mine.uuid,
            entry.key,
            lineage=tuple(one.uuid for one in record.held) if pending.continues else (),
            took_over=entry.took_over,
            before=standing.number,
            after_release=standing.top is None or standing.top.released,
            base_due=entry.took_over is not None or entry.unsettled,
            handover=handover,
            overruled=None if entry.overruled is None else frozenset(entry.overruled),
            bases=None if entry.bases is None else frozenset(entry.bases),
        )

    def _entry(
        self, identity: WriterIdentity, mine: OwnClaim, standing: LatestClaims, took_over: str | None
    ) -> EpochEntry:
        number = f"{mine.epoch:08d}"
        top = standing.top
        has_base = top is not None and self._has_base(top)
        overruled = self._overruled_by(standing, took_over) if self._fenced else None
        bases = self._bases_by(top, has_base) if self._fenced else None
        return EpochEntry(
            id=number if self._fenced else f"{number}-{mine.uuid.hex}",
            epoch=mine.epoch,
            claim=mine.uuid,
            time=self._now(),
            took_over=took_over,
            overruled=None if overruled is None else tuple(sorted(overruled)),
            bases=None if bases is None else tuple(sorted(bases)),
            unsettled=top is not None and _may_need_base(top) and not has_base,
            handover=None if top is None else top.entry.key if top.released else top.entry.handover,
            **identity._asdict(),
        )

    def _overruled_by(self, standing: LatestClaims, took_over: str | None) -> frozenset[int]:
        """What `EpochEntry.overruled` of a claim after `standing` is."""
        top = standing.top
        if top is None:
            return frozenset()
        known = top.entry.overruled
        before = EpochHistory(self._shelf).overruled() if known is None else self._unreleased(known)
        return before | {standing.number} if took_over is not None else before

    def _has_base(self, top: EpochState) -> bool:
        """Whether it is written down where the line went on from when that epoch began."""
        return _may_need_base(top) and self._shelf.has(BaseEntry, BASE_ID, top.entry.key)

    def _bases_by(self, top: EpochState | None, has_base: bool) -> frozenset[int]:
        """What `EpochEntry.bases` of a claim after `top` is."""
        if top is None:
            return frozenset()
        if top.entry.bases is None:
            keys = list_epoch_keys(self._shelf)
            return frozenset(epoch_number(key) for key in keys if key.endswith(SUB_SEPARATOR + BASE_ID))
        return frozenset(top.entry.bases) | ({top.entry.epoch} if has_base else set())

    def _handover(self, key: str | None) -> Handover:
        """What the release of the epoch of that key says."""
        release = None if key is None else read_release(self._shelf, key)[1]
        return Handover() if release is None else Handover(release.snapshot, release.retained)

    def _create(self, entry: EpochEntry) -> bool:
        """Whether the entry is in the store and ours."""
        try:
            self._shelf.save(entry)
        except ObjectExists:
            # Perhaps an attempt of ours that seemed to fail.
            found = read_epoch_entry(self._shelf, entry.key)
            return found is not None and found.claim == entry.claim
        return True

    def _is_alone(self, entry: EpochEntry, standing: LatestClaims) -> bool:
        """Whether nobody has claimed anything since `standing` was read; otherwise `entry` is withdrawn.

        Not only this number and later ones count: who read a standing that was just withdrawn claims a greater number
        than a rival who did not.
        """
        start = EpochEntry.key_of(f"{standing.number:08d}")
        keys = {key.partition(SUB_SEPARATOR)[0] for key in list_epoch_keys(self._shelf, start)}
        rivals = keys - {entry.key} - {one.entry.key for one in standing.claims}
        if rivals:
            self._shelf.remove(entry)
        return not rivals

    def _standing(self, known: int = 0) -> LatestClaims:
        """`known`: an epoch of which it is known that it was; what came before is not listed."""
        keys = self._keys(known)
        names = sorted((key for key in keys if SUB_SEPARATOR not in key), key=epoch_number, reverse=True)
        for number, group in itertools.groupby(names, epoch_number):
            claims = [read_epoch(self._shelf, key) for key in group]
            # A number that is withdrawn whole never was: what stands is the one below.
            if found := tuple(claim for claim in claims if claim is not None):
                return LatestClaims(number, found)
        return self._standing() if known else LatestClaims(0, ())

    def _keys(self, known: int) -> set[str]:
        """The keys of epochs from `known` on, with those that a listing lacks."""
        start = EpochEntry.key_of(f"{known - 1:08d}") if known > 1 else ""
        keys = set(list_epoch_keys(self._shelf, start, warn=True))
        if self._fenced:
            listed = max(map(epoch_number, keys), default=0)
            if (newest := self._newest_after(listed)) > listed:
                keys.add(EpochEntry.key_of(f"{newest:08d}"))
        return keys

    def _newest_after(self, number: int) -> int:
        """The newest epoch from `number` on, asked for by name; no number is left out, so few need to be asked for."""
        step = 1
        while self._has(number + step):
            number += step
            step *= 2
        while (step := step // 2) > 0:
            if self._has(number + step):
                number += step
        return number

    def _refusal(
        self, standing: LatestClaims, holder: EpochEntry, identity: WriterIdentity, record: ClaimRecord
    ) -> str:
        url = self._shelf.store.url
        if damage := next((one.damage for one in standing.claims if one.entry.key == holder.key), ""):
            return (
                f"{url} is held by a writer whose claim {holder.key} cannot be read ({damage}); if it is mounted "
                "nowhere, mount with --take-over"
            )
        where = "this machine, but another state directory, or another copy of the volume"
        if _is_elsewhere(holder, identity):
            where = "another machine"
        if record.is_copy(identity.home) and record.holds(holder):
            where = "another machine, from which the state directory here was copied"
        return (
            f"{url} is held by a writer that has not released it: host {holder.host} ({where}), "
            f"user {holder.user}, process {holder.pid}, since {holder.time:%Y-%m-%d %H:%M:%S} UTC; "
            "unmount it there, or, if it is gone for good, mount with --take-over"
        )


def _is_elsewhere(holder: EpochEntry, identity: WriterIdentity) -> bool:
    if holder.machine and identity.machine:
        return MachineId(holder.machine, holder.board).differs(identity.home)
    return holder.host != identity.host


def _may_need_base(one: EpochState) -> bool:
    """Whether a writer had been taken over from when that epoch began, as far as is known."""
    return one.entry.took_over is not None or one.entry.unsettled or bool(one.damage)
