# SPDX-License-Identifier: GPL-3.0-or-later
"""New packs of blocks that are stored already, or once more."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cas3fs.blockstore.pack_store import PackStore
from cas3fs.maintenance.context import VolumeContext
from cas3fs.values import BlockHash, StoredPack

Item = TypeVar("Item")


def grouped_by_pack(
    items: Iterable[Item], size_of: Callable[[Item], int], pack_size_bytes: int
) -> Iterator[list[Item]]:
    """The items in groups, each of which fits in a pack of that size; an item that is larger is a group by itself."""
    group: list[Item] = []
    size_bytes = 0
    for item in items:
        if group and size_bytes + size_of(item) > pack_size_bytes:
            yield group
            group, size_bytes = [], 0
        group.append(item)
        size_bytes += size_of(item)
    if group:
        yield group


def put_pack(
    context: VolumeContext, pack_store: PackStore, blocks: Iterable[tuple[BlockHash, bytes, int]]
) -> StoredPack:
    """Puts a pack of blocks, after a check that no other writer has taken over.

    Args:
        blocks: the hash, the encoded bytes and the plain length of each.

    Raises:
        Fenced: another writer has taken over; nothing is stored.
        StoreError: the pack could not be stored.
    """
    builder = pack_store.builder()
    for block, encoded, plain_length in blocks:
        builder.add(block, encoded, plain_length)
    pack = builder.finish()
    context.publisher.check_fence()
    return pack_store.put(pack, pack_store.new_name(pack, context.epoch))
