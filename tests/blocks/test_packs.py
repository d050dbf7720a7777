# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs describe themselves, and everything that is read from them is checked."""

import struct

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.blocks.codec import MAX_BLOCK_BYTES, Compression, decode_verified, encode
from cas3fs.blocks.packs import (
    FOOTER_BYTES,
    GUESSED_TAIL_BYTES,
    FinishedPack,
    PackBuilder,
    read_contents,
    tail_length,
)
from cas3fs.encryption.padding import padded_length
from cas3fs.errors import PackCorrupt
from tests.contracts.blocks import hash_block

ZSTD = Compression.parse("zstd:3")
NONCE = bytes(range(16))


def build(plains: list[bytes], nonce: bytes | None = NONCE) -> FinishedPack:
    builder = PackBuilder(nonce=nonce)
    for plain in plains:
        builder.add(hash_block(plain), encode(plain, ZSTD), len(plain))
    assert builder.size_bytes == len(builder.finish().body)
    return builder.finish()


def with_footer(body: bytes, facts: bytes, table_bytes: int) -> bytes:
    """`body` with other fields in the footer and a matching checksum."""
    table = body[len(body) - FOOTER_BYTES - table_bytes : len(body) - FOOTER_BYTES]
    return body[:-FOOTER_BYTES] + facts + blake3(table + facts).digest() + b"CAS3PEND"


@given(st.lists(st.binary(max_size=400), max_size=30))
def test_every_block_is_found_by_the_table_and_decodes(plains: list[bytes]) -> None:
    image = build(plains)
    contents = read_contents(image.body, len(image.body))
    assert contents == image.blocks
    for line, plain in zip(contents, plains, strict=True):
        encoded = image.body[line.offset : line.offset + line.stored_length]
        assert decode_verified(encoded, line.plain_length, line.hash, hash_block) == plain


def test_the_name_is_the_hash_of_the_bytes() -> None:
    image = build([b"one", b"two"])
    assert image.name == blake3(image.body).hexdigest()


def test_the_same_blocks_make_packs_of_different_names() -> None:
    assert build([b"one"], None).name != build([b"one"], None).name


def test_the_same_nonce_makes_the_same_pack() -> None:
    assert build([b"one"]).body == build([b"one"]).body


def test_the_guessed_tail_shows_how_much_of_the_end_is_needed() -> None:
    image = build([number.to_bytes(4, "big") for number in range(3000)])
    size = len(image.body)
    needed = tail_length(image.body[-GUESSED_TAIL_BYTES:], size)
    assert needed > GUESSED_TAIL_BYTES
    with pytest.raises(PackCorrupt, match="needs"):
        read_contents(image.body[-GUESSED_TAIL_BYTES:], size)
    assert read_contents(memoryview(image.body)[-needed:], size) == image.blocks


def test_a_pack_without_blocks_is_valid() -> None:
    image = build([])
    assert read_contents(image.body, len(image.body)) == ()


@given(st.data())
def test_a_damaged_tail_is_never_accepted(data: st.DataObject) -> None:
    image = build([b"some", b"blocks" * 100])
    needed = tail_length(image.body, len(image.body))
    tail = bytearray(image.body[-needed:])
    tail[data.draw(st.integers(0, needed - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PackCorrupt):
        read_contents(tail, len(image.body))


@given(st.binary(max_size=300), st.integers(0, 10**6))
def test_noise_is_a_corrupt_pack(tail: bytes, size: int) -> None:
    with pytest.raises(PackCorrupt):
        read_contents(tail, size)


@pytest.mark.parametrize("size_change", [-1, 1, 4096])
def test_a_truncated_or_longer_pack_is_corrupt(size_change: int) -> None:
    image = build([b"one"])
    with pytest.raises(PackCorrupt):
        read_contents(image.body, len(image.body) + size_change)


def test_a_table_larger_than_the_pack_is_refused_before_it_is_read() -> None:
    body = build([b"one"]).body
    facts = struct.pack(">QIH10x", len(body), 2**32 - 1, 1)
    with pytest.raises(PackCorrupt, match="does not fit"):
        tail_length(with_footer(body, facts, 48), len(body))


def test_a_newer_format_is_named() -> None:
    body = build([b"one"]).body
    facts = struct.pack(">QIH10x", len(body), 1, 3)
    with pytest.raises(PackCorrupt, match="format 3"):
        read_contents(with_footer(body, facts, 48), len(body))


@pytest.mark.parametrize(
    ("offset", "stored", "plain"),
    [(33, 4, 3), (0, 36, 3), (32, 0, 3), (32, 5, 3), (32, 3, 3), (2**63, 4, 3), (32, 4, MAX_BLOCK_BYTES + 1)],
)
def test_impossible_offsets_and_lengths_are_refused_despite_a_valid_checksum(
    offset: int, stored: int, plain: int
) -> None:
    image = build([b"one"])
    facts = image.body[-FOOTER_BYTES : -FOOTER_BYTES + 24]
    line = struct.pack(">32sQII", hash_block(b"one"), offset, stored, plain)
    body = image.body[: -FOOTER_BYTES - 48] + line + image.body[-FOOTER_BYTES:]
    with pytest.raises(PackCorrupt):
        read_contents(with_footer(body, facts, 48), len(body))


@pytest.mark.parametrize(
    ("name", "encoded", "plain_length"),
    [
        (b"short", b"\x00a", 1),
        (bytes(32), b"", 0),
        (bytes(32), b"\x00a", -1),
        (bytes(32), b"\x00", MAX_BLOCK_BYTES + 1),
    ],
)
def test_a_builder_refuses_blocks_that_readers_would_refuse(name: bytes, encoded: bytes, plain_length: int) -> None:
    with pytest.raises(ValueError, match="no block"):
        PackBuilder().add(name, encoded, plain_length)  # type: ignore[arg-type]


def padded(plains: list[bytes]) -> FinishedPack:
    builder = PackBuilder(pads=True)
    for plain in plains:
        builder.add(hash_block(plain), encode(plain, ZSTD), len(plain))
    return builder.finish()


@given(st.lists(st.binary(max_size=3000), max_size=12))
def test_a_padded_pack_holds_the_same_blocks(plains: list[bytes]) -> None:
    pack = padded(plains)
    assert len(pack.body) == padded_length(len(build(plains).body))
    assert read_contents(pack.body, len(pack.body)) == pack.blocks == build(plains).blocks


def test_only_a_padded_pack_has_room_after_its_blocks() -> None:
    body = bytes(padded([b"one" * 1000, b"two" * 1001]).body)
    fields = struct.pack(">QIH10x", len(body), 2, 1)
    with pytest.raises(PackCorrupt, match="its table starts"):
        read_contents(with_footer(body, fields, 96), len(body))
