# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a writer may continue with the local index: what the index records of itself, compared with the store.

A state directory can be an old copy: restored from a backup, or with the whole machine when that is set back to an
earlier state. And the store can be another one than the index knows: an older state of it, restored from a backup, or a
copy with a history of its own. Neither shows in the claim file, which is copied with the rest. What the index records
(`index.state`):

- ``claim``: uuid of the claim under which it was written last; set before anything else is written under it.
- ``lineage``: uuid given to this file when it was created or restored; staging has the same uuid.
- ``attempted``: that claim again, and the number of the last snapshot that may have been put under it; durable before
  any part of that snapshot is put.
- ``published``: id of the snapshot that was made of it last, or that it was restored from.
- ``proof``: that id again, and the BLAKE3 of the bytes of its manifest.
- ``clean``: that id again (or an empty text where there is none), while nothing has changed since and nothing is
  staged; removed before anything can change.

Numbers of snapshots only grow, and each is attempted once. So if the claims show that only this state directory has
written, no snapshot has a greater number than the one attempted, unless the index is an old copy. And the snapshot that
the index continues from is in the store, with those bytes, unless the store is older, or another. It is read by its
name, as a listing may be stale.

An index that an earlier version wrote lacks ``attempted`` and ``proof``, or has those of another claim. Then the checks
that need them are skipped.
"""

import enum
from collections.abc import Collection

import attrs

from cas3fs.errors import IndexCorrupt, ObjectMissing, SnapshotArchived, SnapshotDamaged, SnapshotMissing
from cas3fs.index import Index
from cas3fs.maintenance.damaged_objects import QUARANTINED_SNAPSHOTS
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.divergence import is_diverged
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import SnapshotNumber

CLAIM, LINEAGE, ATTEMPTED, PUBLISHED, PROOF, CLEAN = "claim", "lineage", "attempted", "published", "proof", "clean"
EMPTY = ""
"""Stands for the snapshot of an empty index, which is never published."""


class IndexStatus(enum.Enum):
    """How the local index relates to the store. The values are log messages: {state} is the index's folder, {published}
    the snapshot that it continues from."""

    CURRENT = "the state in {state} is what {url} has, or ahead of it"
    SUPERSEDED = (
        "another writer, or a later copy of this state, has written since, and the state in {state} holds changes "
        "that were not published"
    )
    OLD_COPY = (
        "the state in {state} is an old copy: newer snapshots were published from it (was it, or this machine, put "
        "back from a backup?)"
    )
    STORE_OLDER = (
        "{url} lacks snapshot {published}, which the state in {state} continues from, and everything later: "
        "the store is in an older state (was it put back from a backup?)"
    )
    STORE_OTHER = (
        "{url} is not the store that the state in {state} belongs to: its snapshots have the same numbers and other "
        "contents"
    )


@attrs.frozen
class LineageRecord:
    """What an index records of itself."""

    claim: str | None
    published: str | None
    """None where nothing was published."""
    clean: str | None
    attempted: SnapshotNumber | None
    digest: str | None
    """Of the manifest of `published`."""

    @classmethod
    def read(cls, index: Index) -> "LineageRecord":
        """Reads the record from an open index.

        Raises:
            IndexCorrupt: a value is invalid.
        """
        claim, published = index.state.get(CLAIM), index.state.get(PUBLISHED) or None
        if published is not None and _number(published) is None:
            raise IndexCorrupt(
                f"{index.path} names {published!r} as the snapshot that it continues from, which is not a snapshot's id"
            )
        under, _, number = (index.state.get(ATTEMPTED) or "").partition(" ")
        proven, _, digest = (index.state.get(PROOF) or "").partition(" ")
        return cls(
            claim,
            published,
            index.state.get(CLEAN),
            _number(number) if under == claim else None,
            digest if proven == published and digest else None,
        )

    @property
    def limit(self) -> SnapshotNumber | None:
        """The greatest number that a snapshot of it can have; None if it is not known."""
        known = [SnapshotNumber.parse(self.published)] if self.published else []
        return None if self.attempted is None else max([self.attempted, *known])


def _number(text: str) -> SnapshotNumber | None:
    try:
        return SnapshotNumber.parse(text)
    except ValueError:
        return None


def attempt_text(claim: object, number: SnapshotNumber) -> str:
    """The text of ``attempted``."""
    return f"{claim} {number}"


def proof_text(snapshot_id: str, digest: str) -> str:
    """The text of ``proof``."""
    return f"{snapshot_id} {digest}"


@attrs.frozen
class ComparisonResult:
    """The result of a comparison."""

    status: IndexStatus
    newest: str | None
    """The newest snapshot of the store, which a stale listing may lack."""


class StoreComparison:
    """Compares one index with one store.

    Args:
        listed: the newest snapshot that has not diverged, as a listing has it.
        claims: of this state directory, with no other writer in between, up to now.

    Raises:
        StoreError: from every method: the store failed.
    """

    def __init__(
        self, archive: SnapshotArchive, record: LineageRecord, listed: str | None, claims: Collection[str]
    ) -> None:
        self._archive = archive
        self._record = record
        self._claims = claims
        self._newest = self._corrected(listed)

    def compare(self) -> ComparisonResult:
        """Compares them."""
        is_ahead = self._record.clean is None and self._record.claim in self._claims
        return ComparisonResult(self._compare_unpublished() if is_ahead else self._compare_published(), self._newest)

    def _corrected(self, listed: str | None) -> str | None:
        """Returns the newest known snapshot: the one listed, or one that the index names and the store has."""
        record = self._record
        attempted = str(record.attempted) if record.attempted is not None and record.attempted.sequence else None
        named = sorted({one for one in (record.published, attempted) if one and _is_newer(one, listed)}, reverse=True)
        for one in named:
            if self._has(one) and not is_diverged(SnapshotNumber.parse(one), self._archive.bases.all()):
                return one
        return listed

    def _compare_unpublished(self) -> IndexStatus:
        """Returns the status if no other writer has written since; the index may hold more than was published."""
        record, newest = self._record, self._newest
        if record.limit is None:  # written by an earlier version
            return IndexStatus.CURRENT
        if newest is not None and SnapshotNumber.parse(newest) > record.limit:
            return IndexStatus.OLD_COPY
        if record.published is not None and _is_newer(record.published, newest):
            return IndexStatus.CURRENT if self._was_quarantined(record.published) else IndexStatus.STORE_OLDER
        is_known = self._has_bytes(newest) if newest == record.published else self._was_made_here(newest)
        return IndexStatus.CURRENT if is_known else IndexStatus.STORE_OTHER

    def _compare_published(self) -> IndexStatus:
        """Returns the status if others have written since, or the index holds no more than was published."""
        if self._record.published is not None and _is_newer(self._record.published, self._newest):
            return IndexStatus.STORE_OLDER
        if self._record.clean != (self._newest or EMPTY):
            return IndexStatus.SUPERSEDED
        return IndexStatus.CURRENT if self._has_bytes(self._newest) else IndexStatus.STORE_OTHER

    def _has(self, snapshot_id: str) -> bool:
        try:
            self._archive.load(snapshot_id)
        except SnapshotMissing:
            return False
        except (SnapshotDamaged, SnapshotArchived):
            return True
        return True

    def _has_bytes(self, newest: str | None) -> bool:
        """Whether the newest snapshot is as the index knows it. A damaged manifest proves nothing against it."""
        info = self._load(newest)
        return info is None or self._record.digest in (None, info.digest)

    def _was_made_here(self, newest: str | None) -> bool:
        """Whether one of our claims has published the newest snapshot, if it records one: it may never have been
        acknowledged."""
        info = self._load(newest)
        return info is None or info.claim is None or str(info.claim) in self._claims

    def _load(self, snapshot_id: str | None) -> SnapshotInfo | None:
        try:
            return None if snapshot_id is None else self._archive.load(snapshot_id)
        except (SnapshotDamaged, SnapshotArchived, SnapshotMissing):
            # missing: a release names it, so the store is not an older one
            return None

    def _was_quarantined(self, snapshot_id: str) -> bool:
        """Whether a repair quarantined its damaged manifest."""
        try:
            self._archive.shelf.store.head(QUARANTINED_SNAPSHOTS + snapshot_id)
        except ObjectMissing:
            return False
        return True


def _is_newer(one: str, other: str | None) -> bool:
    return other is None or SnapshotNumber.parse(one) > SnapshotNumber.parse(other)
