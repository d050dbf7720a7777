# SPDX-License-Identifier: GPL-3.0-or-later
"""The destination of a copy: its index while it is made, its ledger, its packs and its snapshots.

Upload threads enter packs in the index, so one lock guards it; no request is made under it. The files::

    index.sqlite    the copy
    copied.sqlite   the ledger
    publish.sqlite  a copy of the index that is about to be published
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blocks.codec import Compression
from cas3fs.blockstore.pack_store import PackStore, epoch_of_pack, pack_name_in
from cas3fs.blockstore.writer import BlockWriter
from cas3fs.entries.kinds import VolumeEntry
from cas3fs.errors import IndexDatabaseError, ObjectMissing, PackCorrupt
from cas3fs.index import LOST_PACK, Index, IndexReader, migrations, ordinal_of
from cas3fs.index.copying import SnapshotTables
from cas3fs.index.files import remove_database
from cas3fs.index.ledger import CopyLedger
from cas3fs.index.scans import DeadBlockScan, EmptyPackScan
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import NEW_PACK_BYTES, CopiedSnapshot, SnapshotInfo, SnapshotOrigin
from cas3fs.units import MIB
from cas3fs.values import BlockHash, Buffer, PackedBlock, SnapshotNumber, StoredPack

_LATER_THAN_ANY: Final = 2**63 - 1
_ADOPTED_AT_ONCE: Final = 64
_UNDER_WAY_BYTES: Final = 256 * MIB
"""Of packs that are being stored; but always one."""

_log = logging.getLogger(__name__)


@attrs.frozen
class Destination:
    """A volume that becomes a copy, under a claim.

    Attributes:
        store: its store, which takes plain bytes.
        entry: what it was made with.
        archive: its snapshots.
        epoch: the number of the claim.
        origin: what its snapshots record as their origin.
        requests: how many requests may run in parallel.
    """

    store: ObjectStore
    entry: VolumeEntry
    archive: SnapshotArchive
    epoch: int
    origin: SnapshotOrigin
    requests: int


class CopyTarget:
    """The copy that is being made.

    Attributes:
        index: the copy.
        ledger: its ledger.
        folder: where both are.
        chunker: of the destination.
        stored_bytes: the size of the packs that were stored.
    """

    def __init__(self, destination: Destination, folder: Path, pair: str) -> None:
        """Puts index and ledger in place, and compares the index with the packs in the store: it may lack some that an
        interrupted run has stored, and have some that a gc has deleted since, as no snapshot needed them.

        Args:
            destination: the volume.
            folder: for the files; it exists.
            pair: identifies source and destination.

        Raises:
            SnapshotError, StoreError: the newest snapshot of the destination cannot be read, or the store failed.
            IndexDatabaseError: the local disk failed.
        """
        self._destination = destination
        self.folder = folder
        self._sequence = 1
        self._lock = threading.Lock()
        self._waiting: set[Future[None]] = set()
        self._failure: BaseException | None = None
        self.chunker = make_chunker(destination.entry.chunker, destination.entry.block_size)
        self.stored_bytes = 0
        self.newest = destination.archive.newest_id()
        self.ledger = CopyLedger(folder / "copied.sqlite", pair)
        try:
            self.index = self._open_index()
        except BaseException:
            self.ledger.close()
            raise
        self._writer = BlockWriter(
            destination.store,
            epoch=destination.epoch,
            pack_size_bytes=destination.entry.pack_size,
            compression=Compression.parse(destination.entry.compression),
            on_stored=self._record,
            metrics=Metrics(),
            uploads=max(1, min(destination.requests, _UNDER_WAY_BYTES // destination.entry.pack_size)),
        )
        self._session = self._writer.session()
        try:
            self._compare_packs()
        except BaseException:
            self.close()
            raise

    @property
    def store(self) -> ObjectStore:
        """The store of the destination."""
        return self._destination.store

    @property
    def entry(self) -> VolumeEntry:
        """What the destination was made with."""
        return self._destination.entry

    @property
    def is_encrypted(self) -> bool:
        """Whether its hashes are keyed."""
        return self.entry.cipher is not None

    # -- the index

    def _open_index(self) -> Index:
        """The index that an earlier run has left, or that of the newest snapshot, or an empty one."""
        path = self.folder / "index.sqlite"
        if path.exists() and self.ledger.published == (self.newest or ""):
            with suppress(IndexDatabaseError):
                migrations.upgrade(path)
                return self._opened(path)
        remove_database(path)
        if self.newest is not None:
            restored = self.folder / "restore.sqlite"
            remove_database(restored)
            self._destination.archive.restore(self.newest, restored)
            migrations.upgrade(restored)
            with Index.open(restored, scratch=True) as index:
                index.mark_restored()
                index.commit()
            restored.rename(path)
        self.ledger.set_published(self.newest or "")
        return self._opened(path)

    @staticmethod
    def _opened(path: Path) -> Index:
        index = Index.open(path, create=True)
        try:
            index.ensure_hashes()
        except BaseException:
            index.close()
            raise
        return index

    @contextmanager
    def tables(self, source: Path) -> Iterator[SnapshotTables]:
        """What makes the copy like the snapshot with the index `source`; nothing may be in flight meanwhile."""
        self.ledger.commit()
        path = self.index.path
        with self._lock:
            self.index.close()
            self.index = self._opened(path)
            yield self.index.copying(source, self.ledger.path)

    def set_texts(self, texts: dict[str, str]) -> None:
        """Sets texts of the index."""
        with self._lock:
            with self.index.operation():
                for key, text in texts.items():
                    self.index.state.set(key, text)
            self.index.commit()

    # -- packs

    def _compare_packs(self) -> None:
        """Enters the packs that the index does not know, and forgets those that the store does not have. Packs that a
        snapshot knows are not looked for."""
        packs = PackStore(self.store)
        missing = self._unpublished_packs()
        listed = (info for info in packs.list_objects() if self._is_unlisted(pack_name_in(info.key), missing))
        with ThreadPoolExecutor(self._destination.requests, thread_name_prefix="packs") as pool:
            while found := list(islice(listed, _ADOPTED_AT_ONCE)):
                for pack in pool.map(lambda info: _contents(packs, info), found):
                    if pack is not None:
                        self._enter(pack)
        for name in sorted(missing):
            if not packs.exists(name):  # a listing alone proves nothing
                self._forget(name)

    def _unpublished_packs(self) -> set[str]:
        published = -1 if self.newest is None else ordinal_of(SnapshotNumber.parse(self.newest))
        with self._lock:
            return set(self.index.blocks.packs_after(published)) - {LOST_PACK}

    def _is_unlisted(self, name: str, missing: set[str]) -> bool:
        """Whether the index lacks a pack of the store; what is listed is not `missing`."""
        missing.discard(name)
        return self._is_unknown(name)

    def _forget(self, pack: str) -> None:
        _log.warning("pack %s, which an earlier run has stored, is gone; its blocks are stored again", pack)
        with self._lock:
            self._in_group(lambda: self.index.garbage.forget_pack(pack))

    def _is_unknown(self, name: str) -> bool:
        if epoch_of_pack(name) is None:
            return False
        with self._lock:
            return bool(self.index.garbage.unknown_packs([name]))

    def _record(self, pack: StoredPack) -> None:
        """Enters a pack that was just stored; called by upload threads."""
        self._enter(pack)
        self.stored_bytes += pack.size_bytes

    def _enter(self, pack: StoredPack) -> None:
        with self._lock:
            with self.index.operation():
                self.index.blocks.add_pack(pack, ordinal_of(self.next_number))
            self.index.commit()

    @property
    def next_number(self) -> SnapshotNumber:
        """The number of the next snapshot."""
        return SnapshotNumber(self._destination.epoch, self._sequence)

    def known(self, hashes: Sequence[BlockHash]) -> set[BlockHash]:
        """Those of the blocks that are stored, and not known to be lost."""
        with self._lock:
            return set(self.index.blocks.find(hashes))

    def add(self, plain: Buffer) -> BlockHash:
        """Has a block stored, unless it is; returns its hash. `flush` waits for it.

        Raises:
            StoreError: this or an earlier block could not be stored.
        """
        block = BlockHash(self.store.hash_content(plain))
        if self._failure is not None:
            raise self._failure
        if self._writer.in_flight(block) is None and not self.known([block]):
            future = self._session.add(block, plain)
            self._waiting.add(future)
            future.add_done_callback(self._done)
        return block

    def _done(self, future: "Future[None]") -> None:
        if (failure := future.exception()) is not None:
            self._failure = self._failure or failure
        self._waiting.discard(future)

    def flush(self) -> None:
        """Returns when all blocks are stored and entered; raises as `add`."""
        self._session.seal()
        wait(list(self._waiting))
        if self._failure is not None:
            raise self._failure

    def lost_hash(self, block: BlockHash, *, same_hashes: bool) -> BlockHash:
        """The hash under which a lost block of the source is known."""
        return block if same_hashes else BlockHash(self.store.hash_content(b"cas3fs: lost block " + block))

    # -- snapshots

    def drop_unreferenced(self) -> None:
        """Drops the blocks that only earlier snapshots need; their packs die with the next snapshot."""
        died = ordinal_of(self.next_number)
        with self._lock:
            index = self.index
            with index.operation():
                index.garbage.watch()
            index.commit()
            with DeadBlockScan(index.path, _LATER_THAN_ANY) as dead:
                for ids in dead:
                    self._in_group(lambda ids=ids: index.garbage.delete_blocks(ids, _LATER_THAN_ANY))
            with EmptyPackScan(index.path, _LATER_THAN_ANY) as empty:
                for ids in empty:
                    self._in_group(lambda ids=ids: index.garbage.mark_packs_dead(ids, died, _LATER_THAN_ANY))
            self._in_group(index.garbage.delete_stale_lost_marks)
            self._in_group(index.garbage.unwatch)

    def _in_group(self, change: Any) -> None:
        with self.index.operation():
            change()
        self.index.commit()

    def publish(self, info: SnapshotInfo) -> SnapshotInfo:
        """Publishes the copy as one of the snapshot `info` of the source.

        Figures about files are those of the source; those about blocks and packs are counted, as they are others here.

        Raises:
            StoreError: the store failed.
            IndexDatabaseError, SnapshotError: the local disk failed.
        """
        number, scratch = self.next_number, self.folder / "publish.sqlite"
        self._sequence += 1
        with self._lock:
            self.index.commit()
            self.index.sync()
            self.index.copy_to(scratch)
        try:
            with IndexReader(scratch) as reader:
                since = 0 if self.newest is None else ordinal_of(SnapshotNumber.parse(self.newest))
                facts = reader.counts()._asdict() | {NEW_PACK_BYTES: reader.pack_bytes_after(since)}
            made = self._destination.archive.create(
                scratch,
                epoch=number.epoch,
                sequence=number.sequence,
                parent=self.newest,
                name=info.name,
                facts={**info.facts, **facts},
                origin=self._destination.origin,
                copied=CopiedSnapshot(info.id, info.time),
            )
        finally:
            remove_database(scratch)
        self.newest = made.id
        self.ledger.set_published(made.id)
        return made

    def close(self) -> None:
        """Ends uploads and closes the files; what is not entered is found by the next run."""
        self._writer.close()
        with self._lock:
            self.index.close()
            self.ledger.close()


def _contents(packs: PackStore, info: ObjectInfo) -> StoredPack | None:
    """What a pack holds; None if that cannot be read."""
    name = pack_name_in(info.key)
    try:
        found = packs.get_contents(name, info.size)
    except (PackCorrupt, ObjectMissing) as error:
        _log.warning("%s is left out: %s", info.key, error)
        return None
    blocks = [PackedBlock(one.hash, one.offset, one.stored_length, one.plain_length) for one in found]
    return StoredPack(name, info.size, blocks)
