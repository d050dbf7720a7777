# SPDX-License-Identifier: GPL-3.0-or-later
"""From the list of caches that a user named to the caches: what ``cas3fs mount --cache`` means.

The list is given fastest first. ``memory:SIZE`` may stand at its head only; it sets the size of the memory cache that
every mount has, and is no tier of its own. Kinds beyond those here come from installed packages, by entry points of the
group ``cas3fs.caches``: the entry point's name is the kind, and what it names is a `CacheFactory`. Such a cache is
contained (its faults are misses) and checked (unless it says that it verifies).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cas3fs.caches.base import BlockCache
from cas3fs.caches.disk import DiskCache
from cas3fs.caches.specs import CacheContext, CacheFactory, CacheSpec
from cas3fs.caches.tiered import TieredCache
from cas3fs.caches.wrappers import FaultTolerantCache
from cas3fs.errors import Cas3fsError, UsageError
from cas3fs.units import parse_size

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP: Final = "cas3fs.caches"
MEMORY: Final = "memory"


class CacheList(NamedTuple):
    """What a list of specs says."""

    memory_bytes: int | None
    """The size of the memory cache; None where the list does not tell."""
    tiers: tuple[CacheSpec, ...]
    """The caches beside it, fastest first."""


def parse_caches(texts: Sequence[str]) -> CacheList:
    """What the list says; nothing is opened, and no package is looked for.

    Raises:
        UsageError: it makes no sense.
    """
    specs = [CacheSpec.parse(text) for text in texts]
    memory_bytes = None
    if specs and specs[0].name == MEMORY:
        memory = specs.pop(0)
        memory.allow_options()
        memory_bytes = memory.argument_as(parse_size)
    for spec in specs:
        if spec.name == MEMORY:
            raise UsageError(f"{spec.text}: memory is the fastest cache, so it comes first, and once")
    if sum(spec.name == "disk" for spec in specs) > 1:
        raise UsageError("the list of caches names the disk twice")
    return CacheList(memory_bytes, tuple(specs))


def make_caches(specs: Sequence[CacheSpec], context: CacheContext) -> BlockCache | None:
    """The caches of the list as one; None for an empty list. Whoever calls this closes it.

    Raises:
        UsageError: a spec makes no sense, no package provides such a cache, or what does cannot be used.
    """
    tiers: list[BlockCache] = []
    try:
        for spec in specs:
            tiers.append(_make(spec, context, _free_name(spec.name, tiers)))
    except BaseException:
        for tier in tiers:
            tier.close()
        raise
    return TieredCache(tiers, metrics=context.metrics) if tiers else None


def kinds() -> list[str]:
    """The names of all kinds there are."""
    return sorted({MEMORY, *_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def entry_points(*, group: str) -> "EntryPoints":
    """As that of `importlib.metadata`, which is imported here, as a mount without such a cache need not wait for it."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def _free_name(kind: str, tiers: Sequence[BlockCache]) -> str:
    """The name of a tier in statistics: its kind, without dots, and a number if there are several."""
    base = kind.partition("+")[0].replace(".", "-")
    taken = {tier.name for tier in tiers}
    return next(name for name in (base, *(f"{base}-{number}" for number in range(2, 1000))) if name not in taken)


def _make(spec: CacheSpec, context: CacheContext, name: str) -> BlockCache:
    built_in = _BUILT_IN.get(spec.name)
    if built_in is not None:
        cache = built_in(spec, context)
        return cache if isinstance(cache, DiskCache) else FaultTolerantCache(cache, name, context.metrics)
    return FaultTolerantCache(_foreign(spec, context), name, context.metrics)


def _foreign(spec: CacheSpec, context: CacheContext) -> BlockCache:
    """A cache that some installed package makes."""
    points = entry_points(group=GROUP).select(name=spec.name)
    if not points:
        raise UsageError(f"{spec.text}: there is no cache {spec.name!r}; there are {', '.join(kinds())}")
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
        raise UsageError(f"{spec.text}: the package that provides it made no cache but a {type(cache).__name__}")
    return cache


def _make_disk(spec: CacheSpec, context: CacheContext) -> BlockCache:
    spec.allow_options("directory")
    directory = context.directory
    if "directory" in spec.options:
        directory = Path(spec.options["directory"]).absolute() / context.volume
    return DiskCache(directory, spec.argument_as(parse_size), metrics=context.metrics)


def _make_memcached(spec: CacheSpec, context: CacheContext) -> BlockCache:
    from cas3fs.caches.memcached import MemcachedCache

    return MemcachedCache.from_spec(spec, context)


def _make_web(spec: CacheSpec, context: CacheContext) -> BlockCache:
    from cas3fs.caches.web import WebCache

    return WebCache.from_spec(spec, context)


_BUILT_IN: Final[Mapping[str, Callable[[CacheSpec, CacheContext], BlockCache]]] = {
    "disk": _make_disk,
    "memcached": _make_memcached,
    "web+http": _make_web,
    "web+https": _make_web,
}
