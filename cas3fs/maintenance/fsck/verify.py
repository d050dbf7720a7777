# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying: what the volume and its snapshots need is read back from the store and checked against its hashes.

First the indexes of all snapshots, each segment once. Then packs, in the order of their names, some at a time: of one
that the volume uses wholly, the blocks that the index places there; of one of which a snapshot may need what the
volume does not use any more, all blocks that its own table of contents names. Blocks that lie together come with one
ranged GET; several threads fetch, unpack and hash side by side. Where it is stands in a file (`verify_checkpoint`).

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
    BlockMissing,
    ObjectArchived,
    ObjectMissing,
    SnapshotArchived,
    SnapshotDamaged,
    SnapshotMissing,
)
from cas3fs.index import LOST_PACK, LiveBlockScan, PackUse, PackUseScan, ordinal_of
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
    """How far a verification has come, and what it found: see `Place`.

    is_complete: everything was read.
    """

    place: VerifyProgress
    is_complete: bool

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        place = self.place
        return {
            "blocks": place.blocks,
            "bytes": place.bytes,
            "snapshots": len(place.snapshots),
            "damaged": len(place.damaged) + len(place.hurt_packs) + len(place.hurt_snapshots),
            "is_complete": self.is_complete,
        }

    @property
    def hashes(self) -> list[BlockHash]:
        """The damaged blocks of the volume."""
        return [BlockHash(bytes.fromhex(one)) for one in self.place.damaged]


@attrs.frozen(order=True)
class _Task:
    """A pack that is to be read: only what is live in it, or all that it holds."""

    name: str
    size: int
    is_whole: bool


@attrs.frozen
class _Group:
    """Blocks of some packs that are read together; of those in `kept` only snapshots have need."""

    blocks: Sequence[BlockLocation]
    kept: frozenset[BlockLocation]


class _ByPack:
    """Blocks that come pack by pack, by name, for who asks for one pack after the other, by name."""

    def __init__(self, packs: Iterable[list[BlockLocation]]) -> None:
        self._rest = iter(packs)
        self._next = next(self._rest, None)

    def of(self, pack: str) -> list[BlockLocation]:
        """Those of a pack; earlier ones are passed over."""
        while self._next is not None and self._next[0].pack < pack:
            self._next = next(self._rest, None)
        return self._next if self._next is not None and self._next[0].pack == pack else []


