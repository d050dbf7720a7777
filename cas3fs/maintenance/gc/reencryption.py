# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a re-encryption: what is still sealed with older generations of the keys, and dropping these.

A gc that re-encrypts rewrites each pack in use that is sealed with an older generation (`compaction`), and publishes a
snapshot, whose pages are all sealed with the newest one. What remains:

- *content*: packs, pages and manifests that retained snapshots need; they go with these snapshots, by the retention
  policy or by hand. Also unreferenced objects within the grace period, and what a writer that was taken over may need.
- *records*: epochs with their releases and bases, retention policies, forks. They stay for good, and are never written
  again, since their names are what they say: a number that was claimed once.

A generation is dropped from the keyring when no content is sealed with it. The records keep keys of their own there, a
key for each, from which no other key follows. Then the older keyrings are deleted, which have the generation too.

What proves that nothing is left: the names of all packs of the index, also of dead ones; the pages that all manifests
name; a complete listing after all deletions; and the epochs by their numbers, which have no gaps. Nothing is dropped
while a pack is in flight, or while a writer that was taken over has not released: its packs may still be needed.

Where the process may die: before the new keyring is stored, nothing has changed; after it, older keyrings are left,
which the next gc of that kind deletes. A process on another machine that opened the volume before can read all that
there is, as it has more keys than it needs. One that seals with an older generation is not the writer: this one is.
A writer reads the keyring again after its claim, and before each snapshot.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import attrs

from cas3fs.blockstore.pack_store import pack_key
from cas3fs.entries.kinds import EpochEntry, ForkEntry, PagesEntry, PolicyEntry, SnapshotEntry
from cas3fs.epochs.epoch_entries import epoch_number, is_foreign_key
from cas3fs.index import ordinal_of
from cas3fs.index.scans import DeadPackScan, PackScan
from cas3fs.maintenance.context import KeyGenerations, ProgressCallback, VolumeContext
from cas3fs.maintenance.gc.deletion import batches
from cas3fs.snapshots.manifests import SnapshotInfo

_WORKERS: Final = 8
_RECORDS: Final = (EpochEntry.prefix(), PolicyEntry.prefix(), ForkEntry.prefix())
_PACKS: Final = "packs/"
_MOST_LOOKED_UP: Final = 10_000


@attrs.define
class _Found:
    """The objects that are sealed with older generations."""

    generations: set[int] = attrs.field(factory=set)
    """Of content."""
    content: dict[str, int] = attrs.field(factory=dict)
    """Sizes of pages, manifests and others, by key."""
    pack_bytes: int = 0
    packs: int = 0
    records: dict[int, list[str]] = attrs.field(factory=lambda: defaultdict(list))
    """Keys by generation."""


@attrs.frozen
class Reencryption:
    """What a re-encryption has left. The attributes are the keys of ``--json``.

    Attributes:
        left_objects, left_bytes: content that is sealed with older generations.
        snapshots: the snapshots that need some of it, with how many bytes each needs.
        other_bytes: of that which no snapshot needs.
        records: how many records are sealed with older generations, or were.
        dropped: the generations that are not in the keyring any more.
        kept: the older ones that still are.
        waits: why nothing was dropped although no snapshot is in the way; else empty.
    """

    left_objects: int
    left_bytes: int
    snapshots: tuple[Mapping[str, Any], ...]
    other_bytes: int
    records: int
    dropped: tuple[int, ...]
    kept: tuple[int, ...]
    waits: str = ""


def finish_reencryption(context: VolumeContext, keys: KeyGenerations, report: ProgressCallback) -> dict[str, Any]:
    """Drop the generations of the keys that no content is sealed with; gives `Reencryption` as JSON has it.

    To be called while nobody else publishes, after everything was deleted that can be.

    Raises:
        Fenced: another writer has taken over.
        SnapshotError: a manifest cannot be read.
        StoreError: the store failed.
    """
    older = frozenset(keys.older)
    report({"what": "looking for older keys"})
    found = _find(context, older)
    known = _generations_of_known_packs(context) & older
    held, held_bytes = _held_by_snapshots(context, older, found)
    overruled = sorted(context.epochs.overruled())
    waits = _waits(overruled)
    droppable = () if overruled else tuple(sorted(older - found.generations - known))
    if droppable:
        records = {key: context.store.sealing_key_of(key) for one in droppable for key in found.records[one]}
        context.publisher.check_fence()
        keys.drop(droppable, records)
    if not keys.older:
        keys.forget_older_keyrings()
    left_bytes = found.pack_bytes + sum(found.content.values())
    done = Reencryption(
        left_objects=found.packs + len(found.content),
        left_bytes=left_bytes,
        snapshots=tuple({"snapshot": one, "bytes": size} for one, size in held.items() if size),
        other_bytes=max(left_bytes - held_bytes, 0),
        records=sum(map(len, found.records.values())),
        dropped=droppable,
        kept=tuple(keys.older),
        waits=waits if older else "",
    )
    return attrs.asdict(done)


