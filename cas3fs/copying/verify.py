# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the copies of snapshots back from the destination, and compares them with the source.

Both indexes are restored from the stores and compared row by row. Then every byte that the source has in chunks is read
from the destination: it has to have the hash that the source knows for its block. Where only a piece of a block is in
use, the block is read from the source and compared. What is a hole in the source has to be zeros. What snapshots share
is read once.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import attrs
from blake3 import blake3

from cas3fs.blockstore.reader import BlockReader
from cas3fs.copying.progress import CopyProgress
from cas3fs.copying.recut import PART_BYTES, FilePart, parts_of
from cas3fs.copying.source import CopySource, announced, block_reader
from cas3fs.copying.target import Destination
from cas3fs.errors import BlockError
from cas3fs.index import Index, migrations
from cas3fs.index.copying import chunk_bytes, chunks_in_order, differing_tables
from cas3fs.index.files import remove_database
from cas3fs.index.ledger import CopyLedger
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import ChunkSpan

_PARTS_AT_ONCE = 64
_MOST_PROBLEMS = 20


@attrs.define
class Verified:
    """What was compared.

    Attributes:
        snapshots: how many.
        read_bytes: content that was read from the destination.
        lost_bytes: content that neither has.
        differences: how many differences were found.
        problems: the first of them, a sentence each.
    """

    snapshots: int = 0
    read_bytes: int = 0
    lost_bytes: int = 0
    differences: int = 0
    problems: list[str] = attrs.field(factory=list)

    def add_difference(self, text: str) -> None:
        """One more."""
        self.differences += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)


class CopyVerifier:
    """Compares snapshots with their copies.

    Args:
        source: the volume that was copied.
        destination: the volume that holds the copies.
        ledger: what was compared is noted there.
        folder: for the indexes.
        progress: is told how far it is.
    """

    def __init__(
        self, source: CopySource, destination: Destination, ledger: CopyLedger, folder: Path, progress: CopyProgress
    ) -> None:
        self._source, self._destination, self._ledger = source, destination, ledger
        self._progress = progress
        self._source_index, self._copy_index = folder / "source.sqlite", folder / "verify.sqlite"
        self._reader = block_reader(destination.store, destination.entry, destination.requests)
        self.result = Verified()
        ledger.begin_verification()

    def verify(self, original: SnapshotInfo, copy: SnapshotInfo) -> None:
        """Compares a snapshot of the source with its copy.

        Raises:
            SnapshotGone: the source does not have it any more.
            SnapshotDamaged, StoreError: one of them cannot be read.
            IndexDatabaseError, OSError: the local disk failed.
        """
        self._source.restore(original.id, self._source_index, self._progress.restored)
        remove_database(self._copy_index)
        self._destination.archive.restore(copy.id, self._copy_index, self._progress.restored)
        migrations.upgrade(self._copy_index)
        for table in differing_tables(self._copy_index, self._source_index):
            self.result.add_difference(f"snapshot {copy.id} differs from {original.id} in its {table}")
        if (original.name, original.time) != (copy.name, copy.time):
            self.result.add_difference(f"snapshot {copy.id} has another name or time than {original.id}")
        self._progress.begin("verifying", chunk_bytes(self._source_index))
        with Index.open(self._copy_index, read_only=True) as index:
            self._compare_contents(index, copy.id)
        self._ledger.commit()
        self.result.snapshots += 1

    def close(self) -> None:
        """Removes the indexes."""
        self._reader.close()
        for path in (self._source_index, self._copy_index):
            remove_database(path)

    def _compare_contents(self, index: Index, snapshot_id: str) -> None:
        parts = parts_of(chunks_in_order(self._source_index))
        while batch := list(islice(parts, _PARTS_AT_ONCE)):
            stored = [index.chunks.spans(part.inode, part.start, part.start + PART_BYTES) for part in batch]
            unread = [pair for pair in zip(batch, stored, strict=True) if self._ledger.add_verified(_digest(*pair))]
            following = announced(self._reader, (span.block for _, spans in unread for span in spans))
            for part, spans in unread:
                content = _StoredContent(self._reader, spans, following)
                if why := self._difference(part, content):
                    self.result.add_difference(
                        f"snapshot {snapshot_id}: inode {part.inode} from byte {part.start} on: {why}"
                    )
            self._progress.skip(sum(part.size_bytes for part in batch))

    def _difference(self, part: FilePart, content: "_StoredContent") -> str:
        """What differs in a part of a file; empty if nothing does."""
        end = part.start
        for span in part.spans:
            if not content.is_zero(end, span.offset):
                return "something was stored in a hole"
            if why := self._span_difference(span, content):
                return why
            end = span.offset + span.length
        return "" if content.is_zero(end, part.start + PART_BYTES) else "something was stored in a hole"

    def _span_difference(self, span: ChunkSpan, content: "_StoredContent") -> str:
        try:
            copied = content.read(span.offset, span.offset + span.length)
        except BlockError as error:
            return self._loss(span, error)
        if copied is None:
            return "a part of it is missing"
        self.result.read_bytes += len(copied)
        if span.length == span.block.plain_length:
            return "" if self._source.store.hash_content(copied) == span.block.hash else "its content differs"
        original = self._source.reader.read(span.block, span.skip, span.length)
        return "" if copied == original else "its content differs"

    def _loss(self, span: ChunkSpan, error: BlockError) -> str:
        """What a block that cannot be read in the destination means."""
        try:
            self._source.reader.read(span.block, span.skip, span.length)
        except BlockError:
            self.result.lost_bytes += span.length
            return ""
        return str(error)


class _StoredContent:
    """What the destination has of a part of a file."""

    def __init__(self, reader: BlockReader, spans: Sequence[ChunkSpan], following: Iterator[object]) -> None:
        self._reader, self._spans, self._following = reader, spans, following
        self._advanced = 0

    def read(self, start: int, end: int) -> bytes | None:
        """The bytes of that range; None if there is a hole in it."""
        pieces, position = [], start
        for span in self._overlapping(start, end):
            begin, stop = max(start, span.offset), min(end, span.offset + span.length)
            if begin != position:
                return None
            pieces.append(self._reader.read(span.block, span.skip + begin - span.offset, stop - begin))
            position = stop
        return b"".join(pieces) if position == end else None

    def is_zero(self, start: int, end: int) -> bool:
        """Whether the range reads as zeros."""
        for span in self._overlapping(start, end):
            begin, stop = max(start, span.offset), min(end, span.offset + span.length)
            if any(self._reader.read(span.block, span.skip + begin - span.offset, stop - begin)):
                return False
        return True

    def _overlapping(self, start: int, end: int) -> Iterator[ChunkSpan]:
        """The chunks that overlap the range; ranges are asked for in ascending order."""
        first = self._advanced
        for number in range(max(first - 1, 0), len(self._spans)):
            span = self._spans[number]
            if span.offset >= end:
                return
            while self._advanced <= number:
                next(self._following, None)
                self._advanced += 1
            if span.offset + span.length > start:
                yield span


def _digest(part: FilePart, spans: Sequence[ChunkSpan]) -> bytes:
    """Identifies a part, and what it is made of in the destination."""
    rows = ((span.offset - part.start, span.length, span.skip, span.block) for span in spans)
    return blake3(part.digest + repr(list(rows)).encode()).digest()
