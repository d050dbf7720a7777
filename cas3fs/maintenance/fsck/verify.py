# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads back from the store what the volume and its snapshots need, and compares it with its hashes.

First come the indexes of all snapshots, each segment once. Then come packs, in the order of their names, some at a
time. Of a pack that the volume uses wholly, the blocks are read that the index has in it. Of a pack that a snapshot may
need for blocks that the volume does not use any more, all blocks of its table of contents are read. Blocks that are
beside each other come with one ranged GET; several threads fetch, decode and hash at once. How far that has come is
saved in a file (`verify_checkpoint`).

Memory: a range of at most `RANGE_BYTES` for each thread, and the locations of the blocks of `PACKS_AT_ONCE` packs.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.blockstore.pack_ranges import PackRange, coalesce
from cas3fs.blockstore.pack_store import PackStore, pack_key
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import (
    BlockError,
    ObjectArchived,
    ObjectMissing,
    SnapshotArchived,
    SnapshotDamaged,
    SnapshotMissing,
)
from cas3fs.index import LOST_PACK, PackUse, ordinal_of
from cas3fs.index.scans import LiveBlockScan, PackUseScan
from cas3fs.maintenance.context import ProgressCallback, ignore_progress
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint, VerifyProgress
from cas3fs.maintenance.pack_usage import live_share
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.tree import SegmentReference
from cas3fs.values import BlockHash, BlockLocation

RANGE_BYTES: Final = 16 << 20
PACKS_AT_ONCE: Final = 64
WORKERS: Final = min(8, 2 * (os.cpu_count() or 1))


@attrs.frozen
class VerifyResult:
    """How far a verification has come, and what it has found.

    Attributes:
        is_complete: whether everything was read.
    """

    progress: VerifyProgress
    is_complete: bool

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        progress = self.progress
        return {
            "blocks": progress.blocks,
            "bytes": progress.bytes,
            "snapshots": len(progress.snapshots),
            "damaged": len(progress.damaged) + len(progress.hurt_packs) + len(progress.hurt_snapshots),
            "is_complete": self.is_complete,
        }

    @property
    def hashes(self) -> list[BlockHash]:
        """The damaged blocks of the volume."""
        return [BlockHash(bytes.fromhex(one)) for one in self.progress.damaged]


@attrs.frozen(order=True)
class _PackToRead:
    """A pack that is to be read: only its live blocks, or the whole pack."""

    name: str
    size: int
    is_whole: bool


@attrs.frozen
class _Group:
    """Blocks of some packs that are read together; only snapshots need those in `for_snapshots`."""

    blocks: Sequence[BlockLocation]
    for_snapshots: frozenset[BlockLocation]


class _BlocksByPack:
    """Gives the blocks of one pack after the other, in the order of the packs' names.

    Args:
        packs: the blocks of each pack, in that order.
    """

    def __init__(self, packs: Iterable[list[BlockLocation]]) -> None:
        self._rest = iter(packs)
        self._next = next(self._rest, None)

    def of(self, pack: str) -> list[BlockLocation]:
        """The blocks of a pack; skips those of earlier packs."""
        while self._next is not None and self._next[0].pack < pack:
            self._next = next(self._rest, None)
        return self._next if self._next is not None and self._next[0].pack == pack else []


