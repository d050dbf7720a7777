# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks in caches outside this machine: their names, and how they are sealed.

Whoever runs such a cache sees a name and a value. The name is keyed BLAKE3 of the block's hash, 32 bytes, with the key
of shared caches (`ObjectKeys.cache_key`); it has nothing of the volume. The value::

    offset  size  field
    0       1     version, 1
    1       12    nonce, random
    13      m+16  sealed, with its tag: m = padded_length(4 + L) bytes

and what is sealed, the number being big-endian::

    0       4     length L of the block
    4       L     the block's plain bytes
    4+L     rest  zeros

The key is derived from the key of shared caches and the name, and the version is bound to it (associated data). So a
value opens under the name that it was sealed for, and nowhere else. Nonces are random although a name stands for one
block: machines may run other versions, which pad or encode differently. At 12 random bytes, 2^32 values under one name
would have one chance in 2^33 to repeat a nonce, with the same bytes then.

AES-GCM alone lets those who have the key make one value with two meanings. The reader compares the hash of the plain
bytes with the block that it wanted; that is left to it, since only it has the block's hash.

The server learns how often and when which name is stored and read, and roughly how long the blocks are. After a
rotation of the keys all names are others: blocks are misses, and what was stored before is never asked for again.
"""

import secrets
from typing import Final

from blake3 import blake3

from cas3fs.encryption.ciphers import NONCE_BYTES, TAG_BYTES, SealBroken, SealingKey, derive
from cas3fs.encryption.padding import padded_length
from cas3fs.values import Buffer

_BLOCK: Final = "cas3fs v2 block in a shared cache"
_VERSION: Final = b"\x01"
_LENGTH_BYTES: Final = 4
_HEADER_BYTES: Final = len(_VERSION) + NONCE_BYTES
OVERHEAD_BYTES: Final = _HEADER_BYTES + TAG_BYTES
"""What a value has beside the padded block and its length."""


class SharedCacheSeal:
    """Names, seals and opens blocks for shared caches; thread-safe.

    Args:
        key: the key of shared caches, 32 bytes.
        cipher: the volume's.
    """

    def __init__(self, key: bytes, cipher: str) -> None:
        self._key = key
        self._cipher = cipher

    def name_of(self, block: bytes) -> bytes:
        """The name of a block, given by its hash; 32 bytes."""
        return blake3(block, key=self._key).digest()

    def seal(self, name: bytes, plain: Buffer) -> bytes:
        """The value of the block that is called `name`; another one each time."""
        return self.seal_with(secrets.token_bytes(NONCE_BYTES), name, plain)

    def seal_with(self, nonce: bytes, name: bytes, plain: Buffer) -> bytes:
        """The same with a nonce of the caller, who must not use it twice."""
        length = _LENGTH_BYTES + len(plain)
        padded = b"".join((len(plain).to_bytes(_LENGTH_BYTES, "big"), plain, bytes(padded_length(length) - length)))
        return b"".join((_VERSION, nonce, self._key_of(name).seal(nonce, padded, _VERSION)))

    def open(self, name: bytes, value: Buffer) -> bytes:
        """The plain bytes in a value; the caller compares their hash with the block that it wanted.

        Raises:
            SealBroken: the value was not sealed under that name with this key, or was changed.
        """
        view = memoryview(value)
        if len(view) < OVERHEAD_BYTES + _LENGTH_BYTES or bytes(view[:1]) != _VERSION:
            raise SealBroken
        padded = self._key_of(name).open(bytes(view[1:_HEADER_BYTES]), view[_HEADER_BYTES:], _VERSION)
        length = int.from_bytes(padded[:_LENGTH_BYTES], "big")
        if len(padded) != padded_length(_LENGTH_BYTES + length):
            raise SealBroken
        return padded[_LENGTH_BYTES : _LENGTH_BYTES + length]

    def _key_of(self, name: bytes) -> SealingKey:
        return SealingKey(self._cipher, derive(_BLOCK, self._key, name))
