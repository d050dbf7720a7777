# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes caches from the specs of ``cas3fs mount --cache``.

The list is ordered, fastest first. ``memory:SIZE`` may only come first; it sets the size of the memory cache that every
mount has, and does not add a tier. Installed packages may provide further kinds, by entry points of the group
``cas3fs.caches``: the entry point's name is the kind, and it refers to a `CacheFactory`. Such a cache is wrapped so
that its faults are misses, and its blocks are checked unless it verifies them itself.

In an encrypted volume, every cache but memory and disk is wrapped once more, and is given sealed blocks
(`cas3fs.caches.sealed`); the disk cache seals its own if it is to.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from cas3fs.caches.base import BlockCache, accept_any
from cas3fs.caches.disk import DiskCache
from cas3fs.caches.sealed import SealedCache
from cas3fs.caches.specs import SEALED, CacheContext, CacheFactory, CacheSpec
from cas3fs.caches.tiered import TieredCache
from cas3fs.caches.wrappers import FaultTolerantCache
from cas3fs.encryption.disk_cache import DiskCacheSeal
from cas3fs.encryption.shared_caches import SharedCacheSeal
from cas3fs.errors import Cas3fsError, UsageError
from cas3fs.units import parse_size

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP: Final = "cas3fs.caches"
MEMORY: Final = "memory"
DISK: Final = "disk"


class CacheList(NamedTuple):
    """The parsed list of specs."""

    memory_bytes: int | None
    """The size of the memory cache; None if the list does not contain it."""
    tiers: tuple[CacheSpec, ...]
    """The other caches, fastest first."""


class CacheSeals(NamedTuple):
    """The seals for cached blocks of an encrypted volume."""

    shared: SharedCacheSeal
    """For caches outside this machine."""
    disk: DiskCacheSeal | None = None
    """For the disk cache; None leaves it plain."""


def parse_caches(texts: Sequence[str]) -> CacheList:
    """Parse a list of specs; opens nothing and searches no packages.

    Raises:
        UsageError: the list is invalid.
    """
    specs = [CacheSpec.parse(text) for text in texts]
    memory_bytes = None
    if specs and specs[0].name == MEMORY:
        memory = specs.pop(0)
        memory.allow_options()
        memory_bytes = memory.argument_as(parse_size)
    for spec in specs:
        if spec.name == MEMORY:
            raise UsageError(f"{spec.text}: the memory cache must come first, and only once")
    if sum(spec.name == DISK for spec in specs) > 1:
        raise UsageError("the list of caches has the disk twice")
    return CacheList(memory_bytes, tuple(specs))


def make_caches(
    specs: Sequence[CacheSpec], context: CacheContext, seals: CacheSeals | None = None
) -> BlockCache | None:
    """Make one cache of all tiers; None for an empty list. The caller closes it.

    Args:
        specs: the tiers, fastest first.
        context: of the volume.
        seals: of an encrypted volume.

    Raises:
        UsageError: a spec is invalid, no package provides its kind, or the package does not work.
    """
    tiers: list[BlockCache] = []
    try:
        for spec in specs:
            tiers.append(_make(spec, context, _unique_name(spec.name, tiers), seals))
    except BaseException:
        for tier in tiers:
            tier.close()
        raise
    return TieredCache(tiers, metrics=context.metrics, check=context.check) if tiers else None


def cache_kinds() -> list[str]:
    """Return the names of all available kinds."""
    return sorted({MEMORY, DISK, *_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def entry_points(*, group: str) -> "EntryPoints":
    """Call `importlib.metadata.entry_points`; imported here because most mounts do not need it."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def _unique_name(kind: str, tiers: Sequence[BlockCache]) -> str:
    """Return the name of a tier in statistics: its kind, without dots, and a number if there are several."""
    base = kind.partition("+")[0].replace(".", "-")
    taken = {tier.name for tier in tiers}
    return next(name for name in (base, *(f"{base}-{number}" for number in range(2, 1000))) if name not in taken)


def _make(spec: CacheSpec, context: CacheContext, name: str, seals: CacheSeals | None) -> BlockCache:
    if spec.name == DISK:
        return _make_disk(spec, context, seals and seals.disk)
    outside = context if seals is None else attrs.evolve(context, volume=SEALED, check=accept_any)
    cache = FaultTolerantCache(_BUILT_IN.get(spec.name, _make_from_package)(spec, outside), name, context.metrics)
    return cache if seals is None else SealedCache(cache, seals.shared, context.check, context.metrics)


def _make_from_package(spec: CacheSpec, context: CacheContext) -> BlockCache:
    """Make a cache that an installed package provides."""
    points = entry_points(group=GROUP).select(name=spec.name)
    if not points:
        raise UsageError(f"{spec.text}: there is no cache {spec.name!r}; available: {', '.join(cache_kinds())}")
    try:
        factory: CacheFactory = next(iter(points)).load()
        cache = factory(spec, context)
    except Cas3fsError:
        raise
    except Exception as error:
        raise UsageError(f"{spec.text}: {type(error).__name__}: {error}") from error
    if not isinstance(cache, BlockCache):
        with suppress(AttributeError):
            cache.close()
        raise UsageError(f"{spec.text}: its package made a {type(cache).__name__} instead of a BlockCache")
    return cache


def _make_disk(spec: CacheSpec, context: CacheContext, seal: DiskCacheSeal | None) -> BlockCache:
    spec.allow_options("directory")
    directory = context.directory
    if "directory" in spec.options:
        directory = Path(spec.options["directory"]).absolute() / context.volume
    return DiskCache(
        directory,
        spec.argument_as(parse_size),
        metrics=context.metrics,
        check=context.check,
        seal=seal,
        removes_others=True,
    )


def _make_memcached(spec: CacheSpec, context: CacheContext) -> BlockCache:
    from cas3fs.caches.memcached import MemcachedCache

    return MemcachedCache.from_spec(spec, context)


def _make_web(spec: CacheSpec, context: CacheContext) -> BlockCache:
    from cas3fs.caches.web import WebCache

    return WebCache.from_spec(spec, context)


_BUILT_IN: Final[Mapping[str, Callable[[CacheSpec, CacheContext], BlockCache]]] = {
    "memcached": _make_memcached,
    "web+http": _make_web,
    "web+https": _make_web,
}
