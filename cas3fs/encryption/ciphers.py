# SPDX-License-Identifier: GPL-3.0-or-later
"""The ciphers that a volume can be encrypted with, and derivation of keys.

Both are AEADs with keys of 32 bytes, nonces of 12 and tags of 16 (RFC 5116, RFC 8439): AES-256-GCM where the processor
has instructions for AES, and ChaCha20-Poly1305, which is several times faster where it has not. mkfs chooses; every
machine can read both.

Keys are derived by BLAKE3 in the mode for that (``derive_key`` of the BLAKE3 paper, section 6.2): a context, which
names the purpose and is used for nothing else, and the key material, in which each field is preceded by its length.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3

from cas3fs.values import Buffer

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
NO_NONCE: Final = bytes(NONCE_BYTES)
"""For a key that seals one thing only."""

AES_256_GCM: Final = "aes-256-gcm"
CHACHA20_POLY1305: Final = "chacha20-poly1305"
_CPU_INFO: Final = Path("/proc/cpuinfo")


class Aead(Protocol):
    """One key of a cipher; thread-safe."""

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        """`data`, encrypted, and the tag."""

    def encrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /) -> int:
        """The same into `buf`, which has exactly that length."""

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        """The plain bytes.

        Raises:
            cryptography.exceptions.InvalidTag: they were not encrypted with this key, nonce and associated data.
        """

    def decrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /) -> int:
        """The same into `buf`, which has exactly that length, and is of no use after an exception."""


class SealBroken(Exception):
    """The bytes are not what was sealed with that key at that place."""


def _aes_256_gcm(key: bytes) -> Aead:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _chacha20_poly1305(key: bytes) -> Aead:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


_CIPHERS: Final[Mapping[str, Callable[[bytes], Aead]]] = {
    AES_256_GCM: _aes_256_gcm,
    CHACHA20_POLY1305: _chacha20_poly1305,
}
CIPHERS: Final = tuple(_CIPHERS)
"""The names of all ciphers."""


def fastest_cipher(cpu_info: Path = _CPU_INFO) -> str:
    """The name of the cipher that is fastest on this machine."""
    try:
        words = cpu_info.read_text().split()
    except OSError:
        return AES_256_GCM
    return AES_256_GCM if "aes" in words else CHACHA20_POLY1305


class SealingKey:
    """One key of one cipher, for bytes whose nonces the caller makes unique; thread-safe.

    Args:
        cipher: the name of the cipher, one of `CIPHERS`.
        key: 32 bytes.
    """

    __slots__ = ("_aead",)

    def __init__(self, cipher: str, key: bytes) -> None:
        self._aead = _CIPHERS[cipher](key)

    def seal(self, nonce: bytes, plain: Buffer, bound: bytes = b"") -> bytes:
        """`plain`, encrypted, and a tag; opening it takes the same nonce and the same `bound`."""
        return self._aead.encrypt(nonce, plain, bound)

    def seal_into(self, nonce: bytes, plain: Buffer, into: memoryview, bound: bytes = b"") -> None:
        """As `seal`, into memory of exactly the length of the result."""
        self._aead.encrypt_into(nonce, plain, bound, into)

    def open(self, nonce: bytes, sealed: Buffer, bound: bytes = b"") -> bytes:
        """What was sealed.

        Raises:
            SealBroken: it was not sealed with this key, nonce and `bound`, or was changed.
        """
        if len(sealed) < TAG_BYTES:
            raise SealBroken
        try:
            return self._aead.decrypt(nonce, sealed, bound)
        except _invalid_tag():
            raise SealBroken from None

    def open_into(self, nonce: bytes, sealed: Buffer, into: memoryview, bound: bytes = b"") -> None:
        """As `open`, into memory of exactly the length of the result.

        Raises:
            SealBroken: as `open` does; what is in `into` then is not to be believed.
        """
        if len(sealed) < TAG_BYTES:
            raise SealBroken
        try:
            self._aead.decrypt_into(nonce, sealed, bound, into)
        except _invalid_tag():
            raise SealBroken from None


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def derive(context: str, *fields: Buffer, length: int = KEY_BYTES) -> bytes:
    """A key of `length` bytes for the purpose `context` from `fields`, of which at least one is secret."""
    hasher = blake3(derive_key_context=context)
    for field in fields:
        hasher.update(len(field).to_bytes(8, "big")).update(field)
    return hasher.digest(length)


def derive_committed(context: str, *fields: Buffer) -> tuple[bytes, bytes]:
    """A key as of `derive`, and a commitment to it of 32 bytes.

    The commitment is stored beside what the key seals, and compared before that is opened: AES-GCM alone lets one
    ciphertext have two keys that open it.
    """
    derived = derive(context, *fields, length=2 * KEY_BYTES)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def nonce_of(number: int) -> bytes:
    """The nonce of the piece of that number, where a key seals one sequence of pieces only."""
    return number.to_bytes(NONCE_BYTES, "big")
