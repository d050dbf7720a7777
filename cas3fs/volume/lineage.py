# SPDX-License-Identifier: GPL-3.0-or-later
"""Which index a writer begins with: the local one, the newest snapshot, or an empty one.

The epoch is claimed first, and only then snapshots are listed, so the newest one seen is the newest there will be.
What the local index records of itself is compared with the store (module `comparison`). The decision:

0. The local index was closed as what a snapshot holds, and its bytes have changed since (`cas3fs.index.files`): it
   is set aside, and removed when the newest snapshot is restored in its place.
1. The local index's claim is among those of this state directory with no other writer in between (`Claim.lineage`), it
   is not an old copy, and the store is the one that it knows, and not an older state of it: use it, whether or not it
   is ahead of the newest snapshot; staging of the same lineage is replayed.
2. Otherwise, if it is clean and its snapshot is the newest one, byte for byte: use it.
3. Otherwise, if it is clean and others have written since, or there is no local index: restore the newest snapshot.
4. Otherwise it has, or may have, what the newest snapshot lacks: it is set aside, with its staging, and the newest
   snapshot is restored. Nothing is deleted.

Where the process may die, and what the next mount finds:

- after the claim, before the index says so: the claim file has the claim as ours, so case 1 still holds;
- while restoring: ``restore.sqlite`` is incomplete, and removed; there is no index, so case 3;
- after the restored file took its place: its ``claim`` is that of the writer who published it, but ``clean`` was set
  in it first, so case 2, or 3 if others have published since;
- after publishing, before ``clean`` is set: case 1.
"""

import logging
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import attrs

from cas3fs.epochs import Claim
from cas3fs.errors import IndexCorrupt, IndexDatabaseError, SnapshotArchived, SnapshotDamaged, SnapshotMissing
from cas3fs.filesystem.state.quarantine import quarantine_folder
from cas3fs.index import Index, StagingIndex, migrations
from cas3fs.index.files import (
    check_fingerprint,
    fingerprinted,
    put_in_place,
    remove_fingerprint,
    write_fingerprint,
)
from cas3fs.index.salvage import open_or_salvage
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.snapshot_reader import RestoreProgress
from cas3fs.values import SnapshotNumber
from cas3fs.volume.comparison import (
    ATTEMPTED,
    CLAIM,
    CLEAN,
    EMPTY,
    LINEAGE,
    PROOF,
    PUBLISHED,
    IndexStatus,
    LineageRecord,
    StoreComparison,
    attempt_text,
    proof_text,
)
from cas3fs.volume.state_directory import StateDirectory, local_indexes

_log = logging.getLogger(__name__)


@attrs.frozen
class LocalIndex:
    """The index that a writer begins with, open, and the rows of staging."""

    index: Index
    rows: StagingIndex
    published: str | None
    """The snapshot that it was made from; None if there is none."""
    newest: str | None
    """The newest snapshot in the store."""
    clean: str | None
    """If it holds exactly what a snapshot holds: that snapshot's id, or an empty text for an empty index; else None."""
    lineage: str
    """A uuid that identifies the index since its creation."""


OnDamaged = Callable[[str, SnapshotDamaged], None]
"""Quarantines a damaged snapshot, given by its id."""


def select_index(
    state: StateDirectory,
    archive: SnapshotArchive,
    claim: Claim,
    progress: RestoreProgress = lambda done, total: None,
    on_damaged: OnDamaged | None = None,
) -> LocalIndex:
    """Puts index and staging in place, and records `claim` in them. With `on_damaged`, the newest snapshot that is
    intact is restored; without it, a damaged newest snapshot is an error.

    Raises:
        SnapshotError, StoreError: the newest snapshot cannot be read.
        IndexDatabaseError: the local index is damaged, or was written by a newer cas3fs; it is not changed.
    """
    newest = archive.newest_id()
    state.remove_scratch()
    state.remove_copy_work()
    damaged = _set_aside_damaged(state) if state.index.exists() else None
    if state.index.exists():
        remove_fingerprint(state.index)
        newest = _keep_or_set_aside(state, archive, claim, newest)
    if not state.index.exists():
        newest = _install_index(state, archive, newest, progress, on_damaged)
    if damaged is not None:
        _drop_damaged(state, archive, damaged)
    return _record(state, archive, claim, newest)


@attrs.frozen
class _Damaged:
    """An index that was closed as what a snapshot holds and was damaged since: where it is, and which snapshot."""

    aside: Path
    snapshot: str


