# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted volumes where a test asks for them; the docstring of tests/conftest.py says how it does.

An encrypted session or test has the variable of the key file in its environment, so that every process that opens a
volume finds the key. What makes volumes asks this module whether they are to be encrypted.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from cas3fs.config import KEY_FILE_VARIABLE, StoreSettings, VolumeSettings
from cas3fs.encryption.ciphers import fastest_cipher
from cas3fs.encryption.keyring import Keyring, ObjectKeys
from cas3fs.encryption.sealing import PIECE_BYTES, PieceSpan
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.wrappers.sealed import SealedStore
from cas3fs.volume.loading import load_volume, open_volume

KEYS: Final = ObjectKeys(Keyring.new(datetime(2026, 1, 1, tzinfo=UTC)), b"u" * 16, fastest_cipher())
"""The keys of volumes that have no entry, in a store in memory."""
USUAL: Final = VolumeSettings()


def is_encrypted() -> bool:
    """Whether volumes are to be encrypted."""
    return KEY_FILE_VARIABLE in os.environ


def write_key_file(path: Path) -> None:
    """Writes a key that is the same in every session: a test that fails does so again."""
    path.write_bytes(bytes(range(32)))


def chosen(settings: VolumeSettings = USUAL) -> VolumeSettings:
    """The settings of a volume, encrypted or not."""
    return attrs.evolve(settings, encrypt=is_encrypted())


def mkfs_option() -> str:
    """The option of ``cas3fs mkfs``."""
    return "--encrypt" if is_encrypted() else "--no-encrypt"


def sealed_if_chosen(store: ObjectStore) -> ObjectStore:
    """The plain objects of a store in which there is no volume's entry."""
    return SealedStore(store, KEYS) if is_encrypted() else store


def plain_store(settings: StoreSettings) -> ObjectStore:
    """The plain objects of a volume, encrypted or not."""
    return open_volume(settings, Metrics()).store


def unsealed(store: ObjectStore) -> ObjectStore:
    """The plain objects of the volume in that store, encrypted or not."""
    return load_volume(store).store


def stored_offset(plain_offset: int) -> int:
    """Where a plain byte of an object lies in it as it is stored; in an encrypted one it is not that byte alone."""
    return PieceSpan.of(plain_offset, 1).stored_start + plain_offset % PIECE_BYTES if is_encrypted() else plain_offset
