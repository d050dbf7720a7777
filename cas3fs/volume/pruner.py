# SPDX-License-Identifier: GPL-3.0-or-later
"""Deletes snapshots under one writer's claim: those that the retention policy does not keep, or given ones.

Before every deletion the epochs are listed, so that a writer which was taken over from deletes nothing. The caller
ensures that nothing is published meanwhile (`Publisher.exclusively`), so the pruner needs no lock of its own.

Pruning after every publication costs no request while nothing is expired: the snapshots are listed once and remembered.
When some are expired, they are listed once more, and only manifests not read before are read.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from cas3fs.epochs import Claim, Epochs
from cas3fs.errors import Cas3fsError, Fenced, SnapshotError
from cas3fs.maintenance.store_clock import store_clock_now
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo, bypassed_by
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.removal import (
    RemovalPlan,
    SnapshotInventory,
    execute_removal,
    plan_removal,
    take_snapshot_inventory,
)
from cas3fs.snapshots.retention import RetentionDecision, apply_policy, check_clocks, current_policy
from cas3fs.values import SnapshotNumber

_POLICY_FRESH_S: Final = 3600.0

_log = logging.getLogger(__name__)


@attrs.frozen
class PrunePlan:
    """What a policy decides for each snapshot of a volume, and what is deleted."""

    verdicts: tuple[RetentionDecision, ...]
    removal: RemovalPlan

    def report(self) -> dict[str, Any]:
        """Returns the plan as ``--json`` prints it."""
        return {
            "kept": [
                {
                    "id": one.snapshot.id,
                    "name": one.snapshot.name,
                    "time": one.snapshot.time.isoformat(),
                    "kept_by": list(one.kept_by),
                }
                for one in self.verdicts
                if one.kept_by
            ],
            "removed": list(self.removal.snapshots),
            "pages_removed": len(self.removal.pages),
            "bytes_freed": self.removal.freed_bytes,
        }


class SnapshotPruner:
    """Deletes snapshots under one claim.

    Args:
        next_number: returns the least number that a future snapshot under this claim can have.
        shown: returns the snapshots that are mounted on this machine at the moment, and where: these are kept. Readers
            on other machines are unknown.
        before_delete: called before snapshots are deleted, with their ids.
    """

    def __init__(
        self,
        archive: SnapshotArchive,
        epochs: Epochs,
        claim: Claim,
        next_number: Callable[[], SnapshotNumber],
        *,
        shown: Callable[[], Mapping[str, str]],
        before_delete: Callable[[Collection[str]], None] = lambda ids: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._archive = archive
        self._epochs = epochs
        self._claim = claim
        self._next_number = next_number
        self._shown = shown
        self._before_delete = before_delete
        self._now = now
        self._known: list[SnapshotInfo] | None = None
        self._exempt: frozenset[str] | None = None
        self._policy: RetentionPolicy | None = None
        self._policy_read_s = 0.0

    def published(self, snapshot: SnapshotInfo) -> None:
        """Records a new head."""
        if self._known is not None:
            self._known.append(snapshot)

    def stored_bytes(self) -> int | None:
        """Returns the size of the snapshots in the store, without packs; None before the first listing."""
        known = self._known
        return None if known is None else self._archive.known_bytes(list(known))

    def plan(self, policy: RetentionPolicy | None) -> PrunePlan:
        """Returns what `policy`, or else the volume's own, would delete; nothing is changed.

        Raises:
            SnapshotError: a manifest cannot be read, or the store's clock and that of this machine disagree.
            StoreError: the store failed.
        """
        if policy is None:
            policy = self._policy = current_policy(self._archive.shelf)
            self._policy_read_s = time.monotonic()
        inventory = take_snapshot_inventory(self._archive)
        self._epochs.note_epoch(inventory.latest_epoch)
        for error in inventory.damaged.values():
            raise error
        self._known = list(inventory.snapshots)
        self._exempt = self._exempt_ids()
        now = store_clock_now(self._archive.shelf.store) if policy.has_ages else self._now()
        check_clocks(policy, self._now(), now)
        verdicts = apply_policy(self._known, policy, now, exempt=self._exempt, in_use=self._shown())
        expired = [one.snapshot.id for one in verdicts if not one.kept_by]
        return PrunePlan(verdicts, plan_removal(self._archive, expired, self._is_explained(inventory), inventory))

    def prune(self, policy: RetentionPolicy | None) -> PrunePlan:
        """Deletes what no rule keeps.

        Raises:
            Fenced: another writer has taken over; nothing was deleted.
            As `plan`; pruning again is safe.
        """
        pruning = self.plan(policy)
        self._execute(pruning.removal)
        return pruning

    def delete(self, snapshot_ids: list[str]) -> RemovalPlan:
        """Deletes the given snapshots.

        Raises:
            SnapshotMissing: there is no such snapshot.
            SnapshotError: one of them is the head or is being read here, or one that stays cannot be read.
            Fenced, StoreError: as `prune`.
        """
        head = self._archive.newest_id()
        if head in snapshot_ids:
            raise SnapshotError(
                f"snapshot {head} is the newest, which the next mount starts from: it cannot be deleted"
            )
        self._refuse_in_use(snapshot_ids)
        inventory = take_snapshot_inventory(self._archive)
        inventory = attrs.evolve(inventory, missing=inventory.missing - set(snapshot_ids))
        self._epochs.note_epoch(inventory.latest_epoch)
        plan = plan_removal(self._archive, snapshot_ids, self._is_explained(inventory), inventory)
        self._execute(plan)
        return plan

    def prune_expired(self) -> None:
        """Deletes what the volume's policy does not keep. A failure is logged; the next run tries again."""
        try:
            if self._has_expired():
                removed = self.prune(self._policy).removal.snapshots
                _log.info("the retention policy deleted %d snapshots: %s", len(removed), ", ".join(removed))
        except Cas3fsError as error:
            _log.warning("old snapshots could not be pruned: %s", error)

    def _has_expired(self) -> bool:
        """Whether a snapshot is expired, judging by what is known here."""
        if self._policy is None or time.monotonic() - self._policy_read_s > _POLICY_FRESH_S:
            self._policy = current_policy(self._archive.shelf)
            self._policy_read_s = time.monotonic()
        if self._known is None:
            self._known = self._archive.list(self._log_damage)
            self._exempt = None
        if self._exempt is None and self._claim.epoch > 1:
            self._exempt = self._exempt_ids()
        verdicts = apply_policy(self._known, self._policy, self._now(), exempt=self._exempt or (), in_use=self._shown())
        return any(not one.kept_by for one in verdicts)

    @staticmethod
    def _log_damage(snapshot_id: str, error: SnapshotError) -> None:
        _log.warning("snapshot %s cannot be read: %s", snapshot_id, error)

    def forget_policy(self) -> None:
        """Has the policy read again, as it was replaced."""
        self._policy = None

    def _exempt_ids(self) -> frozenset[str]:
        """Returns the snapshots that no rule applies to: those that have (or may have) diverged, and bypassed ones."""
        assert self._known is not None
        return self._archive.possibly_diverged([one.id for one in self._known]) | bypassed_by(self._known)

    def _is_explained(self, inventory: SnapshotInventory) -> Callable[[SnapshotNumber], bool]:
        overruled = self._epochs.overruled(self._claim)
        coming, lost = self._next_number(), inventory.newest_lost

        def is_over(number: SnapshotNumber) -> bool:
            return number < coming and number.epoch not in overruled and (lost is None or number > lost)

        return is_over

    def _execute(self, plan: RemovalPlan) -> None:
        known, self._known = self._known, None  # listed again if this fails
        execute_removal(self._archive, plan, lambda: self._check_before_deletion(plan))
        self._known = None if known is None else [one for one in known if one.id not in plan.snapshots]

    def _refuse_in_use(self, snapshot_ids: Sequence[str]) -> None:
        shown = self._shown()
        for one in snapshot_ids:
            if one in shown:
                raise SnapshotError(f"snapshot {one} is {shown[one]}: unmount it there before it is deleted")

    def _check_before_deletion(self, plan: RemovalPlan) -> None:
        self._refuse_in_use(plan.snapshots)  # once more: a mount records a snapshot before it reads it
        if not self._epochs.is_newest(self._claim):
            raise Fenced("another writer has taken over the volume, so nothing is deleted")
        if plan.snapshots:
            self._before_delete(plan.snapshots)