def damage_since_closed(index: Path) -> str:
    """Returns what is wrong with an index that was closed as what a snapshot holds; empty if nothing is.

    An index that does not record that it was closed like that is another one, put in its place.

    Raises:
        IndexDatabaseError: the disk failed.
    """
    try:
        check_fingerprint(index)
    except IndexCorrupt as error:
        return str(error) if _may_be(index, fingerprinted(index)) else ""
    return ""


def _set_aside_damaged(state: StateDirectory) -> _Damaged | None:
    """Sets the local index aside if its bytes are not those that were written when it was closed."""
    detail, snapshot = damage_since_closed(state.index), fingerprinted(state.index)
    if not detail:
        return None
    aside = state.set_aside()
    _log.error("%s: the newest snapshot is restored in its place; until then it is in %s", detail, aside)
    return _Damaged(aside, str(snapshot))


def _may_be(index: Path, snapshot: str | None) -> bool:
    """Whether an index records that it holds what `snapshot` holds, or is unreadable."""
    try:
        with Index.open(index, read_only=True) as opened:
            return LineageRecord.read(opened).clean == snapshot
    except IndexDatabaseError:
        return True


def _drop_damaged(state: StateDirectory, archive: SnapshotArchive, damaged: _Damaged) -> None:
    """Removes a damaged index if the store has everything in it, now that another one is in place."""
    try:
        with closing(StagingIndex(damaged.aside / "staging.sqlite")) as rows:
            is_staged = any(True for _ in rows.rows())
    except IndexDatabaseError:
        is_staged = True
    is_stored = damaged.snapshot in {EMPTY, *archive.ids()}
    if is_stored and not is_staged and state.remove_set_aside(damaged.aside):
        _log.warning("the damaged index is removed: it held what snapshot %s holds", damaged.snapshot)


def _keep_or_set_aside(state: StateDirectory, archive: SnapshotArchive, claim: Claim, newest: str | None) -> str | None:
    """Keeps the local index if it can be used, else removes it or sets it aside; returns the newest snapshot, which may
    be newer than the one listed."""
    try:
        migrations.upgrade(state.index)
        with Index.open(state.index) as index:
            record = LineageRecord.read(index)
    except IndexDatabaseError as error:
        url = archive.shelf.store.url
        by_repair = f"`cas3fs fsck --repair {url}` sets it aside and starts from the newest snapshot, as does "
        advice = by_repair if isinstance(error, IndexCorrupt) else "a mount starts from the newest snapshot after "
        raise type(error)(f"{error}; {advice}moving {state.path} away, and `cas3fs mount --take-over`") from error
    found = StoreComparison(archive, record, newest, {str(one) for one in claim.lineage}).compare()
    if found.status is IndexStatus.CURRENT:
        return found.newest
    if found.status is not IndexStatus.SUPERSEDED:
        archive.tracker.clear_expected()
    if found.status is IndexStatus.SUPERSEDED and record.clean is not None:
        state.supersede_index()
        return found.newest
    began = f"snapshot {found.newest}" if found.newest else "an empty volume, as there is no snapshot"
    _log.warning(
        "%s, so it is set aside, and the mount starts from %s; `cas3fs rescue %s FOLDER` saves what only it has",
        found.status.value.format(published=record.published, state=state.path, url=archive.shelf.store.url),
        began,
        state.set_aside(),
    )
    return found.newest


def _install_index(
    state: StateDirectory,
    archive: SnapshotArchive,
    newest: str | None,
    progress: RestoreProgress,
    on_damaged: OnDamaged | None,
) -> str | None:
    """Puts an index in place: that of the snapshot `newest`, or an empty one; returns the id of the snapshot."""
    if state.has_staged():
        aside = state.set_aside(staging_only=True)
        _log.warning("staged data without its index was found and is set aside in %s", aside)
    state.discard_index()
    if newest is None:
        with Index.open(state.index, create=True) as index:
            mark_clean(index, EMPTY)
        return None
    newest = _restore_newest_intact(state, archive, newest, progress, on_damaged)
    migrations.upgrade(state.restored)
    with Index.open(state.restored, scratch=True) as index:
        with index.operation():
            index.state.set(LINEAGE, str(uuid.uuid4()))
            index.state.set(PUBLISHED, newest)
            index.state.set(PROOF, proof_text(newest, archive.load(newest).digest))
            index.state.set(CLEAN, newest)
            index.mark_restored()
        index.commit()
    put_in_place(state.restored, state.index)
    state.remove_superseded()
    return newest