def _waits(overruled: Sequence[int]) -> str:
    if not overruled:
        return ""
    return (
        f"what the writer of epoch {overruled[0]}, which was taken over, has stored may be needed by `cas3fs rescue`: "
        "`cas3fs epochs --release` gives it up"
    )


def _find(context: VolumeContext, older: frozenset[int]) -> _Found:
    """Everything in the store that is sealed with older generations."""
    found, store = _Found(), context.store
    epochs: set[int] = set()
    if not older:
        return found
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="reencryption") as pool:
        for batch in batches(store.list()):
            generations = pool.map(lambda info: store.generation_of(info.key), batch)
            for info, generation in zip(batch, generations, strict=True):
                if info.key.startswith(EpochEntry.prefix()) and not is_foreign_key(info.key):
                    epochs.add(epoch_number(info.key))
                if generation in older:
                    _add(found, info.key, info.size, generation)
        unlisted = [EpochEntry.key_of(f"{one:08d}") for one in _recent(context.epoch) if one not in epochs]
        for key, generation in zip(unlisted, pool.map(store.generation_of, unlisted), strict=True):
            if generation in older:
                _add(found, key, 0, generation)
    return found


def _recent(epoch: int) -> range:
    """The numbers of earlier epochs that are looked up by name if they are not listed."""
    return range(max(1, epoch - _MOST_LOOKED_UP), epoch)


def _add(found: _Found, key: str, size: int, generation: int) -> None:
    if key.startswith(_RECORDS):
        found.records[generation].append(key)
        return
    found.generations.add(generation)
    if key.startswith(_PACKS):
        found.packs += 1
        found.pack_bytes += size
    else:
        found.content[key] = size


def _generations_of_known_packs(context: VolumeContext) -> frozenset[int]:
    """The generations of all packs that the index knows, or that are being stored."""
    filesystem, store = context.filesystem, context.store
    filesystem.commit()
    found = {store.generation_of(pack_key(name)) for name in filesystem.unrecorded_packs()}
    with PackScan(filesystem.index_path) as packs:
        for pack in packs:
            found.add(store.generation_of(pack_key(pack.name)))
    return frozenset(found)


def _held_by_snapshots(context: VolumeContext, older: frozenset[int], found: _Found) -> tuple[Mapping[str, int], int]:
    """How many bytes each snapshot needs of content that is sealed with older generations, and all of them together."""
    snapshots = context.archive.list()
    held = {one.id: _own_bytes(one, found.content) for one in snapshots}
    needed = {key for one in snapshots for key in keys_of_snapshot(one) if key in found.content}
    held_bytes = sum(found.content[key] for key in needed)
    ordinals = [ordinal_of(one.number) for one in snapshots]
    with DeadPackScan(context.filesystem.index_path) as dead:
        for pack in dead:
            if context.store.generation_of(pack_key(pack.name)) not in older:
                continue
            holding = snapshots[bisect_left(ordinals, pack.born) : bisect_left(ordinals, pack.died)]
            for one in holding:
                held[one.id] += pack.size
            held_bytes += pack.size if holding else 0
    return held, held_bytes


def keys_of_snapshot(snapshot: SnapshotInfo) -> Iterable[str]:
    """The keys of its manifest and of the pages entries that it needs."""
    yield SnapshotEntry.key_of(snapshot.id)
    for use in snapshot.pages:
        yield PagesEntry.key_of(use.id)


def _own_bytes(snapshot: SnapshotInfo, content: Mapping[str, int]) -> int:
    return sum(content.get(key, 0) for key in keys_of_snapshot(snapshot))
