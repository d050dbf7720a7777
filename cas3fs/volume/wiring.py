# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a file system from an index, the rows of staging, a store, and the volume's parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blocks.codec import Compression
from cas3fs.blockstore.reader import BlockReader
from cas3fs.blockstore.writer import BlockWriter
from cas3fs.caches.base import BlockCache, check_by
from cas3fs.caches.memory import MemoryCache
from cas3fs.caches.registry import CacheSeals, make_caches, parse_caches
from cas3fs.caches.specs import CacheContext
from cas3fs.config import WriterSettings
from cas3fs.encryption.disk_cache import DiskCacheSeal
from cas3fs.encryption.keyring import ObjectKeys
from cas3fs.encryption.shared_caches import SharedCacheSeal
from cas3fs.entries.kinds import VolumeEntry
from cas3fs.filesystem import FileSystem, FileSystemSettings, Staging
from cas3fs.index import Index, StagingIndex
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.values import StoredPack


class WiredFileSystem(NamedTuple):
    """A file system that is not started yet, and the caches, which must be closed after it."""

    filesystem: FileSystem
    cache: BlockCache | None


def wire(
    volume: VolumeEntry,
    store: ObjectStore,
    index: Index,
    rows: StagingIndex,
    *,
    staging_dir: Path,
    cache_dir: Path,
    epoch: int,
    settings: WriterSettings,
    metrics: Metrics,
    keys: ObjectKeys | None,
) -> WiredFileSystem:
    """Builds the file system; closing it closes index, reader and writer. `keys` are those of an encrypted volume.

    Raises:
        UsageError: the list of caches is invalid, or the cache folder cannot be used.
    """
    listed = parse_caches(settings.caches or default_caches(settings))
    context = CacheContext(str(volume.uuid), cache_dir, metrics, check_by(store.hash_content))
    cache = make_caches(listed.tiers, context, None if keys is None else _cache_seals(keys, settings.encrypt_local))
    memory = MemoryCache(settings.memory_cache_bytes if listed.memory_bytes is None else listed.memory_bytes)
    # a volume on this machine's disk gains nothing from writing everything to that disk a second time
    is_near = store.url.startswith("file:")
    staging_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    def make_writer(on_stored: Callable[[StoredPack], None]) -> BlockWriter:
        return BlockWriter(
            store,
            epoch=epoch,
            pack_size_bytes=volume.pack_size,
            compression=Compression.parse(volume.compression),
            on_stored=on_stored,
            metrics=metrics,
        )

    filesystem = FileSystem(
        index,
        Staging(staging_dir, rows, limit_bytes=settings.staging_size_bytes, memory_bytes=settings.staging_memory_bytes),
        BlockReader(
            store,
            memory,
            cache,
            metrics=metrics,
            pack_size_bytes=volume.pack_size,
            near_store=is_near and not settings.caches,
        ),
        make_writer,
        make_chunker(volume.chunker, volume.block_size),
        FileSystemSettings(
            pack_bytes=volume.pack_size,
            cache_writes=not is_near,
            read_only=settings.read_only,
        ),
        metrics,
    )
    return WiredFileSystem(filesystem, cache)


def _cache_seals(keys: ObjectKeys, encrypt_local: bool) -> CacheSeals:
    disk = DiskCacheSeal(keys.disk_cache_key(), keys.cipher) if encrypt_local else None
    return CacheSeals(SharedCacheSeal(keys.cache_key(), keys.cipher), disk)


def default_caches(settings: WriterSettings) -> tuple[str, ...]:
    """Returns the list of caches if the settings name none."""
    return (f"disk:{settings.cache_size_bytes}",) if settings.cache_size_bytes else ()
