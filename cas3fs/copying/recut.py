# SPDX-License-Identifier: GPL-3.0-or-later
"""Cutting files anew, between volumes that are not alike.

A *part* is what a file has within one GiB of its offsets. Its chunks in the source have a digest, and the ledger knows
parts by that: so a file that two snapshots share is read once, and of one that has grown only the last part is read.

A part is a series of *runs* without holes between; each is cut by itself, so holes stay. Where chunks have to begin at
multiples of a block size, runs that share a block are joined, with zeros between them, as if they had been written that
way. A lost block ends a run; a part with one is cut again for each snapshot.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from blake3 import blake3

from cas3fs.blocks.chunkers import Chunker
from cas3fs.copying.progress import CopyProgress
from cas3fs.copying.source import CopySource, announced
from cas3fs.copying.target import CopyTarget
from cas3fs.errors import BlockError
from cas3fs.index.copying import NewChunk, SnapshotTables, chunk_bytes, chunks_in_order
from cas3fs.units import GIB, MIB
from cas3fs.values import BlockHash, BlockLocation, ChunkSpan

PART_BYTES: Final = GIB
"""A multiple of every block size that chunks have to begin at."""
_PIECE_BYTES: Final = 4 * MIB
_BATCH_PARTS: Final = 256
_BATCH_BYTES: Final = 64 * MIB
_SPAN: Final = struct.Struct(">III32s")
_CUT: Final = struct.Struct(">III32s")


class CutChunk(NamedTuple):
    """A chunk of a part: offset from its start, length, bytes of the block before it, hash in the destination."""

    offset: int
    length: int
    skip: int
    hash: BlockHash


class FilePart(NamedTuple):
    """What a file has from `start` to the next GiB, as chunks within these bounds."""

    inode: int
    start: int
    spans: Sequence[ChunkSpan]

    @property
    def digest(self) -> bytes:
        """Identifies the content, and where in the part it is."""
        rows = (_SPAN.pack(one.offset - self.start, one.length, one.skip, one.block.hash) for one in self.spans)
        return blake3(b"".join(rows)).digest()

    @property
    def size_bytes(self) -> int:
        """Of its content, without holes."""
        return sum(one.length for one in self.spans)


def parts_of(chunks: Iterable[tuple[int, ChunkSpan]]) -> Iterator[FilePart]:
    """The parts of files, of chunks in the order of inodes and offsets."""
    place, spans = (0, 0), list[ChunkSpan]()
    for inode, span in chunks:
        for piece in _pieces(span):
            own = (inode, piece.offset - piece.offset % PART_BYTES)
            if spans and own != place:
                yield FilePart(*place, spans)
                spans = []
            place = own
            spans.append(piece)
    if spans:
        yield FilePart(*place, spans)


def _pieces(span: ChunkSpan) -> Iterator[ChunkSpan]:
    """A chunk, divided where a part ends."""
    while True:
        left = PART_BYTES - span.offset % PART_BYTES
        if span.length <= left:
            yield span
            return
        yield span._replace(length=left)
        span = ChunkSpan(span.offset + left, span.length - left, span.skip + left, span.block)


class FileCutter:
    """Cuts the files of one snapshot after the other."""

    def __init__(self, source: CopySource, target: CopyTarget, progress: CopyProgress) -> None:
        self._source, self._target, self._progress = source, target, progress
        self._same_hashes = not (source.is_encrypted or target.is_encrypted)
        self._damaged: dict[bytes, list[CutChunk]] = {}
        self._lost: dict[BlockHash, int] = {}

    def store(self, index: Path, snapshot_id: str) -> int:
        """Has all blocks stored into which the files of a snapshot, with its index, are cut; returns how many blocks of
        the source are lost. Raises as `BlockCopier.store`."""
        self._damaged, self._lost = {}, {}
        self._progress.begin("copying files", chunk_bytes(index))
        unknown = (part for part in parts_of(chunks_in_order(index)) if not self._is_stored(part))
        while batch := list(_batch(unknown)):
            blocks = (span.block for part in batch for span in part.spans)
            following = announced(self._source.reader, blocks)
            for part in batch:
                self._cut(part, snapshot_id, following)
            self._target.ledger.commit()
        self._target.flush()
        return len(self._lost)

    def set_chunks(self, tables: SnapshotTables, index: Path) -> None:
        """Makes the chunks in the copy those into which the files of the snapshot with that index were cut."""
        for block, plain_length in self._lost.items():
            tables.add_lost_block(block, plain_length)
        tables.delete_foreign_chunks()
        inode = end = 0
        for part in parts_of(chunks_in_order(index)):
            if part.inode != inode:
                tables.set_chunks(inode, end, None, ())
                inode, end = part.inode, 0
            tables.set_chunks(inode, end, part.start, ())
            end = part.start + PART_BYTES
            cut = self._chunks_of(part)
            rows = [NewChunk(part.start + one.offset, one.length, one.hash, one.skip) for one in cut]
            tables.set_chunks(inode, part.start, end, rows)
        tables.set_chunks(inode, end, None, ())
        tables.finish_chunks()

    def _is_stored(self, part: FilePart) -> bool:
        """Whether a part is cut, and all its blocks are stored."""
        cut = self._target.ledger.part(part.digest)
        if cut is None:
            return False
        hashes = {one.hash for one in _decoded(cut)}
        if len(self._target.known(list(hashes))) < len(hashes):
            return False
        self._progress.skip(part.size_bytes)
        return True

    def _chunks_of(self, part: FilePart) -> list[CutChunk]:
        digest = part.digest
        damaged = self._damaged.get(digest)
        if damaged is not None:
            return damaged
        cut = self._target.ledger.part(digest)
        assert cut is not None, "a part was not stored before its chunks are set"
        return _decoded(cut)

    def _cut(self, part: FilePart, snapshot_id: str, following: Iterator[BlockLocation]) -> None:
        """Reads and cuts a part, and has its blocks stored; its next block is the next of `following`."""
        run = _Run(part.start, self._target)
        is_damaged = False
        for span in part.spans:
            next(following)
            run.go_to(span.offset)
            try:
                run.add(self._source.reader.read(span.block, span.skip, span.length))
            except BlockError:
                self._source.check_snapshot(snapshot_id)
                is_damaged = True
                block = self._target.lost_hash(span.block.hash, same_hashes=self._same_hashes)
                self._lost[block] = span.block.plain_length
                run.skip_lost(span, block)
                continue
            self._progress.read(span.length)
        run.end()
        if is_damaged:
            self._damaged[part.digest] = run.chunks
        else:
            self._target.ledger.add_part(part.digest, b"".join(_CUT.pack(*one) for one in run.chunks))


class _Run:
    """Content of a part that follows each other, and is being cut.

    Attributes:
        chunks: what was cut so far.
    """

    def __init__(self, start: int, target: CopyTarget) -> None:
        self._start, self._target = start, target
        self._chunker: Chunker = target.chunker
        self._position = start
        """Where the content begins that is not cut yet: behind everything before."""
        self._pending = bytearray()
        self._wanted = max(_PIECE_BYTES, self._chunker.max_size)
        self.chunks: list[CutChunk] = []

    @property
    def _end(self) -> int:
        return self._position + len(self._pending)

    def go_to(self, offset: int) -> None:
        """The next bytes are at that offset."""
        if offset == self._end and self._pending:
            return
        alignment = self._chunker.alignment
        begin = max(offset - offset % alignment, self._position)
        if self._pending and begin >= self._end:
            self.end()
        if not self._pending:
            self._position = begin
        self._pending += bytes(offset - self._end)

    def add(self, content: bytes | bytearray | memoryview) -> None:
        """More bytes follow."""
        self._pending += content
        if len(self._pending) >= self._wanted:
            self._cut(final=False)

    def skip_lost(self, span: ChunkSpan, block: BlockHash) -> None:
        """Bytes of a lost block follow."""
        self.end()
        self.chunks.append(CutChunk(span.offset - self._start, span.length, span.skip, block))
        self._position = span.offset + span.length

    def end(self) -> None:
        """The run ends here."""
        self._cut(final=True)

    def _cut(self, *, final: bool) -> None:
        done = 0
        with memoryview(self._pending) as pending:
            for length in self._lengths(pending, final):
                block = self._target.add(bytes(pending[done : done + length]))
                self.chunks.append(CutChunk(self._position - self._start + done, length, 0, block))
                done += length
        del self._pending[:done]
        self._position += done

    def _lengths(self, pending: memoryview, final: bool) -> list[int]:
        """Lengths of the next chunks; behind a lost block the first one ends where chunks may begin again."""
        first = -self._position % self._chunker.alignment
        if not first:
            return self._chunker.cut(pending, final)
        if len(pending) <= first:
            return [len(pending)] if final and pending else []
        with pending[first:] as rest:
            return [first, *self._chunker.cut(rest, final)]


def _batch(parts: Iterator[FilePart]) -> Iterator[FilePart]:
    """The next parts, about so many as can be announced together."""
    size_bytes = 0
    for part in islice(parts, _BATCH_PARTS):
        yield part
        size_bytes += part.size_bytes
        if size_bytes >= _BATCH_BYTES:
            return


def _decoded(cut: bytes) -> list[CutChunk]:
    return [CutChunk(offset, length, skip, BlockHash(block)) for offset, length, skip, block in _CUT.iter_unpack(cut)]
