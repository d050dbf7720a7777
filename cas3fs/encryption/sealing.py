# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of a sealed object.

All numbers are big-endian and unsigned. An object of n plain bytes::

    header, 48 bytes
      0     8   magic ``CAS3SEAL``
      8     2   format version, 1
      10    2   generation of the key
      12    4   zero
      16    32  salt
    pieces 0, 1, 2 ... of 65,536 plain bytes each, sealed: 65,552 bytes
    the last piece: the n mod 65,536 bytes that remain, sealed: 16 to 65,551 bytes

The key of an object is derived from the generation's key, the volume's uuid, the object's key (its name) and the salt.
The nonce of a piece is its number, as 12 bytes; the header is bound to each piece (associated data). As every object
has a key of its own and its pieces are numbered, no nonce recurs, whatever the volume's size; and a piece stands for no
other one: not for another of the same object, nor for one of another object, kind or volume.

The last piece is always shorter than the others. So an object that was cut off, even between two pieces, is noticed by
whoever reads its end, and a piece is read without knowing where the object ends.

Salts: packs have the salt in their name, which is a hash of their plain bytes, 16 random ones among them
(`ObjectKeys.name_content`): generation and salt are known before the first request, so that one ranged GET reads a
block. The same name means the same bytes, so a second attempt to store a pack writes what the first one wrote. All
other objects have 32 random bytes, new at each attempt.
"""

import re
import secrets
import struct
from typing import Final, NamedTuple

from cas3fs.encryption.ciphers import TAG_BYTES, SealBroken, SealingKey, nonce_of
from cas3fs.encryption.result_buffer import ResultBuffer
from cas3fs.values import Buffer

PIECE_BYTES: Final = 64 * 1024
SEALED_PIECE_BYTES: Final = PIECE_BYTES + TAG_BYTES
FORMAT_VERSION: Final = 1
SALT_BYTES: Final = 32

_MAGIC: Final = b"CAS3SEAL"
_HEADER: Final = struct.Struct(">8sHH4x32s")
HEADER_BYTES: Final = _HEADER.size
_PACK_KEY: Final = re.compile(r"packs/[0-9]{8,}(?:\.[0-9]{4,})?/([0-9a-f]{64})\Z")


class SealHeader(NamedTuple):
    """What tells the key of an object, beside its name."""

    generation: int
    salt: bytes

    def encode(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(_MAGIC, FORMAT_VERSION, self.generation, self.salt)

    @classmethod
    def decode(cls, stored: Buffer) -> "SealHeader":
        """The header at the beginning of a sealed object.

        Raises:
            SealBroken: there is none, or one of a newer format.
        """
        if len(stored) < HEADER_BYTES:
            raise SealBroken
        magic, version, generation, salt = _HEADER.unpack_from(stored)
        header = cls(generation, salt)
        if magic != _MAGIC or version != FORMAT_VERSION or header.encode() != bytes(stored[:HEADER_BYTES]):
            raise SealBroken
        return header

    @classmethod
    def random(cls, generation: int) -> "SealHeader":
        """A header with a new salt."""
        return cls(generation, secrets.token_bytes(SALT_BYTES))

    @classmethod
    def in_name(cls, key: str) -> "SealHeader | None":
        """The header of a pack, which its name tells; None for any other object."""
        match = _PACK_KEY.match(key)
        if match is None:
            return None
        salt = bytes.fromhex(match[1])
        return cls(int.from_bytes(salt[:2], "big"), salt)


class PieceSpan(NamedTuple):
    """The pieces that contain a range of plain bytes."""

    first: int
    pieces: int

    @classmethod
    def of(cls, start: int, length: int) -> "PieceSpan":
        """Those of `length` bytes from `start` on."""
        first = start // PIECE_BYTES
        return cls(first, (start + length - 1) // PIECE_BYTES - first + 1)

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self.first + self.pieces - 1

    @property
    def stored_start(self) -> int:
        """Offset of the first piece in the object."""
        return HEADER_BYTES + self.first * SEALED_PIECE_BYTES


class ObjectSeal:
    """Seals or opens one object.

    Args:
        key: the object's key.
        header: the object's header.
    """

    __slots__ = ("_header", "_key")

    def __init__(self, key: SealingKey, header: SealHeader) -> None:
        self._key = key
        self._header = header.encode()

    def seal(self, plain: Buffer) -> bytes:
        """The whole object."""
        view = memoryview(plain)
        stored = ResultBuffer(sealed_size(len(view)))
        stored.view[:HEADER_BYTES] = self._header
        for number in range(len(view) // PIECE_BYTES + 1):
            piece = view[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            start = HEADER_BYTES + number * SEALED_PIECE_BYTES
            into = stored.view[start : start + len(piece) + TAG_BYTES]
            self._key.seal_into(nonce_of(number), piece, into, self._header)
        return stored.finish()

    def open(self, stored: Buffer) -> bytes:
        """The plain bytes of a whole object.

        Raises:
            SealBroken: any byte was changed, or the object was cut off.
        """
        view = memoryview(stored)
        size = plain_size(len(view))
        if bytes(view[:HEADER_BYTES]) != self._header or size is None:
            raise SealBroken
        plain = ResultBuffer(size)
        self.open_pieces_into(0, view[HEADER_BYTES:], plain.view)
        return plain.finish()

    def open_piece(self, number: int, sealed: Buffer) -> bytes:
        """The plain bytes of a piece.

        Raises:
            SealBroken: it is not piece `number` of this object.
        """
        return self._key.open(nonce_of(number), sealed, self._header)

    def open_pieces_into(self, first: int, sealed: memoryview, into: memoryview) -> None:
        """Open the pieces from number `first` on into memory that is as long as their plain bytes.

        Raises:
            SealBroken: they are not these pieces; what is in `into` then is not to be believed.
        """
        header, open_into = self._header, self._key.open_into
        for number, start in enumerate(range(0, len(sealed), SEALED_PIECE_BYTES)):
            piece = into[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            open_into(nonce_of(first + number), sealed[start : start + SEALED_PIECE_BYTES], piece, header)


def sealed_size(plain_bytes: int) -> int:
    """The size of an object with so many plain bytes."""
    return HEADER_BYTES + plain_bytes + (plain_bytes // PIECE_BYTES + 1) * TAG_BYTES


def plain_size(stored_bytes: int) -> int | None:
    """How many plain bytes an object of that size has; None if no sealed object has that size."""
    whole, rest = divmod(stored_bytes - HEADER_BYTES, SEALED_PIECE_BYTES)
    return None if whole < 0 or rest < TAG_BYTES else whole * PIECE_BYTES + rest - TAG_BYTES
