# SPDX-License-Identifier: GPL-3.0-or-later
"""Create a volume."""

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from cas3fs.blocks.codec import Compression
from cas3fs.config import StoreSettings, VolumeSettings
from cas3fs.durable import sync_folder
from cas3fs.encryption.ciphers import fastest_cipher
from cas3fs.entries.bodies import encode_body
from cas3fs.entries.kinds import ALL_KINDS, ENCRYPTED_FORMAT, PLAIN_FORMAT, VOLUME_ID, VolumeEntry
from cas3fs.entries.shelf import Shelf, digest_of
from cas3fs.errors import (
    AccessDenied,
    EntryError,
    ObjectExists,
    ObjectMissing,
    StoreError,
    StoreRefused,
    TransientStoreError,
    VolumeExists,
)
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore, parse_url, probe_create_if_absent
from cas3fs.volume.keys import VolumeKeyStore
from cas3fs.volume.loading import check_sizes, describe_leftovers, open_volume_store, warn_if_readable_by_others
from cas3fs.volume.secret_source import read_new_secret
from cas3fs.volume.seen import record_new_volume

_OWN_NAMES = frozenset({VOLUME_ID, "probe", "damaged", *(kind.folder for kind in ALL_KINDS if kind.folder)})
"""What a volume's keys begin with."""


def create_volume(store_settings: StoreSettings, settings: VolumeSettings) -> dict[str, Any]:
    """Makes a volume: nothing but its entry; the first mount begins with an empty index. Gives what ``--json`` prints.

    Raises:
        UsageError: a setting makes no sense.
        VolumeExists: there is a volume already, or what is left of one, or the place lies among the objects of one.
        StoreRefused: the store ignores conditional writes, and that was not allowed.
        StoreError: the store cannot be reached or written.
    """
    entry = _new_entry(settings)
    with _missing_folder_made(store_settings), closing(open_volume_store(store_settings, Metrics())) as store:
        _refuse_existing(store)
        _refuse_inside_another(store_settings)
        if settings.group_readable:
            store.share_with_group()
        warn_if_readable_by_others(store)
        entry = entry.changed(fenced=_check_conditional_writes(store, settings))
        fingerprint = _create_keys(store, entry, store_settings, settings.label) if settings.encrypt else None
        try:
            Shelf(store).save(entry)
        except ObjectExists as error:
            raise VolumeExists(f"there is a volume at {store.url} already") from error
        record_new_volume(store_settings, str(entry.uuid), fingerprint)
        return {
            "url": store.url,
            "uuid": str(entry.uuid),
            "chunker": entry.chunker,
            "block_size": entry.block_size,
            "pack_size": entry.pack_size,
            "compression": entry.compression,
            "label": settings.label,
            "fenced": entry.conditional_writes,
            "cipher": entry.cipher,
            "fingerprint": fingerprint,
        }


@contextmanager
def _missing_folder_made(settings: StoreSettings) -> Iterator[None]:
    """The folder of a volume in a directory exists; if it was made here and mkfs fails, it is removed.

    Only the last part of the path is made: if the one above it is missing too, a disk may not be mounted.
    """
    where = parse_url(settings.url)
    folder = Path(where.place)
    if where.scheme != "file" or folder.exists() or not folder.parent.is_dir():
        yield
        return
    try:
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
    except OSError as error:
        raise AccessDenied(f"{folder} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        for empty, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                os.rmdir(empty)  # noqa: PTH106
        raise


def _new_entry(settings: VolumeSettings) -> VolumeEntry:
    check_sizes(settings.chunker, settings.block_size_bytes, settings.pack_size_bytes)
    return VolumeEntry(
        uuid=uuid.uuid4(),
        format=ENCRYPTED_FORMAT if settings.encrypt else PLAIN_FORMAT,
        created=datetime.now(UTC),
        chunker=settings.chunker,
        block_size=settings.block_size_bytes,
        pack_size=settings.pack_size_bytes,
        compression=str(Compression.parse(settings.compression)),
        label="" if settings.encrypt else settings.label,
        cipher=fastest_cipher() if settings.encrypt else None,
    )


def _create_keys(store: ObjectStore, entry: VolumeEntry, settings: StoreSettings, label: str) -> str:
    """Stores the keys of a volume whose entry is stored next; returns the fingerprint of the root."""
    keys = VolumeKeyStore(store, entry, digest_of(encode_body(entry, b"")))
    secret = read_new_secret(settings.secrets, f"new passphrase of {store.url}")
    return keys.fingerprint(keys.create(secret, "made by mkfs", label).root)


def _refuse_existing(store: ObjectStore) -> None:
    try:
        store.head(VolumeEntry.key_of(VOLUME_ID))
    except ObjectMissing:
        if leftovers := describe_leftovers(store):
            raise VolumeExists(leftovers) from None
        return
    raise VolumeExists(f"there is a volume at {store.url} already")


def _refuse_inside_another(settings: StoreSettings) -> None:
    """Raises VolumeExists where a volume keeps its own objects: its gc and fsck would meet what they do not know."""
    for outer, name in parse_url(settings.url).parents():
        if name in _OWN_NAMES and _is_volume(attrs.evolve(settings, url=str(outer))):
            raise VolumeExists(f"{settings.url} lies among the objects of the volume at {outer}: choose another place")


def _is_volume(settings: StoreSettings) -> bool:
    """Whether a volume is there, as far as one may look."""
    try:
        with closing(open_volume_store(settings, Metrics())) as store:
            Shelf(store).load(VolumeEntry, VOLUME_ID)
    except TransientStoreError:
        raise
    except (StoreError, EntryError):
        return False
    return True


def _check_conditional_writes(store: ObjectStore, settings: VolumeSettings) -> bool:
    conditional_writes = probe_create_if_absent(store)
    if not conditional_writes and not settings.allow_unfenced:
        raise StoreRefused(
            f"the store of {store.url} ignores conditional writes, so it cannot keep two machines from writing at the "
            "same time; --allow-unfenced makes the volume all the same"
        )
    return conditional_writes
