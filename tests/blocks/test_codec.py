# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoding and decoding of single blocks."""

import random
import threading
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.blocks import codec
from cas3fs.blocks.codec import (
    MAX_BLOCK_BYTES,
    Codec,
    CodecTag,
    Compression,
    decode,
    decode_verified,
    encode,
)
from cas3fs.errors import BlockCorrupt, UsageError
from cas3fs.values import Buffer
from tests.contracts.blocks import hash_block

NONE = Compression.parse("none")
ZSTD = Compression.parse("zstd:3")
TEXT = b"the same line again and again\n" * 5000
NOISE = random.Random(1).randbytes(200_000)


@given(st.binary(max_size=3000), st.sampled_from(["none", "zstd:1", "zstd:3", "zstd:9"]))
def test_what_is_encoded_decodes_to_the_same_bytes(plain: bytes, compression: str) -> None:
    encoded = encode(plain, Compression.parse(compression))
    assert decode_verified(encoded, len(plain), hash_block(plain), hash_block) == plain


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("compression", [NONE, ZSTD])
def test_any_buffer_is_taken_on_both_sides(kind: type, compression: Compression) -> None:
    encoded = kind(encode(kind(TEXT), compression))
    assert decode(encoded, len(TEXT)) == TEXT


def test_compressible_data_shrinks() -> None:
    assert len(encode(TEXT, ZSTD)) < len(TEXT) // 50


@pytest.mark.parametrize("level", [1, 3, 4, 12])
def test_random_data_is_stored_with_one_byte_more(level: int) -> None:
    encoded = encode(NOISE, Compression.parse(f"zstd:{level}"))
    assert encoded[0] == 0 and len(encoded) == len(NOISE) + 1


def test_high_levels_find_a_compressible_part_of_random_data() -> None:
    plain = NOISE + bytes(100_000)
    assert len(encode(plain, Compression.parse("zstd:12"))) < len(NOISE) + 2000


def test_without_compression_everything_is_stored() -> None:
    assert encode(TEXT, NONE) == b"\x00" + TEXT


def test_an_empty_block_is_one_byte() -> None:
    assert encode(b"", ZSTD) == b"\x00"
    assert decode(b"\x00", 0) == b""


@pytest.mark.parametrize(("text", "level"), [("none", 0), ("zstd", 3), ("zstd:1", 1), ("ZSTD:22", 22), (" zstd:7 ", 7)])
def test_a_compression_is_parsed_from_its_text(text: str, level: int) -> None:
    parsed = Compression.parse(text)
    assert parsed.level == level
    assert Compression.parse(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["", "lzma", "zstd:0", "zstd:23", "zstd:", "zstd:-1", "none:1", "zstd:3:4"])
def test_an_unknown_compression_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="compression"):
        Compression.parse(text)


@pytest.mark.parametrize(
    ("encoded", "plain_length"),
    [
        (b"", 0),
        (b"\x07abc", 3),
        (b"\x00abc", 2),
        (b"\x00abc", 4),
        (b"\x01", 0),
        (b"\x01not zstd at all", 15),
        (encode(TEXT, ZSTD)[:-1], len(TEXT)),
        (encode(TEXT, ZSTD) + b"x", len(TEXT)),
        (encode(TEXT, ZSTD), len(TEXT) - 1),
        (encode(TEXT, ZSTD), len(TEXT) + 1),
    ],
)
def test_an_invalid_encoding_is_a_corrupt_block(encoded: bytes, plain_length: int) -> None:
    with pytest.raises(BlockCorrupt):
        decode(encoded, plain_length)


def test_a_frame_larger_than_the_block_is_never_decompressed() -> None:
    bomb = b"\x01" + zstandard.ZstdCompressor().compress(bytes(MAX_BLOCK_BYTES + 1))
    with pytest.raises(BlockCorrupt, match="declares"):
        decode(bomb, 100)
    with pytest.raises(BlockCorrupt, match="declares"):
        decode(bomb, MAX_BLOCK_BYTES + 1)


def test_a_frame_without_a_declared_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    with pytest.raises(BlockCorrupt):
        decode(b"\x01" + frame, len(TEXT))


@given(st.integers(0, len(encode(TEXT, ZSTD)) * 8 - 1))
def test_a_flipped_bit_never_yields_other_bytes(bit: int) -> None:
    damaged = bytearray(encode(TEXT, ZSTD))
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        plain = decode_verified(damaged, len(TEXT), hash_block(TEXT), hash_block)
    except BlockCorrupt:
        return
    assert plain == TEXT  # some bits of a frame's header mean nothing


def test_other_bytes_than_the_hash_names_are_refused() -> None:
    with pytest.raises(BlockCorrupt, match="hash"):
        decode_verified(b"\x00abd", 3, hash_block(b"abc"), hash_block)


def test_a_block_over_the_limit_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="longer"):
        encode(bytes(MAX_BLOCK_BYTES + 1), ZSTD)


class ZlibCodec(Codec):
    """All that another codec needs, with its entry in the table."""

    name = "zlib"
    tag = CodecTag(200)
    levels = range(1, 10)
    default_level = 6

    def compress(self, plain: Buffer, level: int) -> Buffer | None:
        return zlib.compress(plain, level)

    def decompress(self, payload: memoryview, plain_length: int) -> bytes:
        return zlib.decompressobj().decompress(payload, plain_length)


def test_another_codec_is_a_class_and_an_entry_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "CODECS", (*codec.CODECS, ZlibCodec()))
    for text in ("zlib", "zlib:9"):
        encoded = encode(TEXT, Compression.parse(text))
        assert encoded[0] == ZlibCodec.tag
        assert len(encoded) < len(TEXT) // 50
        assert decode_verified(encoded, len(TEXT), hash_block(TEXT), hash_block) == TEXT
    assert encode(NOISE, Compression.parse("zlib"))[0] == codec.STORED.tag
    with pytest.raises(UsageError, match="zlib:LEVEL with a level from 1 to 9"):
        Compression.parse("zlib:10")


def test_names_and_tags_of_codecs_are_unique() -> None:
    assert len({one.name for one in codec.CODECS}) == len({one.tag for one in codec.CODECS}) == len(codec.CODECS)


def test_threads_encode_and_decode_at_the_same_time() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(40):
            plain = bytes([number, turn]) * 20_000
            if decode(encode(plain, ZSTD), len(plain)) != plain:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
