# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs of an encrypted volume: damage costs what is in its piece, and reading takes no more requests than usual."""

import random

import pytest

from cas3fs.blocks.codec import Compression, encode
from cas3fs.blocks.packs import PackBuilder
from cas3fs.blockstore import BlockReader
from cas3fs.blockstore.pack_store import PackStore, pack_key, pack_name
from cas3fs.caches.memory import MemoryCache
from cas3fs.encryption.sealing import HEADER_BYTES, SEALED_PIECE_BYTES
from cas3fs.errors import BlockCorrupt, PackCorrupt
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.wrappers import MeasuredStore
from cas3fs.objectstores.wrappers.sealed import SealedStore
from cas3fs.testing.store_damage import corrupt_object, truncate_object
from cas3fs.values import BlockHash, BlockLocation
from tests.encrypted import KEYS

BLOCK_BYTES = 20 * 1024
COUNT = 16
PLAIN = [random.Random(number).randbytes(BLOCK_BYTES) for number in range(COUNT)]


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def store(inner: MemoryStore, metrics: Metrics) -> SealedStore:
    return SealedStore(MeasuredStore(inner, metrics), KEYS)


@pytest.fixture
def blocks(store: SealedStore) -> list[BlockLocation]:
    return put_pack(store)


def put_pack(store: ObjectStore) -> list[BlockLocation]:
    builder = PackBuilder(store.name_content, pads=store.pads)
    for plain in PLAIN:
        builder.add(BlockHash(store.hash_content(plain)), encode(plain, Compression.parse("none")), len(plain))
    pack = builder.finish()
    name = pack_name(1, pack.name)
    store.put_if_absent(pack_key(name), pack.body)
    return [BlockLocation(one.hash, name, *one[1:]) for one in pack.blocks]


def can_be_read(reader: BlockReader, block: BlockLocation) -> bool:
    """Whether the block can be read, and then it is right."""
    try:
        plain = reader.read(block, 0, BLOCK_BYTES)
    except BlockCorrupt:
        return False
    assert plain == next(one for one in PLAIN if KEYS.hash_content(one) == block.hash)
    return True


@pytest.mark.promise("every-block-is-verified")
@pytest.mark.parametrize("ahead", [False, True], ids=["alone", "ahead"])
def test_a_damaged_piece_costs_only_the_blocks_in_it(
    inner: MemoryStore, store: SealedStore, blocks: list[BlockLocation], ahead: bool
) -> None:
    damaged = 3
    corrupt_object(inner, pack_key(blocks[0].pack), HEADER_BYTES + damaged * SEALED_PIECE_BYTES + 100)
    lost: set[BlockLocation] = set()
    reader = BlockReader(store, MemoryCache(1 << 30), None, metrics=Metrics())
    reader.on_lost_block(lost.add)
    try:
        if ahead:
            reader.prefetch(blocks)
        readable = [can_be_read(reader, block) for block in blocks]
    finally:
        reader.close()
    start, end = damaged * 65536, (damaged + 1) * 65536
    assert readable == [one.offset + one.stored_length <= start or one.offset >= end for one in blocks]
    assert 0 < readable.count(False) < 6
    assert lost == {block for block, is_readable in zip(blocks, readable, strict=True) if not is_readable}


def test_a_table_of_contents_is_read_with_one_request(
    store: SealedStore, blocks: list[BlockLocation], metrics: Metrics
) -> None:
    name = blocks[0].pack
    size_bytes = store.head(pack_key(name)).size
    before = metrics.snapshot()["store.requests"]
    assert list(PackStore(store).get_contents(name, size_bytes)) == blocks
    assert metrics.snapshot()["store.requests"] == before + 1


@pytest.mark.parametrize("kept", [0, 100, HEADER_BYTES + 2 * SEALED_PIECE_BYTES, HEADER_BYTES + SEALED_PIECE_BYTES + 9])
def test_the_table_of_a_truncated_pack_is_damaged(
    inner: MemoryStore, store: SealedStore, blocks: list[BlockLocation], kept: int
) -> None:
    name = blocks[0].pack
    size_bytes = store.head(pack_key(name)).size
    truncate_object(inner, pack_key(name), kept)
    with pytest.raises(PackCorrupt):
        PackStore(store).get_contents(name, size_bytes)