def _restore_newest_intact(
    state: StateDirectory,
    archive: SnapshotArchive,
    newest: str,
    progress: RestoreProgress,
    on_damaged: OnDamaged | None,
) -> str:
    """Restores a snapshot: `newest`, or with `on_damaged` the newest one that is intact; returns its id."""
    local = local_indexes(state.path)
    if on_damaged is None:
        restore_with_advice(archive, newest, state.restored, progress, local)
        return newest
    damaged: dict[str, SnapshotDamaged] = {}
    ids, diverged = archive.ids(), archive.diverged()
    if newest not in ids:
        damaged[newest] = SnapshotDamaged(f"{archive.shelf.store.url} has no snapshot {newest}, which was the newest")
    for one in reversed([each for each in ids if each not in diverged]):
        try:
            archive.restore(one, state.restored, progress, local=local)
        except SnapshotDamaged as error:
            damaged[one] = error
            continue
        for hurt, why in damaged.items():
            on_damaged(hurt, why)
        if damaged:
            archive.set_expected_head(None)
        return one
    raise SnapshotDamaged(f"no snapshot is intact, so there is nothing to start from: {damaged[newest]}")


def restore_with_advice(
    archive: SnapshotArchive, snapshot_id: str, destination: Path, progress: RestoreProgress, local: Iterable[Path] = ()
) -> None:
    """As `SnapshotArchive.restore`; if the snapshot is damaged, or the head is lost, the error names another one
    to use."""
    try:
        archive.restore(snapshot_id, destination, progress, local=local)
    except (SnapshotDamaged, SnapshotMissing) as error:
        is_lost = isinstance(error, SnapshotMissing)
        if is_lost and archive.newest_id() != snapshot_id:
            raise
        earlier = archive.newest_intact_before(snapshot_id)
        if earlier is None and archive.newest_id() == snapshot_id:
            raise SnapshotDamaged(
                f"{error}; no snapshot before it is intact: mount the volume on the machine that wrote it last, if its "
                "state directory is left there, or put the objects back from a copy"
            ) from error
        if earlier is None:
            raise
        raise SnapshotDamaged(
            f"{error}; the newest intact snapshot before it is {earlier}: "
            f"`cas3fs mount --snapshot {earlier}` shows it, and `cas3fs snapshot restore` makes it the newest"
        ) from error


def _record(state: StateDirectory, archive: SnapshotArchive, claim: Claim, newest: str | None) -> LocalIndex:
    """Opens both databases and records in the index that it is written under `claim` from now on."""
    index = Index.open(state.index)
    try:
        record = LineageRecord.read(index)
        proof = _missing_proof(archive, record, newest)
        lineage = index.state.get(LINEAGE) or str(uuid.uuid4())
        with index.operation():
            index.state.set(CLAIM, str(claim.uuid))
            index.state.set(ATTEMPTED, attempt_text(claim.uuid, SnapshotNumber(claim.epoch, 0)))
            index.state.set(LINEAGE, lineage)
            if proof:
                index.state.set(PROOF, proof)
            index.state.remove(CLEAN)
        index.commit()
        index.sync()
        return LocalIndex(index, _open_rows(state, lineage), record.published, newest, record.clean, lineage)
    except BaseException:
        index.close()
        raise


def _missing_proof(archive: SnapshotArchive, record: LineageRecord, newest: str | None) -> str:
    """Returns the proof that an index of an earlier version lacks; empty if it has one, or none can be made."""
    if newest is None or record.published != newest or record.digest is not None:
        return ""
    try:
        return proof_text(newest, archive.load(newest).digest)
    except (SnapshotDamaged, SnapshotArchived, SnapshotMissing):
        return ""


def _open_rows(state: StateDirectory, lineage: str) -> StagingIndex:
    """The rows of staging; those of another lineage are set aside."""
    rows = open_or_salvage(state.staging_rows, quarantine_folder(state.staging))
    try:
        if rows.claim not in (lineage, None):
            rows.close()
            aside = state.set_aside(staging_only=True)
            _log.warning("staged data that does not belong to this index is set aside in %s", aside)
            rows = StagingIndex(state.staging_rows)
        state.staging.mkdir(exist_ok=True, mode=0o700)
        state.sync()
        if rows.claim is None:
            rows.set_claim(lineage)
    except BaseException:
        rows.close()
        raise
    return rows


def mark_clean(index: Index, snapshot: str) -> None:
    """Records durably that the index holds what `snapshot` holds, and no more."""
    with index.operation():
        index.state.set(PUBLISHED, snapshot)
        index.state.set(CLEAN, snapshot)
    index.commit()
    index.sync()


def close_clean(path: Path, snapshot: str) -> None:
    """Records durably that a closed index holds what `snapshot` holds, and the fingerprint of its bytes."""
    with Index.open(path) as index:
        mark_clean(index, snapshot)
    try:
        write_fingerprint(path, snapshot)
    except IndexDatabaseError as error:  # the next mount skips the check of the bytes
        _log.warning("%s", error)
