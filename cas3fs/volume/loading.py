# SPDX-License-Identifier: GPL-3.0-or-later
"""The store of a volume, and the entry that records how the volume was made."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blocks.codec import Compression
from cas3fs.config import SecretSettings, StoreSettings
from cas3fs.encryption.ciphers import CIPHERS
from cas3fs.encryption.keyring import ObjectKeys
from cas3fs.entries.kinds import VOLUME_FORMAT, VOLUME_ID, EpochEntry, ForkEntry, SnapshotEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import (
    EntryError,
    ObjectMissing,
    UsageError,
    VolumeFormatError,
    VolumeMissing,
)
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore, open_store
from cas3fs.objectstores.wrappers.sealed import SealedStore
from cas3fs.units import GIB, MIB
from cas3fs.volume.key_reader import Unlocked
from cas3fs.volume.keys import UnlockedVolume, VolumeKeyStore
from cas3fs.volume.seen import SeenState

_log = logging.getLogger(__name__)
_MIN_PACK_BYTES = MIB
_MAX_PACK_BYTES = GIB


class StoredVolume(NamedTuple):
    """A volume in its store; the store gives the plain bytes of an encrypted one. The caller closes it."""

    store: ObjectStore
    entry: VolumeEntry
    keys: UnlockedVolume | None = None
    """Of an encrypted volume."""
    seen: SeenState | None = None
    """What was seen of it; None where it was not opened by `open_volume`."""

    def look(self) -> None:
        """Record what the store has now, after this process has changed it; raises as `open_volume`."""
        if self.seen is not None:
            self.seen.look()

    def note_keys(self, unlocked: Unlocked) -> None:
        """Record the root and the keyring that this process has put in place of those that it opened."""
        assert self.keys is not None
        self.keys.unlocked = unlocked
        if self.seen is not None:
            self.seen.note_keys()

    @property
    def object_keys(self) -> ObjectKeys | None:
        """The keys of an encrypted volume, as of now."""
        return None if self.keys is None else self.keys.object_keys

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def open_volume(settings: StoreSettings, metrics: Metrics, *, claims: bool = False) -> StoredVolume:
    """Opens a volume's store, loads its entry, and unlocks it where it is encrypted.

    Args:
        settings: of the store.
        metrics: where requests are counted.
        claims: whether this process goes on to claim the volume, see `SeenState.open`.

    Raises:
        UsageError, StoreError: the URL is wrong, or the store cannot be read.
        VolumeMissing, VolumeFormatError: there is no volume that can be used.
        KeysError: it is encrypted, and the secret is missing or wrong, or its keys are damaged.
        StoreRolledBack: this machine has seen a later state of it, or another volume there.
        StateConflict: the record of that is damaged.
    """
    store = open_volume_store(settings, metrics)
    try:
        seen = SeenState(settings)
        found = load_volume(store, settings.secrets, seen.check_entry)
        seen.open(found.store, found.keys, claims=claims)
        return found._replace(seen=seen)
    except BaseException:
        store.close()
        raise


def open_volume_store(settings: StoreSettings, metrics: Metrics) -> ObjectStore:
    """Opens the store of a volume as it is stored; the caller closes it.

    Raises:
        UsageError, StoreError: the URL is wrong, or the store does not exist.
    """
    return open_store(settings, metrics)


def warn_if_readable_by_others(store: ObjectStore) -> None:
    """Logs a warning if others can read a store in a directory; raises StoreError if that cannot be checked."""
    if warning := store.permission_warning():
        _log.warning("%s", warning)


def load_volume(
    store: ObjectStore,
    secrets: SecretSettings | None = None,
    check: Callable[[VolumeEntry], str] = lambda entry: "",
) -> StoredVolume:
    """Loads what was decided when the volume was made, and unlocks it where it is encrypted.

    Args:
        store: where the volume is.
        secrets: what opens it.
        check: called with its entry before it is opened; returns the id of the key entry to be tried first; may raise.

    Raises:
        VolumeMissing: there is none.
        VolumeFormatError: it was made by a newer cas3fs, or is damaged.
        KeysError: as `open_volume`.
        StoreError: the store cannot be read.
    """
    secrets = secrets or SecretSettings()
    entry, digest = _load_entry(store)
    if entry.conditional_writes:
        store.require_conditional_puts()
    prefer = check(entry)
    if entry.cipher is None:
        if secrets.is_given:
            raise UsageError(f"the volume at {store.url} is not encrypted, and a passphrase or a key was given for it")
        return StoredVolume(store, _with_fork_uuid(store, entry))
    unlocked = UnlockedVolume(VolumeKeyStore(store, entry, digest), secrets, store.url, prefer)
    sealed = SealedStore(store, unlocked.object_keys, unlocked.renew, unlocked.notice)
    return StoredVolume(sealed, _with_fork_uuid(sealed, entry.changed(label=unlocked.label)), unlocked)


def _load_entry(store: ObjectStore) -> tuple[VolumeEntry, str]:
    """The entry, checked, and the digest of its object."""
    try:
        entry, digest = Shelf(store).load_with_digest(VolumeEntry, VOLUME_ID)
    except ObjectMissing as error:
        if leftovers := describe_leftovers(store):
            raise VolumeMissing(leftovers) from error
        place = "; is its disk mounted?" if store.url.startswith("file:") else ";"
        raise VolumeMissing(f"there is no volume at {store.url}{place} `cas3fs mkfs {store.url}` makes one") from error
    except EntryError as error:
        raise VolumeFormatError(f"the volume at {store.url} cannot be read: {error}") from error
    if entry.format > VOLUME_FORMAT:
        raise VolumeFormatError(
            f"the volume at {store.url} has format {entry.format}, and this cas3fs knows formats up to "
            f"{VOLUME_FORMAT}: use a newer cas3fs"
        )
    try:
        check_sizes(entry.chunker, entry.block_size, entry.pack_size)
        Compression.parse(entry.compression)
    except UsageError as error:
        raise VolumeFormatError(f"the volume at {store.url} cannot be used: {error}") from error
    if entry.cipher is not None and entry.cipher not in CIPHERS:
        raise VolumeFormatError(f"the volume at {store.url} is encrypted with {entry.cipher}: use a newer cas3fs")
    return entry, digest


def _with_fork_uuid(store: ObjectStore, entry: VolumeEntry) -> VolumeEntry:
    """Returns the entry with the uuid that the volume was given as a fork, if it is one. Forks are read by name: a
    listing may be stale, and the uuid decides which local state is used."""
    shelf, number = Shelf(store), 1
    try:
        while shelf.exists(ForkEntry, ForkEntry.id_of(number)):
            entry = entry.changed(uuid=shelf.load(ForkEntry, ForkEntry.id_of(number)).uuid)
            number += 1
    except EntryError as error:
        raise VolumeFormatError(f"the identity of the volume at {store.url} cannot be read: {error}") from error
    return entry


def check_sizes(chunker: str, block_size: int, pack_size: int) -> None:
    """Raises UsageError if a volume cannot have blocks or packs of these sizes."""
    make_chunker(chunker, block_size)
    if not _MIN_PACK_BYTES <= pack_size <= _MAX_PACK_BYTES:
        raise UsageError(f"the pack size must be between 1MiB and 1GiB, not {pack_size} bytes")


def describe_leftovers(store: ObjectStore) -> str:
    """Returns a message if a store has objects of a volume and lacks the one that `mkfs` made; else an empty text.

    A new volume there would have their files and another identity, so what a machine has not stored yet would be
    ignored silently."""
    for folder in (EpochEntry.folder, SnapshotEntry.folder):
        for found in store.list(f"{folder}/"):
            return (
                f"{store.url} has objects of a volume, such as {found.key}, and lacks its object {VOLUME_ID!r}: put "
                "that back from a copy, or make a new volume in an empty place"
            )
    return ""
