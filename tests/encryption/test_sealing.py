# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of sealed objects: what was sealed comes back, and nothing else does."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.encryption.ciphers import CIPHERS, SealBroken
from cas3fs.encryption.keyring import Keyring, ObjectKeys
from cas3fs.encryption.padding import padded_length
from cas3fs.encryption.sealing import (
    HEADER_BYTES,
    PIECE_BYTES,
    SEALED_PIECE_BYTES,
    ObjectSeal,
    SealHeader,
    plain_size,
    sealed_size,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYRING = Keyring.new(NOW)
UUID = b"u" * 16
SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES]


def seal_of(key: str, header: SealHeader, cipher: str = CIPHERS[0], uuid: bytes = UUID) -> ObjectSeal:
    return ObjectSeal(ObjectKeys(KEYRING, uuid, cipher).key_of(key, header), header)


def content_of(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_is_opened(size: int, cipher: str) -> None:
    seal = seal_of("a", SealHeader.random(1), cipher)
    sealed = seal.seal(content_of(size))
    assert seal.open(sealed) == content_of(size)
    assert len(sealed) == sealed_size(size)
    assert plain_size(len(sealed)) == size


@given(st.integers(0, 1 << 33))
def test_a_size_is_that_of_at_most_one_object(size: int) -> None:
    assert plain_size(sealed_size(size)) == size
    found = plain_size(size)
    assert found is None or sealed_size(found) == size


@pytest.mark.parametrize("size", SIZES)
def test_an_object_that_was_cut_off_is_refused(size: int) -> None:
    seal = seal_of("a", SealHeader.random(1))
    sealed = seal.seal(content_of(size))
    cuts = {0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(sealed) - 16, len(sealed) - 1}
    cuts |= {HEADER_BYTES + number * SEALED_PIECE_BYTES for number in range(size // PIECE_BYTES + 1)}
    for cut in cuts - {len(sealed)}:
        with pytest.raises(SealBroken):
            seal.open(sealed[:cut])


@given(st.data())
def test_an_object_with_a_changed_byte_is_refused(data: st.DataObject) -> None:
    seal = seal_of("a", SealHeader.random(1))
    sealed = bytearray(seal.seal(content_of(PIECE_BYTES + 100)))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealBroken):
        seal.open(sealed)


def test_a_piece_stands_for_no_other_one() -> None:
    header = SealHeader.random(1)
    content = bytes(2 * PIECE_BYTES + 5)
    sealed = seal_of("a", header).seal(content)
    first, second = (
        sealed[HEADER_BYTES + n * SEALED_PIECE_BYTES : HEADER_BYTES + (n + 1) * SEALED_PIECE_BYTES] for n in (0, 1)
    )
    assert seal_of("a", header).open_piece(1, second) == bytes(PIECE_BYTES)
    for other in (
        seal_of("a", header).open_piece,  # the piece of another place
        seal_of("b", header).open_piece,  # of another object
        seal_of("a", header, uuid=b"v" * 16).open_piece,  # of another volume
        seal_of("a", SealHeader.random(1)).open_piece,  # of another attempt
    ):
        with pytest.raises(SealBroken):
            other(1, first)


def test_equal_objects_look_different() -> None:
    sealed = {seal_of("a", SealHeader.random(1)).seal(b"same")[HEADER_BYTES:] for _ in range(3)}
    assert len(sealed) == 3


def test_the_name_of_a_pack_tells_its_header() -> None:
    keys = ObjectKeys(KEYRING.rotated(NOW), UUID, CIPHERS[0])
    name = keys.name_content(b"bytes of a pack")
    header = SealHeader.in_name(f"packs/00000007/{name}")
    assert header is not None
    assert header.generation == 2
    assert header.salt.hex() == name
    assert SealHeader.in_name(f"pages/{name}") is None
    assert SealHeader.in_name(f"packs/00000007/{name}0") is None


def test_names_tell_nothing_without_the_key() -> None:
    other = ObjectKeys(Keyring.new(NOW), UUID, CIPHERS[0])
    mine = ObjectKeys(KEYRING, UUID, CIPHERS[0])
    assert mine.hash_content(b"known") != other.hash_content(b"known")
    assert mine.hash_content(b"known") == ObjectKeys(KEYRING.rotated(NOW), UUID, CIPHERS[0]).hash_content(b"known")


@given(st.integers(0, 1 << 40))
def test_padding_adds_little_and_hides_lengths(length: int) -> None:
    padded = padded_length(length)
    assert length <= padded <= length * 1.125 + 1
    assert padded_length(padded) == padded
    if length:
        kept = padded.bit_length() - (padded & -padded).bit_length() + 1
        assert kept <= length.bit_length().bit_length() + 1
