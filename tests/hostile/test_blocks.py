# SPDX-License-Identifier: GPL-3.0-or-later
"""Arbitrary bytes as blocks and packs: decoded or a clear error, within the memory that was requested."""

import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.blocks.codec import MAX_BLOCK_BYTES, Compression, decode, decode_verified, encode
from cas3fs.blocks.packs import FOOTER_BYTES, PackBuilder, read_contents, tail_length
from cas3fs.errors import BlockCorrupt, PackCorrupt
from cas3fs.values import BlockHash
from tests.contracts.blocks import hash_block
from tests.hostile.mutations import EXTREMES, Edit, bytes_like, edits, harmed

PLAIN = b"some text that compresses well " * 200
ENCODED = encode(PLAIN, Compression.parse("zstd:3"))


@given(encoded=bytes_like(ENCODED), length=st.sampled_from([len(PLAIN), *EXTREMES]))
def test_arbitrary_bytes_of_a_block_are_decoded_or_refused(encoded: bytes, length: int) -> None:
    try:
        assert len(decode(encoded, length)) == length
    except BlockCorrupt as error:
        assert str(error)


@given(changes=edits)
def test_a_changed_block_never_decodes_to_other_bytes(changes: list[Edit]) -> None:
    try:
        assert decode_verified(harmed(ENCODED, changes), len(PLAIN), hash_block(PLAIN), hash_block) == PLAIN
    except BlockCorrupt as error:
        assert str(error)


def frame(plain_bytes: int, *, declared: bool) -> bytes:
    """A frame of a few KiB that unpacks to that many bytes, with or without declaring it."""
    machine = zstandard.ZstdCompressor(write_content_size=declared).compressobj(size=plain_bytes if declared else -1)
    piece = bytes(1 << 20)
    return b"".join([*(machine.compress(piece) for _ in range(plain_bytes >> 20)), machine.flush()])


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("length", [1000, MAX_BLOCK_BYTES, 1 << 30])
def test_a_decompression_bomb_is_refused_early(declared: bool, length: int) -> None:
    bomb = b"\x01" + frame(1 << 28, declared=declared)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(BlockCorrupt):
            decode(bomb, length)
        assert tracemalloc.get_traced_memory()[1] < MAX_BLOCK_BYTES + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("declared", [1000, MAX_BLOCK_BYTES])
def test_a_frame_that_declares_too_little_is_refused(declared: int) -> None:
    """The declared length is that of one frame, the content that of another, which is 64 times as long."""
    lying = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(declared)))
    honest = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(64 * declared))
    header = zstandard.frame_header_size(bytes(lying))
    body = honest[zstandard.frame_header_size(honest) :]
    with pytest.raises(BlockCorrupt):
        decode(b"\x01" + bytes(lying[:header]) + body, declared)


def make_pack() -> bytes:
    builder = PackBuilder()
    for number in range(5):
        plain = bytes([number]) * 100
        builder.add(hash_block(plain), encode(plain, Compression.parse("none")), len(plain))
    return bytes(builder.finish().body)


PACK = make_pack()


@given(tail=bytes_like(PACK), size=st.sampled_from([len(PACK), *EXTREMES]))
def test_arbitrary_bytes_of_a_pack_are_read_or_refused(tail: bytes, size: int) -> None:
    try:
        needed = tail_length(tail, size)
        assert FOOTER_BYTES <= needed <= size
        for line in read_contents(tail, size):
            assert 0 < line.offset < size
            assert line.offset + line.stored_length <= size
            assert line.plain_length <= MAX_BLOCK_BYTES
            assert len(BlockHash(line.hash)) == 32
    except PackCorrupt as error:
        assert str(error)
