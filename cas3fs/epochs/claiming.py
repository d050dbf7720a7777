# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims and releases epochs, and finds out whether another writer has taken over.

The subpackage's docstring has the invariants. A claim goes through these steps:

1. Read the claim file and the newest epoch; see whether our own pending claim arrived.
2. Refuse if another writer holds the newest epoch, unless that one is to be taken over.
3. Write the next number and a new uuid into the claim file as the pending claim.
4. Create the entry. Where the store ignores conditions, list the epochs, and withdraw if there is a rival.
5. Write into the claim file that the claim is held.

Whatever must exist is looked up by name; a listing can only add to that. An epoch whose entry cannot be read counts as
held by an unknown writer: only a take-over goes past it, or the state directory that knows it as its own.

An `Epochs` remembers the greatest epoch number that was seen. The number only grows; when another thread sees a later
epoch, a writer finds out at its next call at the latest.
"""

import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import attrs

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import BASE_ID, RELEASED_ID, BaseEntry, EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.claim_file import ClaimRecord, OwnClaim, read_claim_file, set_aside_if_damaged, write_claim_file
from cas3fs.epochs.epoch_entries import EpochState, epoch_number, list_epoch_keys, read_epoch_entry, read_release
from cas3fs.epochs.history import EpochHistory
from cas3fs.epochs.identity import MachineId, WriterIdentity
from cas3fs.epochs.latest_epoch import LatestClaims, LatestEpochFinder
from cas3fs.errors import EpochHeld, ObjectExists

ATTEMPTS: Final = 8
"""How often a claim that met a rival is tried again."""
FIRST_WAIT_S: Final = 0.2
GAP_FILL_LIMIT: Final = 1000
"""At most so many lost numbers are claimed one by one."""


class Handover(NamedTuple):
    """What the last release before a claim states about the store."""

    snapshot: str | None = None
    """Id of the newest snapshot; None if it names none."""
    retained: tuple[str, ...] = ()
    """Ids of all snapshots."""


EMPTY_HANDOVER: Final = Handover()


@attrs.frozen
class Claim:
    """A successful claim."""

    epoch: int
    uuid: UUID
    key: str
    """Key of its entry in the store."""
    lineage: tuple[UUID, ...]
    """Earlier claims of this state directory since another writer last held the volume, oldest first. If empty, the
    local state, if any, is no continuation of the state of the store."""
    took_over: str | None = None
    """Key of the held epoch that this claim took over from another writer."""
    before: int = 0
    """Number of the previous epoch; 0 if there was none."""
    after_release: bool = True
    """Whether the previous epoch was released, or there was none."""
    base_due: bool = False
    """Whether this claim must write a base: a writer was taken over, and no base states from which snapshot the volume
    continues."""
    handover: Handover = EMPTY_HANDOVER
    overruled: frozenset[int] | None = None
    """The epochs that were taken over and not released by the time of the claim; None if unknown."""
    bases: frozenset[int] | None = None
    """The earlier epochs that have a base; None if unknown."""


class Epochs:
    """Claims and releases epochs of a volume.

    Args:
        shelf: the volume's entries.
        conditional_writes: the store honours conditional writes.
        now, sleep, jitter: clock, waiting (seconds) and a random number from 0 to 1, for tests.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        conditional_writes: bool = True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._shelf = shelf
        self._conditional_writes = conditional_writes
        self._now = now
        self._sleep = sleep
        self._jitter = jitter
        self._finder = LatestEpochFinder(shelf, conditional_writes=conditional_writes)
        self._seen = 0

    def newest(self) -> EpochState | None:
        """Return the newest epoch; of rivals, a held one before a released one. None if there never was one.

        Raises:
            VolumeFormatError: this version cannot read a name among the epochs.
            StoreError: the store failed.
        """
        return self._finder.find().top

    def claim(self, identity: WriterIdentity, claim_file: Path, *, take_over: bool = False) -> Claim:
        """Claim the next epoch, and so become the only writer.

        Args:
            identity: shown to writers that are refused.
            claim_file: of the state directory, which only this process may use; created if it is missing.
            take_over: claim although another writer holds the volume (the one that held it when this call began), and
                although the claim file is damaged, which is set aside.

        Raises:
            EpochHeld: another writer holds the volume.
            StateConflict: the claim file cannot be read.
            StoreError: the store failed; claiming again is safe.
        """
        to_overrule: frozenset[str] | None = None
        if take_over:
            set_aside_if_damaged(claim_file)
        for attempt in range(ATTEMPTS):
            record = read_claim_file(claim_file)
            latest = self._finder.find(record.newest)
            if self._conditional_writes:
                latest = record.identify(latest)
            record = record.with_pending_resolved(latest)
            others = record.held_by_others(latest, identity.machine_id)
            if to_overrule is None:
                to_overrule = frozenset(one.key for one in others) if take_over else frozenset()
            if any(one.key not in to_overrule for one in others):
                raise EpochHeld(self._refusal(latest, others[0], identity, record))
            claim = self._attempt(identity, claim_file, record, latest, others)
            if claim is not None:
                return self._claim_past(record.seen, claim, identity, claim_file)
            self._sleep(FIRST_WAIT_S * 2**attempt * self._jitter())
        raise EpochHeld(f"{self._shelf.store.url}: other writers keep claiming the volume; try again later")

    def release(self, claim: Claim, snapshot: str | None = None, retained: tuple[str, ...] = ()) -> None:
        """Release the epoch: everything is stored. Releasing twice is harmless.

        Args:
            snapshot: id of the newest snapshot; None if it is unknown, or the same as at the claim.
            retained: ids of all snapshots; empty if they are unknown.

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
            # Only the owner writes it, so it is from an earlier attempt of ours.
            return

    def is_newest(self, claim: Claim) -> bool:
        """Return whether no later writer has claimed the volume.

        Makes one LIST. Where the store honours conditional writes, the next epoch is also looked up by name, because a
        listing may lack it.

        Raises:
            StoreError: the store failed, so the answer is unknown.
        """
        start = EpochEntry.key_of(f"{claim.epoch:08d}")
        later = map(epoch_number, list_epoch_keys(self._shelf, start))
        self.note_epoch(max(later, default=0))
        if self._conditional_writes and self._seen <= claim.epoch and self._finder.exists(claim.epoch + 1):
            self.note_epoch(claim.epoch + 1)
        return self._seen <= claim.epoch

    def note_epoch(self, epoch: int) -> None:
        """Record that the store has an object of that epoch, so that writers of earlier epochs are fenced."""
        self._seen = max(self._seen, epoch)

    def overruled(self, claim: Claim | None = None) -> frozenset[int]:
        """Return the numbers of epochs that were taken over and not released since.

        Their writers may not know it yet, and may still store objects of those epochs. Makes a GET for each epoch that
        `claim` states to be overruled. Without a claim it makes one LIST, and a GET for each epoch that was never
        released, or a single one if the newest claim states which are overruled.

        Raises:
            StoreError: the store failed.
        """
        if claim is None or claim.overruled is None:
            return EpochHistory(self._shelf).overruled()
        return self._unreleased(claim.overruled)

    def _claim_past(self, seen: int, claim: Claim, identity: WriterIdentity, claim_file: Path) -> Claim:
        """Claim further numbers until one is greater than `seen`, and return that claim.

        The store has lost epochs that this state directory saw, as after it was restored from a backup; names that
        they used must not be used again. No number is skipped, unless more than `GAP_FILL_LIMIT` were lost. The epochs
        in between count as taken over: what the store may still have of them stays until a person releases it.
        """
        first = claim
        while claim.epoch <= seen:
            record = read_claim_file(claim_file)
            latest = self._finder.find(claim.epoch)
            if seen - claim.epoch > GAP_FILL_LIMIT:
                latest = latest._replace(number=seen)
            lost = [one.entry for one in latest.claims]
            following = self._attempt(identity, claim_file, record, latest, lost)
            if following is None or not record.holds_all(latest):
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

    def _attempt(
        self,
        identity: WriterIdentity,
        claim_file: Path,
        record: ClaimRecord,
        latest: LatestClaims,
        others: list[EpochEntry],
    ) -> Claim | None:
        """Try to claim the next number; return None if there is a rival."""
        own = record.next_claim(latest.number + 1, conditional_writes=self._conditional_writes)
        pending = record.with_pending(own, latest, identity.machine_id)
        write_claim_file(claim_file, pending)
        entry = self._entry(identity, own, latest, others[0].key if others else None)
        handover = self._read_handover(entry.handover)
        if not self._create(entry) or not (self._conditional_writes or self._is_alone(entry, latest)):
            return None
        write_claim_file(claim_file, pending.with_pending_held())
        return Claim(
            own.epoch,
            own.uuid,
            entry.key,
            lineage=tuple(one.uuid for one in record.held) if pending.continues else (),
            took_over=entry.took_over,
            before=latest.number,
            after_release=latest.top is None or latest.top.released,
            base_due=entry.took_over is not None or entry.unsettled,
            handover=handover,
            overruled=None if entry.overruled is None else frozenset(entry.overruled),
            bases=None if entry.bases is None else frozenset(entry.bases),
        )

    def _entry(
        self, identity: WriterIdentity, own: OwnClaim, latest: LatestClaims, took_over: str | None
    ) -> EpochEntry:
        number = f"{own.epoch:08d}"
        top = latest.top
        has_base = top is not None and self._has_base(top)
        overruled = self._overruled_after(latest, took_over) if self._conditional_writes else None
        bases = self._bases_after(top, has_base) if self._conditional_writes else None
        return EpochEntry(
            id=number if self._conditional_writes else f"{number}-{own.uuid.hex}",
            epoch=own.epoch,
            claim=own.uuid,
            time=self._now(),
            took_over=took_over,
            overruled=None if overruled is None else tuple(sorted(overruled)),
            bases=None if bases is None else tuple(sorted(bases)),
            unsettled=top is not None and _may_need_base(top) and not has_base,
            handover=None if top is None else top.entry.key if top.released else top.entry.handover,
            **identity._asdict(),
        )

    def _overruled_after(self, latest: LatestClaims, took_over: str | None) -> frozenset[int]:
        """Return `EpochEntry.overruled` of a claim that follows `latest`."""
        top = latest.top
        if top is None:
            return frozenset()
        known = top.entry.overruled
        before = EpochHistory(self._shelf).overruled() if known is None else self._unreleased(known)
        return before | {latest.number} if took_over is not None else before

    def _unreleased(self, numbers: Iterable[int]) -> frozenset[int]:
        keys = {number: EpochEntry.key_of(f"{number:08d}") for number in numbers}
        return frozenset(
            number for number, key in keys.items() if not self._shelf.exists(ReleaseEntry, RELEASED_ID, key)
        )

    def _has_base(self, top: EpochState) -> bool:
        """Return whether that epoch recorded the snapshot from which the volume continued."""
        return _may_need_base(top) and self._shelf.exists(BaseEntry, BASE_ID, top.entry.key)

    def _bases_after(self, top: EpochState | None, has_base: bool) -> frozenset[int]:
        """Return `EpochEntry.bases` of a claim that follows `top`."""
        if top is None:
            return frozenset()
        if top.entry.bases is None:
            keys = list_epoch_keys(self._shelf)
            return frozenset(epoch_number(key) for key in keys if key.endswith(SUB_SEPARATOR + BASE_ID))
        return frozenset(top.entry.bases) | ({top.entry.epoch} if has_base else set())

    def _read_handover(self, key: str | None) -> Handover:
        """Read the handover from the release of the epoch of that key."""
        release = None if key is None else read_release(self._shelf, key)[1]
        return EMPTY_HANDOVER if release is None else Handover(release.snapshot, release.retained)

    def _create(self, entry: EpochEntry) -> bool:
        """Create the entry; return whether it exists now and is ours."""
        try:
            self._shelf.save(entry)
        except ObjectExists:
            # It may be from an attempt of ours that seemed to fail.
            found = read_epoch_entry(self._shelf, entry.key)
            return found is not None and found.claim == entry.claim
        return True

    def _is_alone(self, entry: EpochEntry, latest: LatestClaims) -> bool:
        """Return whether nobody has claimed anything since `latest` was read; otherwise withdraw `entry`.

        All later claims count, not only those of this number: a writer that saw a claim which was withdrawn just now
        has claimed a greater number than a rival that did not see it.
        """
        start = EpochEntry.key_of(f"{latest.number:08d}")
        keys = {key.partition(SUB_SEPARATOR)[0] for key in list_epoch_keys(self._shelf, start)}
        rivals = keys - {entry.key} - {one.entry.key for one in latest.claims}
        if rivals:
            self._shelf.remove(entry)
        return not rivals

    def _refusal(self, latest: LatestClaims, holder: EpochEntry, identity: WriterIdentity, record: ClaimRecord) -> str:
        """Return the message for a writer that is refused."""
        url = self._shelf.store.url
        if damage := next((one.damage for one in latest.claims if one.entry.key == holder.key), ""):
            return (
                f"{url} is held by a writer whose claim {holder.key} cannot be read ({damage}); if it is not mounted "
                "anywhere, mount with --take-over"
            )
        where = "this machine, but another state directory, or another copy of the volume"
        if _is_elsewhere(holder, identity):
            where = "another machine"
        if record.is_copy(identity.machine_id) and record.holds(holder):
            where = "another machine, from which the state directory here was copied"
        return (
            f"{url} is held by a writer that has not released it: host {holder.host} ({where}), "
            f"user {holder.user}, process {holder.pid}, since {holder.time:%Y-%m-%d %H:%M:%S} UTC; "
            "unmount it there, or, if that writer is gone for good, mount with --take-over"
        )


def _is_elsewhere(holder: EpochEntry, identity: WriterIdentity) -> bool:
    if holder.machine and identity.machine:
        return MachineId(holder.machine, holder.board).differs(identity.machine_id)
    return holder.host != identity.host


def _may_need_base(one: EpochState) -> bool:
    """Return whether a writer may have been taken over when that epoch began, and no base was recorded before."""
    return one.entry.took_over is not None or one.entry.unsettled or bool(one.damage)
