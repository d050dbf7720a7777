# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks in the disk cache of this machine, sealed so that a stolen disk shows nothing of them.

A block's file is sealed in pieces, so that any part can be read without the rest. `cas3fs.caches.sealed_format` says
how the file is laid out; here is what a piece is sealed with:

- the key is derived from the key of the disk cache (`ObjectKeys.disk_cache_key`), the block's hash and the file's
  header, which has 16 random bytes and the block's length;
- the nonce is the number of the piece.

So no key seals two files, and no nonce recurs with a key; a piece opens in its own place of its own file only.
"""

from functools import lru_cache
from typing import Final

from cas3fs.encryption.ciphers import SealingKey, derive, nonce_of
from cas3fs.values import Buffer

SALT_BYTES: Final = 16
"""The random bytes that the header of each file must have."""
_FILE: Final = "cas3fs v2 block file of the disk cache"
_FOLDER: Final = "cas3fs v2 folder of the disk cache"
_FOLDER_BYTES: Final = 8
_KEPT: Final = 256
"""For so many files the key is kept, as a file is mostly read in several parts; deriving it takes 6 µs."""


class BlockFileSeal:
    """Seals and opens the pieces of one file."""

    __slots__ = ("_key",)

    def __init__(self, key: SealingKey) -> None:
        self._key = key

    def seal(self, number: int, piece: Buffer) -> bytes:
        """A piece, sealed: 16 bytes longer."""
        return self._key.seal(nonce_of(number), piece)

    def open(self, number: int, sealed: Buffer) -> bytes:
        """The plain bytes of a piece.

        Raises:
            SealBroken: it is not piece `number` of this file.
        """
        return self._key.open(nonce_of(number), sealed)


class DiskCacheSeal:
    """Seals the blocks of one volume for the disk cache; thread-safe.

    Args:
        key: the key of the disk cache, 32 bytes.
        cipher: the volume's.
    """

    def __init__(self, key: bytes, cipher: str) -> None:
        self._key = key
        self._cipher = cipher
        self._of_file = lru_cache(_KEPT)(self._derived)
        self.folder: str = f"sealed-{derive(_FOLDER, key, length=_FOLDER_BYTES).hex()}"
        """The name of the folder for what is sealed with this key."""

    def of_file(self, block: bytes, header: bytes) -> BlockFileSeal:
        """What seals the file of a block, given by its hash.

        Args:
            block: the block's hash.
            header: the file's first bytes, `SALT_BYTES` random ones among them, new for each file.
        """
        return self._of_file(block, header)

    def _derived(self, block: bytes, header: bytes) -> BlockFileSeal:
        return BlockFileSeal(SealingKey(self._cipher, derive(_FILE, self._key, block, header)))
