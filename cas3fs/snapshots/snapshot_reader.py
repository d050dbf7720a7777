# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores and verifies snapshots: reads manifest, lists and segments, and checks each against its hash.

Thread-safe. Memory: the references of a tree (some 30 bytes per 16 KiB of the file) and the ranges in flight.
"""

import os
import threading
from collections.abc import Callable, Iterable
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from cas3fs.entries.kinds import PagesEntry, SnapshotEntry
from cas3fs.entries.nodes import Part
from cas3fs.errors import SnapshotDamaged
from cas3fs.objectstores.base import ObjectStore
from cas3fs.snapshots.local_segments import LocalSegments, open_local
from cas3fs.snapshots.manifest_reader import ManifestReader
from cas3fs.snapshots.manifests import (
    SnapshotInfo,
    as_snapshot_damage,
    expected_references,
    local_disk_errors,
    snapshot_info,
)
from cas3fs.snapshots.pages import learn_seals
from cas3fs.snapshots.ranged_reads import WantedRange, read_ranges
from cas3fs.snapshots.tree import (
    ReferenceList,
    SegmentReference,
    SnapshotTree,
    check_references,
    decode_list,
    open_segment,
)
from cas3fs.values import Buffer

RestoreProgress = Callable[[int, int], None]
"""Called with the bytes restored so far and the total; by several threads, one at a time."""


class SnapshotReader:
    """Reads the snapshots of one volume.

    Args:
        store: the object store.
        manifests: reads the manifests.
        workers: how many requests run in parallel.
    """

    def __init__(self, store: ObjectStore, manifests: ManifestReader, workers: int) -> None:
        self._store = store
        self._manifests = manifests
        self._workers = workers

    def restore(
        self, snapshot_id: str, destination: Path, progress: RestoreProgress | None, local: Iterable[Path]
    ) -> SnapshotInfo:
        """As `SnapshotArchive.restore`."""
        entry, digest = self._manifests.load_entry(snapshot_id)
        tree = self.read_tree(entry)
        with local_disk_errors("restored index"), open(destination, "xb", buffering=0) as file:
            try:
                with open_local(local) as segments:
                    self._write_segments(entry, tree, file, progress or (lambda done, total: None), segments)
            except BaseException:
                destination.unlink()
                raise
        return snapshot_info(entry, digest)

    def verify(self, snapshot_id: str, seen: set[SegmentReference]) -> None:
        """As `SnapshotArchive.verify`."""
        entry, _ = self._manifests.load_entry(snapshot_id)
        unseen = [(number, one) for number, one in enumerate(self.read_tree(entry).references()) if one not in seen]
        self._read_segments(entry, unseen, lambda number, plain: None)
        seen.update(one for _, one in unseen)

    def read_tree(self, entry: SnapshotEntry) -> SnapshotTree:
        """Read the lists of a snapshot.

        Raises:
            SnapshotDamaged: a list is missing or wrong.
            SnapshotArchived: a list must first be restored from an archive tier of the store.
            StoreError: the store failed.
        """
        learn_seals(self._store, entry)
        lists: list[ReferenceList] = [ReferenceList(())] * len(entry.parts)

        def use(one: WantedRange[tuple[int, Part]], stored: memoryview) -> None:
            number, part = one.purpose
            part.verify(stored)
            lists[number] = decode_list(stored, entry.list_length)
            check_references(lists[number].references(), entry.segment_size)
            expected = expected_references(entry, number)
            if len(lists[number]) != expected:
                raise SnapshotDamaged(f"list {number} has {len(lists[number])} references instead of {expected}")

        wanted = (WantedRange(one.key, one.offset, one.length, (number, one)) for number, one in enumerate(entry.parts))
        with as_snapshot_damage(entry):
            read_ranges(self._store, wanted, use, self._workers)
        return SnapshotTree(entry.parts, tuple(lists))

    def _write_segments(
        self, entry: SnapshotEntry, tree: SnapshotTree, file: BinaryIO, progress: RestoreProgress, local: LocalSegments
    ) -> None:
        os.ftruncate(file.fileno(), entry.index_size)
        lock = threading.Lock()
        done = 0

        def write(number: int, plain: Buffer) -> None:
            nonlocal done
            _write_all(file.fileno(), plain, number * entry.segment_size)
            with lock:
                done += len(plain)
                progress(done, entry.index_size)

        starts = count(0, entry.list_length)
        missing = (
            local.take(start, entry.segment_size, one.references(), write)
            for start, one in zip(starts, tree.lists, strict=False)
        )
        self._read_segments(entry, chain.from_iterable(missing), write)

    def _read_segments(
        self, entry: SnapshotEntry, segments: Iterable[tuple[int, SegmentReference]], use: Callable[[int, bytes], None]
    ) -> None:
        """Pass segments of a snapshot, by number and verified, to `use`, which must be thread-safe."""

        def open_and_use(one: WantedRange[tuple[int, SegmentReference]], stored: memoryview) -> None:
            number, reference = one.purpose
            length = min(entry.segment_size, entry.index_size - number * entry.segment_size)
            use(number, open_segment(stored, reference, length))

        wanted = (
            WantedRange(PagesEntry.key_of(one.pages), one.offset, one.length, (number, one)) for number, one in segments
        )
        with as_snapshot_damage(entry):
            read_ranges(self._store, wanted, open_and_use, self._workers)


def _write_all(descriptor: int, data: Buffer, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
