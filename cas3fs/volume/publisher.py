# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing: the index of a running file system becomes a snapshot in the store, on demand and periodically.

The order: everything is stored; the index is pinned (`cas3fs.filesystem.writeback.checkpoint`); the pages and then the
manifest are put; the epochs are listed, and only if ours is the newest is the snapshot acknowledged. A failure at any
step leaves at most pages that no manifest names, under a number that is never used again, as every attempt takes a new
one. If the pinned index is lost meanwhile, a second attempt is made of a copy.

A snapshot is made only if something has changed. If nothing has, the newest snapshot is looked up in the store:
whenever a publication is requested, and once an hour by the periodic thread. If the store has lost it, or pages
that it needs, another one is made, with what is missing.

An ``fsync`` that waits for the store calls `publish_shared`. Calls during a publication share the next one, also its
failure.

Locks: `_mutex` is held during each publication, including its requests to the store, so there is one at a time. Request
handlers never take it, except an fsync with ``--fsync remote``. It is taken before the file system's lock;
`_tickets_lock` is held for assignments only.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from cas3fs.control import Message, Progress
from cas3fs.epochs import Claim, Epochs
from cas3fs.errors import Cas3fsError, Fenced, ObjectExists, PinLost, SnapshotArchived, SnapshotDamaged, SnapshotMissing
from cas3fs.filesystem import FileSystem
from cas3fs.index import ordinal_of
from cas3fs.index.index_file import CopiedFile, PinnedFile
from cas3fs.periodic import FailureGuard, PeriodicThread
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.image import Image
from cas3fs.snapshots.manifests import NEW_PACK_BYTES, SnapshotInfo, SnapshotOrigin
from cas3fs.values import SnapshotNumber
from cas3fs.volume.comparison import ATTEMPTED, PROOF, PUBLISHED, attempt_text, proof_text
from cas3fs.volume.handover import save_known_snapshots
from cas3fs.volume.lineage import LocalIndex
from cas3fs.volume.pruner import SnapshotPruner
from cas3fs.volume.sampler import IndexSampler
from cas3fs.volume.seen import SNAPSHOT, SeenState
from cas3fs.volume.state_directory import StateDirectory

_PROGRESS_INTERVAL_S = 0.2
_CHECK_INTERVAL_S = 3600.0
_TAKEN = "newest_taken"
"""Key in the index's state: the newest snapshot and when it was taken."""

_NUMBER_TAKEN = (
    "the store already has a snapshot {number} that this process did not publish ({error}): this machine was "
    "set back to an earlier state, or another one works with a copy of its state directory"
)

_log = logging.getLogger(__name__)