class DataVerifier:
    """Verifies one volume.

    Args:
        archive: its snapshots; without it, only what the volume itself uses is read.
        skipped: packs that are known to be lost.
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
        self._bookmark = checkpoint
        self._report = report
        self._archive = archive
        self._skipped = {LOST_PACK, *skipped}
        self._workers = workers
        self._archived: dict[str, str] = {}
        """By key, what lies in an archive; entered by any thread."""

    def run(self, index: Path, max_duration_s: float | None = None) -> VerifyResult:
        """Reads back what was not read yet.

        Raises:
            StoreError: the store failed; the next run goes on.
            IndexDatabaseError, OSError: the local disk failed; the same.
        """
        deadline_s = None if max_duration_s is None else time.monotonic() + max_duration_s
        place = self._bookmark.load()
        retained = [] if self._archive is None else self._archive.list(on_damaged=lambda one, error: None)
        for _ in self._steps(index, retained, place):
            if deadline_s is not None and time.monotonic() > deadline_s:
                self._bookmark.save(place)
                return VerifyResult(place, False)
        self._bookmark.clear()
        return VerifyResult(place, True)

    def _steps(self, index: Path, retained: Sequence[SnapshotInfo], place: VerifyProgress) -> Iterator[None]:
        """Does the work; pauses wherever it could be broken off."""
        yield from self._snapshots(retained, place)
        numbers = [ordinal_of(one.number) for one in retained]
        with PackUseScan(index, by_name=True) as uses, LiveBlockScan(index, after=place.after) as live:

            def tasks() -> Iterator[_Task]:
                for use in uses:
                    if use.name not in self._skipped and (task := _task(use, numbers)) is not None:
                        yield task

            total = sum(task.size for task in tasks())
            left = (task for task in tasks() if task.name > place.after)
            blocks = _ByPack(live)
            with ThreadPoolExecutor(self._workers, thread_name_prefix="verify") as pool:
                while some := list(islice(left, PACKS_AT_ONCE)):
                    for group in self._groups(pool, blocks, some, place):
                        self._verify(pool, group, place)
                        place.after = group.blocks[-1].pack
                        self._report({"what": "reading blocks back", "done": place.bytes, "total": total})
                        yield
                    place.after = some[-1].name
                    self._bookmark.save(place)

    # -- snapshots

    def _snapshots(self, retained: Sequence[SnapshotInfo], place: VerifyProgress) -> Iterator[None]:
        seen: set[SegmentReference] = set()
        for number, one in enumerate(retained):
            if one.id in place.snapshots:
                continue
            self._report({"what": "reading snapshots back", "done": number, "total": len(retained)})
            assert self._archive is not None
            try:
                self._archive.verify(one.id, seen)
            except SnapshotMissing:
                continue  # it went since
            except SnapshotDamaged as error:
                place.hurt_snapshots[one.id] = str(error)
            except SnapshotArchived as error:
                place.archived[SnapshotEntry.key_of(one.id)] = str(error)
            place.snapshots.append(one.id)
            yield

    # -- packs

    def _groups(
        self, pool: ThreadPoolExecutor, live: "_ByPack", tasks: Sequence[_Task], place: VerifyProgress
    ) -> Iterator[_Group]:
        """The blocks of these packs, about as many at a time as a few packs hold."""
        whole = [task for task in tasks if task.is_whole]
        held = dict(zip((task.name for task in whole), pool.map(self._contents, whole), strict=True))
        blocks: list[BlockLocation] = []
        kept: set[BlockLocation] = set()
        size_bytes = 0
        for task in tasks:
            here, all_here = live.of(task.name), held.get(task.name, ())
            if all_here is None:
                place.hurt_packs[task.name] = "its table of contents cannot be read, so not all of it could be checked"
            extra = set(all_here or ()) - set(here)
            blocks += sorted([*here, *extra], key=lambda block: block.offset)
            kept |= extra
            size_bytes += task.size
            if blocks and size_bytes >= RANGE_BYTES * 4:
                yield _Group(blocks, frozenset(kept))
                blocks, kept, size_bytes = [], set(), 0
        if blocks:
            yield _Group(blocks, frozenset(kept))

    def _contents(self, task: _Task) -> Sequence[BlockLocation] | None:
        """All blocks that a pack says to hold; none where it is gone, None where it is damaged there."""
        try:
            return self._pack_store.get_contents(task.name, task.size)
        except ObjectMissing:
            return ()  # that is told already, or it went since
        except ObjectArchived as error:
            self._archived[pack_key(task.name)] = str(error)
            return ()
        except BlockError:
            return None

    def _verify(self, pool: ThreadPoolExecutor, group: _Group, place: VerifyProgress) -> None:
        damaged: list[BlockLocation] = []
        under_way: set[Future[list[BlockLocation]]] = set()
        for wanted in coalesce(group.blocks, range_bytes=RANGE_BYTES // self._workers):
            under_way.add(pool.submit(self._damaged_in, wanted))
            if len(under_way) >= self._workers + 1:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                damaged += _results(done)
        damaged += _results(wait(under_way).done)
        place.damaged += [block.hash.hex() for block in damaged if block not in group.kept]
        for pack, count in Counter(block.pack for block in damaged if block in group.kept).items():
            place.hurt_packs[pack] = f"blocks that the volume itself does not use any more: {count:,}"
        place.archived |= self._archived
        place.blocks += len(group.blocks)
        place.bytes += sum(block.stored_length for block in group.blocks)

    def _damaged_in(self, wanted: PackRange) -> list[BlockLocation]:
        """The blocks of a range that are not what they should be; of what lies in an archive nobody knows."""
        try:
            body = self._pack_store.get_range(wanted)
        except ObjectArchived as error:
            self._archived[pack_key(wanted.pack)] = str(error)
            return []
        except BlockMissing:
            return [block for block in wanted.blocks if not self.is_good(block)]
        decode = partial(self._pack_store.decode, body, wanted.start)
        return [block for block in wanted.blocks if not _succeeds(partial(decode, block))]

    def is_good(self, block: BlockLocation) -> bool:
        """Whether a block lies there, or perhaps so in an archive; raises StoreError where nobody knows."""
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


def _task(use: PackUse, retained: Sequence[int]) -> _Task | None:
    """What is to be read of a pack; nothing where nobody needs it."""
    is_needed = any(use.born <= number and (use.died is None or number < use.died) for number in retained)
    if use.live_blocks and (live_share(use) >= 1 or not is_needed):
        return _Task(use.name, use.size, False)
    return _Task(use.name, use.size, True) if is_needed else None


def _results(done: Iterable[Future[list[BlockLocation]]]) -> list[BlockLocation]:
    return [block for future in done for block in future.result()]