class DataVerifier:
    """Reads back one volume.

    Args:
        archive: its snapshots; without it, only what the volume itself uses is read.
        skipped: names of packs that are known to be lost.
    """

    def __init__(
        self,
        store: ObjectStore,
        checkpoint: VerifyCheckpoint,
        report: ProgressCallback = ignore_progress,
        *,
        archive: SnapshotArchive | None = None,
        skipped: Collection[str] = (),
        workers: int = WORKERS,
    ) -> None:
        self._pack_store = PackStore(store)
        self._checkpoint = checkpoint
        self._report = report
        self._archive = archive
        self._skipped = {LOST_PACK, *skipped}
        self._workers = workers
        self._archived: dict[str, str] = {}
        """By key, the errors of objects in an archive; set by any thread."""

    def run(self, index: Path, max_duration_s: float | None = None) -> VerifyResult:
        """Reads back what was not read before.

        Args:
            max_duration_s: after that time it stops, and the next run continues from there.

        Raises:
            StoreError: the store failed; the next run continues from the last checkpoint.
            IndexDatabaseError, OSError: the local disk failed; the same.
        """
        deadline_s = None if max_duration_s is None else time.monotonic() + max_duration_s
        progress = self._checkpoint.load()
        retained = [] if self._archive is None else self._archive.list(on_damaged=lambda one, error: None)
        for _ in self._steps(index, retained, progress):
            if deadline_s is not None and time.monotonic() > deadline_s:
                self._checkpoint.save(progress)
                return VerifyResult(progress, False)
        self._checkpoint.clear()
        return VerifyResult(progress, True)

    def _steps(self, index: Path, retained: Sequence[SnapshotInfo], progress: VerifyProgress) -> Iterator[None]:
        """Does the work, and yields wherever it may be stopped."""
        yield from self._snapshots(retained, progress)
        ordinals = [ordinal_of(one.number) for one in retained]
        with PackUseScan(index, by_name=True) as uses, LiveBlockScan(index, after=progress.after) as live:

            def packs() -> Iterator[_PackToRead]:
                for use in uses:
                    if use.name not in self._skipped and (pack := _pack_to_read(use, ordinals)) is not None:
                        yield pack

            total = sum(pack.size for pack in packs())
            left = (pack for pack in packs() if pack.name > progress.after)
            blocks = _BlocksByPack(live)
            with ThreadPoolExecutor(self._workers, thread_name_prefix="verify") as pool:
                while batch := list(islice(left, PACKS_AT_ONCE)):
                    for group in self._groups(pool, blocks, batch, progress):
                        self._verify(pool, group, progress)
                        progress.after = group.blocks[-1].pack
                        self._report({"what": "reading blocks back", "done": progress.bytes, "total": total})
                        yield
                    progress.after = batch[-1].name
                    self._checkpoint.save(progress)

    # -- snapshots

    def _snapshots(self, retained: Sequence[SnapshotInfo], progress: VerifyProgress) -> Iterator[None]:
        seen: set[SegmentReference] = set()
        for number, one in enumerate(retained):
            if one.id in progress.snapshots:
                continue
            self._report({"what": "reading snapshots back", "done": number, "total": len(retained)})
            assert self._archive is not None
            try:
                self._archive.verify(one.id, seen)
            except SnapshotMissing:
                continue  # it was deleted since
            except SnapshotDamaged as error:
                progress.hurt_snapshots[one.id] = str(error)
            except SnapshotArchived as error:
                progress.archived[SnapshotEntry.key_of(one.id)] = str(error)
            progress.snapshots.append(one.id)
            yield

    # -- packs

    def _groups(
        self, pool: ThreadPoolExecutor, live: _BlocksByPack, packs: Sequence[_PackToRead], progress: VerifyProgress
    ) -> Iterator[_Group]:
        """The blocks of these packs, in groups of a few packs."""
        whole = [pack for pack in packs if pack.is_whole]
        contents = dict(zip((pack.name for pack in whole), pool.map(self._contents, whole), strict=True))
        blocks: list[BlockLocation] = []
        for_snapshots: set[BlockLocation] = set()
        size_bytes = 0
        for pack in packs:
            used, all_blocks = live.of(pack.name), contents.get(pack.name, ())
            if all_blocks is None:
                progress.hurt_packs[pack.name] = (
                    "its table of contents cannot be read, so not all blocks could be checked"
                )
            extra = set(all_blocks or ()) - set(used)
            blocks += sorted([*used, *extra], key=lambda block: block.offset)
            for_snapshots |= extra
            size_bytes += pack.size
            if blocks and size_bytes >= RANGE_BYTES * 4:
                yield _Group(blocks, frozenset(for_snapshots))
                blocks, for_snapshots, size_bytes = [], set(), 0
        if blocks:
            yield _Group(blocks, frozenset(for_snapshots))

    def _contents(self, pack: _PackToRead) -> Sequence[BlockLocation] | None:
        """The blocks in a pack's table of contents; empty if the pack is missing, None if the table is damaged."""
        try:
            return self._pack_store.get_contents(pack.name, pack.size)
        except ObjectMissing:
            return ()  # reported already, or deleted since
        except ObjectArchived as error:
            self._archived[pack_key(pack.name)] = str(error)
            return ()
        except BlockError:
            return None

    def _verify(self, pool: ThreadPoolExecutor, group: _Group, progress: VerifyProgress) -> None:
        damaged: list[BlockLocation] = []
        in_flight: set[Future[list[BlockLocation]]] = set()
        for wanted in coalesce(group.blocks, range_bytes=RANGE_BYTES // self._workers):
            in_flight.add(pool.submit(self._damaged_in, wanted))
            if len(in_flight) >= self._workers + 1:
                done, in_flight = wait(in_flight, return_when=FIRST_COMPLETED)
                damaged += _results(done)
        damaged += _results(wait(in_flight).done)
        progress.damaged += [block.hash.hex() for block in damaged if block not in group.for_snapshots]
        for pack, count in Counter(block.pack for block in damaged if block in group.for_snapshots).items():
            progress.hurt_packs[pack] = f"{count:,} damaged blocks that only snapshots use"
        progress.archived |= self._archived
        progress.blocks += len(group.blocks)
        progress.bytes += sum(block.stored_length for block in group.blocks)

    def _damaged_in(self, wanted: PackRange) -> list[BlockLocation]:
        """The damaged blocks of a range; none of a pack in an archive, as it cannot be read."""
        try:
            body = self._pack_store.get_range(wanted)
        except ObjectArchived as error:
            self._archived[pack_key(wanted.pack)] = str(error)
            return []
        except BlockError:  # perhaps not of all of them
            return [block for block in wanted.blocks if not self.is_readable_or_archived(block)]
        decode = partial(self._pack_store.decode, body, wanted.start)
        return [block for block in wanted.blocks if not _succeeds(partial(decode, block))]

    def is_readable_or_archived(self, block: BlockLocation) -> bool:
        """Whether a block can be read, or its pack is in an archive. Raises StoreError if the store failed."""
        try:
            return _succeeds(partial(self._pack_store.get_block, block))
        except ObjectArchived:
            return True


def _succeeds(read: Callable[[], object]) -> bool:
    try:
        read()
    except BlockError:
        return False
    return True


def _pack_to_read(use: PackUse, retained: Sequence[int]) -> _PackToRead | None:
    """What is to be read of a pack; None if neither the volume nor a snapshot needs it."""
    is_needed = any(use.born <= ordinal and (use.died is None or ordinal < use.died) for ordinal in retained)
    if use.live_blocks and (live_share(use) >= 1 or not is_needed):
        return _PackToRead(use.name, use.size, False)
    return _PackToRead(use.name, use.size, True) if is_needed else None


def _results(done: Iterable[Future[list[BlockLocation]]]) -> list[BlockLocation]:
    return [block for future in done for block in future.result()]