class Publisher:
    """Publishes one file system under one claim."""

    def __init__(
        self,
        filesystem: FileSystem,
        archive: SnapshotArchive,
        epochs: Epochs,
        claim: Claim,
        state: StateDirectory,
        *,
        local: LocalIndex,
        changed: bool,
        seen: SeenState | None = None,
    ) -> None:
        """`changed`: whether the index may hold more than the newest snapshot of `local`. `seen` records snapshots."""
        self._fs = filesystem
        self._archive = archive
        self._epochs = epochs
        self._claim = claim
        self._state = state
        self._record_seen = seen
        self._mutex = threading.Lock()
        self._sequence = self._own_changes = 0
        self._sampler = IndexSampler()
        self._origin = SnapshotOrigin(UUID(local.lineage), claim.uuid)
        self.newest = local.newest
        self._taken = self._saved_time()
        self._seen = None if changed or local.newest is None else self._change_mark()
        self._thread: PeriodicThread | None = None
        self._checked_s = -_CHECK_INTERVAL_S
        self.pruner = SnapshotPruner(
            archive,
            epochs,
            claim,
            lambda: self.next_number,
            shown=state.shown,
            before_delete=functools.partial(save_known_snapshots, archive, claim, state.known_snapshots),
        )
        self._fenced = ""
        self._tickets_lock = threading.Lock()
        self._requested = self._served = 0
        self._failure: BaseException | None = None
        self._advance_birth()

    # -- on demand

    def publish(
        self,
        progress: Progress = lambda _: None,
        *,
        name: str | None = None,
        even_unchanged: bool = False,
        settled: bool = False,
    ) -> str:
        """Stores everything and publishes it, unless nothing has changed; returns the id of the newest snapshot. Files
        that cannot be stored although others can (`FileSystem.unstorable_files`) are in it as they were last stored.

        With `settled`, a file that is being rewritten at the time appears as it was before.

        Raises:
            StoreError: the store failed; nothing is lost, and publishing again is safe.
            Fenced: another writer has taken over; the file system is read-only from now on.
            Cas3fsError, OSError: the local disk failed.
        """
        with self._mutex:
            return self.publish_locked(progress, name=name, even_unchanged=even_unchanged, settled=settled)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keeps others from publishing while it is open: for code that deletes snapshots or packs, and publishes in
        between by `publish_locked`."""
        with self._mutex:
            yield

    def publish_locked(
        self,
        progress: Progress = lambda _: None,
        *,
        name: str | None = None,
        even_unchanged: bool = False,
        settled: bool = False,
        prove: bool = True,
    ) -> str:
        """As `publish`, to be called within `exclusively`. Without `prove`, the store may have been asked for the
        newest snapshot up to an hour ago."""
        self.check_fence()
        self._archive.shelf.store.renew_keys()
        self.store(progress, settled=settled)
        is_due = self.newest is None or name is not None or even_unchanged or self._change_mark() != self._seen
        if is_due or not self._newest_is_stored(prove):
            self._publish(progress, name, settled)
        assert self.newest is not None
        return self.newest

    def publish_shared(self) -> None:
        """Returns when a snapshot is published that holds everything that happened before; raises as `publish`."""
        with self._tickets_lock:
            self._requested += 1
            ticket = self._requested
        with self._mutex:
            if self._served < ticket:
                self._publish_for_all()
            elif self._failure is not None:
                raise self._failure

    def _publish_for_all(self) -> None:
        """Publishes for all callers that are waiting now."""
        with self._tickets_lock:
            requested = self._requested
        try:
            self.publish_locked(prove=False)
            self._failure = None
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._served = requested

    @property
    def next_number(self) -> SnapshotNumber:
        """The least number that a future snapshot can have; to be read within `exclusively`."""
        return SnapshotNumber(self._claim.epoch, self._sequence + 1)

    def store(self, progress: Progress = lambda _: None, *, settled: bool = False) -> None:
        """Returns when everything written before is in the store, except files that cannot be stored although others
        can (`FileSystem.unstorable_files`); raises as `publish`, except Fenced."""
        run_with_progress(self._fs, lambda: self._fs.store_all(settled=settled, skip_unstorable=True), progress)

    def _publish(self, progress: Progress, name: str | None, settled: bool) -> None:
        progress({"what": "publishing"})
        try:
            self._attempt(name, settled, in_place=True)
        except PinLost as error:
            _log.warning("%s; the snapshot is made of a copy of the index", error)
            self._fs.metrics.counter("snapshots.pins_lost").add(1)
            self._attempt(name, settled, in_place=False)

    def _attempt(self, name: str | None, settled: bool, *, in_place: bool) -> None:
        self._sequence += 1
        number = SnapshotNumber(self._claim.epoch, self._sequence)
        # the checkpoint makes it durable; an index that finds a greater number in the store is an old copy
        self._save_in_index({ATTEMPTED: attempt_text(self._claim.uuid, number)})
        mark = self._change_mark()
        with self._fs.checkpoint(self._state.scratch, settled=settled, in_place=in_place) as image:
            self._advance_birth()
            since = 0 if self.newest is None else ordinal_of(SnapshotNumber.parse(self.newest))
            with ThreadPoolExecutor(1, "facts") as thread:  # counting and hashing take about as long
                facts = thread.submit(self._look, image, since)
                made = self._create(image, number, name, facts.result)
        self.check_fence()
        taken = f"{made.id} {made.time.isoformat()}"
        if self._record_seen is not None:
            self._record_seen.note(SNAPSHOT, made.id, made.digest)
        self._save_in_index({PUBLISHED: made.id, PROOF: proof_text(made.id, made.digest), _TAKEN: taken})
        self.newest, self._seen, self._taken = made.id, mark, (made.id, made.time)
        self._checked_s = time.monotonic()
        self.pruner.published(made)
        save_known_snapshots(self._archive, self._claim, self._state.known_snapshots)
        _log.info("published snapshot %s", made.id)

    def _look(self, image: PinnedFile | CopiedFile, since: int) -> dict[str, int]:
        """Samples the pinned index, and returns the facts of its snapshot."""
        image.ask(self._sampler.look)
        new_bytes = image.ask(lambda reader: reader.pack_bytes_after(since))
        return image.counts()._asdict() | {NEW_PACK_BYTES: new_bytes}

    def _newest_is_stored(self, prove: bool) -> bool:
        """Whether the store has the newest snapshot, and all pages that it needs."""
        assert self.newest is not None
        if not prove and time.monotonic() - self._checked_s < _CHECK_INTERVAL_S:
            return True
        try:
            lost = self._archive.lost_pages(self._archive.load(self.newest))
        except (SnapshotMissing, SnapshotDamaged, SnapshotArchived) as error:
            _log.error("the newest snapshot is stored again: %s", error)
            return False
        if lost:
            _log.error("the store has lost pages that snapshot %s needs: another one is made", self.newest)
            return False
        self._checked_s = time.monotonic()
        return True

    def _create(
        self, image: Image, number: SnapshotNumber, name: str | None, facts: Callable[[], Mapping[str, int]]
    ) -> SnapshotInfo:
        create = functools.partial(
            self._archive.create,
            image,
            epoch=number.epoch,
            sequence=number.sequence,
            name=name,
            facts=facts,
            origin=self._origin,
        )
        try:
            try:
                return create(parent=self.newest)
            except (SnapshotMissing, SnapshotDamaged, SnapshotArchived) as error:  # found before anything is put
                _log.warning("the previous snapshot cannot be read, so everything is stored again: %s", error)
                return create(parent=None)
        except ObjectExists as error:
            self._fence(_NUMBER_TAKEN.format(number=number, error=error))
            raise Fenced(self._fenced) from error

    @property
    def filesystem(self) -> FileSystem:
        """What is published."""
        return self._fs

    @property
    def folder(self) -> Path:
        """The state directory."""
        return self._state.path

    @property
    def fenced(self) -> str:
        """Why nothing can be published any more; empty while it can."""
        return self._fenced

    def check_fence(self) -> None:
        """Checks in the store whether another writer has taken over; if so, the file system becomes read-only.

        Raises:
            Fenced: another writer has taken over.
            StoreError: the store failed, so it is not known.
        """
        if not self._fenced and not self._epochs.is_newest(self._claim):
            self._fence("another writer has taken over the volume")
        if self._fenced:
            raise Fenced(self._fenced)

    def _fence(self, why: str) -> None:
        self._fenced = (
            f"{why}, so this mount is read-only now and publishes nothing any more; "
            f"`cas3fs rescue {self._state.path} FOLDER`, after unmounting, saves what it alone has"
        )
        _log.error("%s", self._fenced)
        self._fs.turn_read_only(self._fenced)

    def _save_in_index(self, texts: Mapping[str, str]) -> None:
        """Saves `texts` in the index's state, with its next commit."""
        with self._fs.index_transaction() as index:
            before = index.changes
            for key, text in texts.items():
                index.state.set(key, text)
            self._own_changes += index.changes - before

    def _advance_birth(self) -> None:
        """Assigns packs stored from now on to the next snapshot, the earliest that can need them."""
        self._fs.next_ordinal = ordinal_of(SnapshotNumber(self._claim.epoch, self._sequence + 1))

    def _change_mark(self) -> int:
        """Returns a number that differs after every change of the index except the publisher's own.

        The time of its files would not do: the kernel's clock stands still for milliseconds, and may be set back.
        """
        self._fs.commit()
        with self._fs.index_transaction() as index:
            return index.changes - self._own_changes

    # -- periodically

    def start(self, interval_s: float) -> None:
        """Publishes every `interval_s` what has changed; an interval of 0 means never."""
        if interval_s > 0:
            guard = FailureGuard("snapshots", self._fs.metrics, f"publishing failed, tried again in {interval_s:.0f} s")
            self._thread = PeriodicThread("publisher", interval_s, self._publish_changes, guard)
            self._thread.start()

    def _publish_changes(self) -> bool:
        """One run of the periodic thread; returns whether it was the last."""
        try:
            with self._mutex:
                before = self.newest
                self.publish_locked(settled=True, prove=False)
                if self.newest != before:
                    self.pruner.prune_expired()
        except Fenced:  # already logged
            return True
        return False

    def stop(self) -> None:
        """Ends the periodic thread; a publication in progress is finished."""
        if self._thread is not None:
            self._thread.stop()

    def newest_age_s(self) -> float | None:
        """Returns how long ago the newest snapshot was taken, by this machine's clock; None if that is unknown.

        The store is asked if an earlier version, or another machine, made that snapshot.
        """
        newest = self.newest
        if newest is None:
            return None
        if self._taken is None or self._taken[0] != newest:
            with suppress(Cas3fsError):
                self._taken = newest, self._archive.load(newest).time
        if self._taken is None or self._taken[0] != newest:
            return None
        return max(0.0, (datetime.now(UTC) - self._taken[1]).total_seconds())

    def _saved_time(self) -> tuple[str, datetime] | None:
        """Returns the snapshot that the index knows the time of, and that time."""
        with self._fs.index_transaction() as index:
            text = index.state.get(_TAKEN)
        snapshot_id, _, time_text = (text or "").partition(" ")
        with suppress(ValueError):
            return snapshot_id, datetime.fromisoformat(time_text)
        return None


def run_with_progress(filesystem: FileSystem, work: Callable[[], None], progress: Progress) -> None:
    """Runs `work` in a thread, and reports meanwhile how much of what was waiting is in the store."""
    total = filesystem.pending().size_bytes
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="storing", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_PROGRESS_INTERVAL_S)
        if thread.is_alive():
            progress(_storing_progress(filesystem, total))
    if failed:
        raise failed[0]


def _storing_progress(filesystem: FileSystem, total: int) -> Message:
    left = filesystem.pending()
    whole = max(total, left.size_bytes)
    return {"what": "storing", "done": whole - left.size_bytes, "total": whole, "files": left.files}
